"""Streams: how soon the first token comes, how many deltas are relayed, what an idle stream
takes."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from statistics import median
from urllib.parse import urlsplit

from benchmarks.bench import Bench, Row
from benchmarks.load import Ask
from benchmarks.ours import our_server
from benchmarks.population import Owner, populate
from benchmarks.processes import Child, rss_bytes

_STREAMS = 5_000
_DELTA_BYTES = 20
_SEND, _RESUME = "/api/chat/message/stream", "/api/chat/message/resume"


def run(bench: Bench) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    changes = {"CHATCONFIG__REPLY_DEADLINE_S": 600, "LLMCONFIG__MAX_REPLY_CHARS": 10_000_000}
    with our_server(bench, "streams", "stub", **changes) as server:
        owners = asyncio.run(populate(server.url, accounts=16, rooms=8))
        asyncio.run(_first_token(bench, server, owners))
        asyncio.run(_deltas(bench, server, owners))
        asyncio.run(_idle(bench, server, owners))


async def _first_token(bench: Bench, server: Child, owners: Sequence[Owner]) -> None:
    taken_ms = []
    asks = [
        _ask(owner.token, room_id, {"chunks": 1})
        for owner in owners
        for room_id in owner.room_ids[:4]
    ]
    for ask in asks:
        begun_s = time.perf_counter()
        async with _stream(server, ask) as reader:
            await reader.readuntil(b"event: reply.delta\n")
            taken_ms.append((time.perf_counter() - begun_s) * 1e3)
            await reader.read()
    work = "first token of a stream, over the model's own"
    bench.add(
        Row(
            work,
            median(taken_ms),
            "ms",
            target=3,
            bound="at most",
            note="one at a time, client included",
        )
    )


async def _deltas(bench: Bench, server: Child, owners: Sequence[Owner]) -> None:
    chunks = int(2100 * bench.seconds)
    plan = {"chunks": chunks, "bytes": _DELTA_BYTES, "pause_s": 0}
    asks = [_ask(owner.token, room_id, plan) for owner in owners for room_id in owner.room_ids[:4]]

    async def relay(ask: Ask) -> int:
        async with _stream(server, ask) as reader:
            received = await reader.read()
        assert b"event: reply.done" in received, received[-300:]
        # The last event repeats the whole text; what is judged is what the deltas take.
        return received.index(b"event: reply.done")

    before_s, begun_s = server.cpu_s(), time.monotonic()
    received = sum(await asyncio.gather(*map(relay, asks)))
    elapsed_s, cpu_s = time.monotonic() - begun_s, server.cpu_s() - before_s
    deltas = chunks * len(asks)
    work = f"deltas of {_DELTA_BYTES} bytes relayed, {len(asks)} streams"
    bench.add(Row(work, deltas / elapsed_s, "deltas/s", cpu_s / deltas * 1e3, target=20_000))
    over_text = received / (deltas * _DELTA_BYTES)
    bench.add(
        Row(
            "bytes on the wire over the text, in deltas",
            over_text,
            "times",
            target=3,
            bound="at most",
        )
    )


async def _idle(bench: Bench, server: Child, owners: Sequence[Owner]) -> None:
    """Readers of replies that say one word and think for a long time."""
    replies = []
    for owner in owners:
        for room_id in owner.room_ids[4:]:
            async with _stream(
                server, _ask(owner.token, room_id, {"chunks": 2, "pause_s": 300})
            ) as reader:
                event = await reader.readuntil(b"\n\n")
            data = json.loads(event.partition(b"data: ")[2])
            replies.append(
                Ask(_RESUME, owner.token, {"room_id": room_id, "message_id": data["message_id"]})
            )
    await asyncio.sleep(1)
    before = rss_bytes(server.pid)
    asks = (replies * (_STREAMS // len(replies) + 1))[:_STREAMS]
    writers: list[asyncio.StreamWriter] = []

    async def join(ask: Ask) -> None:
        reader, writer = await _open(server, ask)
        writers.append(writer)
        await reader.readuntil(b"event: reply.delta\n")

    for first in range(0, _STREAMS, 250):
        await asyncio.gather(*map(join, asks[first : first + 250]))
    await asyncio.sleep(1)
    assert len(os.listdir(f"/proc/{server.pid}/fd")) > _STREAMS, "some of them were closed"
    kib = (rss_bytes(server.pid) - before) / _STREAMS / 1024
    for writer in writers:
        writer.transport.abort()
    bench.add(
        Row(
            f"{_STREAMS:,} idle streams in one process, each",
            kib,
            "KiB",
            target=30,
            bound="at most",
        )
    )


def _ask(token: str, room_id: str, plan: Mapping[str, object]) -> Ask:
    return Ask(_SEND, token, {"room_id": room_id, "content": json.dumps(plan)})


@asynccontextmanager
async def _stream(server: Child, ask: Ask) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await _open(server, ask)
    try:
        yield reader
    finally:
        writer.close()


async def _open(server: Child, ask: Ask) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A response whose head is read."""
    body = json.dumps(ask.fields).encode()
    address = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=2**26)
    head = (
        f"POST {ask.path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {ask.token}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    answered = await reader.readuntil(b"\r\n\r\n")
    assert answered.startswith(b"HTTP/1.1 200"), answered
    return reader, writer

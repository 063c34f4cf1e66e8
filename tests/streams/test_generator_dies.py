"""The process that writes a reply dies, stands still or is stopped in the middle; who reads goes on
at another one."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import aiohttp
import pytest

from tests.backends_mariadb import DatabaseBackend
from tests.backends_redis import RedisServer
from tests.openai_stub import OpenAIStub, Reply
from tests.streams.conftest import Player, Servers, start_servers
from tests.streams.test_streams import CHUNKS, take
from tests.waiting import PATIENCE_S, until

DEATHS = 3
REPLIES = 18
"""At each death: 54 replies in all die at a moment of chance."""
SEED = int(os.environ.get("STREAMS_SEED", "7"))
WHOLE = "".join(CHUNKS)


@pytest.fixture(scope="module")
def servers(redis_server: RedisServer, shared_mariadb: DatabaseBackend) -> Iterator[Servers]:
    """Two processes; one that is silent for three seconds counts as dead."""
    with ExitStack() as stack:
        yield start_servers(
            stack, redis_server, shared_mariadb, 2, workers=1, reply_lease_s=3, sweep_interval_s=0.2
        )


async def enter_rooms(
    servers: Servers, http: aiohttp.ClientSession, base_url: str, count: int
) -> list[Player]:
    players = [Player(http, base_url) for _ in range(count)]
    for player in players:
        await player.enter(servers)
    return players


async def read_until_death(player: Player) -> tuple[str, int]:
    """A stream to its end, whatever that is: the text that came, the last id."""
    text, offset = "", 0
    try:
        async with player.stream("tell me") as events:
            async for event in events:
                offset = event.id
                text += event.data.get("text", "")
    except (aiohttp.ClientError, AssertionError):
        pass  # cut off, perhaps in the middle of an event
    return text, offset


async def test_replies_of_a_killed_process_end_once_with_their_text(
    servers: Servers, http: aiohttp.ClientSession, provider: OpenAIStub
) -> None:
    """Replies of a killed process end once with what was said and their rooms go on."""
    chance = random.Random(SEED)
    killed = 0
    for _ in range(DEATHS):
        players = await enter_rooms(servers, http, servers.here, REPLIES)
        provider.requests.clear()
        # Half of them have no end: on a slow machine the others are over when the last has begun.
        provider.script(
            *(
                Reply(CHUNKS, delay_s=chance.uniform(0.005, 0.03), hang=n % 2 == 0)
                for n in range(len(players))
            )
        )
        reading = [asyncio.create_task(read_until_death(player)) for player in players]
        await until(lambda: provider.calls == REPLIES)
        await asyncio.sleep(chance.uniform(0, 0.6))  # the moment is what is random here
        servers.all[0].kill()
        parts = await asyncio.gather(*reading)
        sent = ["".join(CHUNKS[: call.tokens_sent]) for call in provider.requests]
        for player, (text, offset) in zip(players, parts, strict=True):
            reply_id = (await player.messages(servers.elsewhere))[1]["message_id"]
            async with (
                asyncio.timeout(PATIENCE_S),
                player.resume(reply_id, offset, servers.elsewhere) as events,
            ):
                rest, seen = await take(events)
            final = seen[-1].data["message"]
            assert final["content"] == text + rest, f"seed {SEED}"
            assert any(whole.startswith(final["content"]) for whole in sent), f"seed {SEED}"
            killed += final["metadata"]["finish_reason"] == "interrupted"
        provider.script(*(Reply(["again"]) for _ in players))
        for player in players:
            again = {"room_id": player.room_id, "content": "and now?"}
            assert (await player.at(servers.elsewhere).ok("/api/chat/message/send", **again))[
                "message"
            ]["content"]
            listed = await player.messages(servers.elsewhere)
            assert [message["is_streaming"] for message in listed] == [False] * 4
            assert WHOLE.startswith(listed[1]["content"])
        assert provider.calls == 2 * REPLIES, "a reply that was begun is never asked for again"
        servers.all[0].start()
    assert killed > DEATHS * REPLIES / 3, "hardly any reply was in its middle"


@pytest.fixture
def lone(redis_server: RedisServer, shared_mariadb: DatabaseBackend) -> Iterator[Servers]:
    """One process: nobody else can take up what it leaves."""
    with ExitStack() as stack:
        yield start_servers(
            stack, redis_server, shared_mariadb, 1, reply_lease_s=3, sweep_interval_s=0.2
        )


async def test_a_question_that_waits_outlives_its_server_and_is_asked_once(
    lone: Servers, http: aiohttp.ClientSession
) -> None:
    (server,) = lone.all
    player = Player(http, lone.here)
    await player.enter(lone)

    def send(content: str) -> Coroutine[None, None, dict[str, Any]]:
        fields = {
            "room_id": player.room_id,
            "content": content,
            "client_message_id": f"id-of-{content}",
        }
        return player.at(lone.here).ok("/api/chat/message/send", on_busy="queue", **fields)

    async def contents() -> list[str]:
        return [message["content"] for message in await player.messages(lone.here)]

    async def is_written_down(expected: list[str]) -> bool:
        return await contents() == expected

    async with OpenAIStub(lone.provider_port) as provider:
        provider.script(Reply(["half "], hang=True), Reply(["whole"]))
        first = asyncio.create_task(send("one"))
        await until(lambda: is_written_down(["one", "half "]))
        second = asyncio.create_task(send("two"))
        await until(lambda: is_written_down(["one", "half ", "two", ""]))
        server.kill()
        cut = await asyncio.gather(first, second, return_exceptions=True)
        assert all(isinstance(error, aiohttp.ClientError) for error in cut), cut

        server.start()
        await until(lambda: is_written_down(["one", "half ", "two", "whole"]))
        ends = [
            message["metadata"].get("finish_reason") for message in await player.messages(lone.here)
        ]
        assert ends == [None, "interrupted", None, "stop"]
        again, listed = await send("two"), await player.messages(lone.here)
        assert again["message"] | {"state": ""} == listed[3] | {"state": ""}
        assert [call.messages[-1]["content"] for call in provider.requests] == ["one", "two"]


async def test_a_process_that_stood_still_past_its_lease_says_nothing_more(
    servers: Servers, http: aiohttp.ClientSession, provider: OpenAIStub
) -> None:
    player, at_home = Player(http, servers.here), Player(http, servers.elsewhere)
    await player.enter(servers)
    await at_home.enter(servers)
    at_home.room_id = player.room_id
    # Without an end: on a slow machine it would be over before the process wakes.
    provider.script(Reply(CHUNKS, delay_s=0.02, hang=True))
    pid = servers.all[0].pid
    async with player.stream("tell me") as events:
        reply_id = (await anext(events)).data["message_id"]
        async with at_home.resume(reply_id, 0) as others:
            while (await anext(others)).id < 100:
                pass
            os.kill(pid, signal.SIGSTOP)
            try:
                rest, seen = await take(others)
            finally:
                os.kill(pid, signal.SIGCONT)
        final = seen[-1].data["message"]
        assert (seen[-1].name, final["metadata"]["finish_reason"]) == (
            "reply.stopped",
            "interrupted",
        )
        assert final["content"].endswith(rest)
        # It goes on as if nothing had been, finds out, and leaves the provider.
        _, woken = await take(events)
    assert woken[-1].data["message"] | {"state": ""} == final | {"state": ""}
    await until(lambda: provider.requests[0].closed_by_client)
    for base_url in (servers.here, servers.elsewhere):
        listed = await player.messages(base_url)
        assert [message["content"] for message in listed] == ["tell me", final["content"]]
        assert listed[1]["metadata"] == final["metadata"]
    async with at_home.resume(reply_id, 0) as events:
        text, seen = await take(events)
    assert (text, len([event for event in seen if event.is_last])) == (final["content"], 1)


async def test_draining_server_sends_readers_on_and_ends_its_replies(
    servers: Servers, http: aiohttp.ClientSession, provider: OpenAIStub
) -> None:
    """A server that drains sends its readers on and ends its own replies."""
    mine, theirs = await enter_rooms(servers, http, servers.here, 2)
    provider.script(Reply(["of mine "], hang=True), Reply(CHUNKS, delay_s=0.02))
    async with mine.stream("one") as own, AsyncExitStack() as later:
        own_id = (await anext(own)).data["message_id"]
        await anext(own)  # the first call has its reply: the next one is the other's
        there = await later.enter_async_context(theirs.stream("two", servers.elsewhere))
        reply_id = (await anext(there)).data["message_id"]
        async with theirs.resume(reply_id, 0) as guest:
            await anext(guest)
            servers.all[0].signal(signal.SIGTERM)
            left = [event async for event in guest]
        assert not any(event.is_last for event in left), (
            "its reply goes on elsewhere, and so can its reader"
        )
        _, ended = await take(own)
        assert ended[-1].data["message"]["metadata"]["finish_reason"] == "interrupted"
        assert await asyncio.to_thread(servers.all[0].wait) == 0
        async with theirs.resume(reply_id, left[-1].id if left else 0, servers.elsewhere) as events:
            await take(events)
        text, _ = await take(there)
    assert text == WHOLE
    async with mine.resume(own_id, 0, servers.elsewhere) as events:
        assert (await take(events))[0] == "of mine "
    servers.all[0].start()

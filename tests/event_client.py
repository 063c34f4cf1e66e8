"""A client of the streaming routes: Server-Sent Events as the standard has them, and a parser that
trusts nothing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

LAST = ("reply.done", "reply.stopped", "reply.error")


@dataclass(frozen=True)
class Event:
    name: str
    id: int
    data: dict[str, Any]

    @property
    def is_last(self) -> bool:
        return self.name in LAST


def parse_event(block: str) -> Event | None:
    """One block between blank lines; None for a comment. Anything that is not id, event and one
    line of data fails."""
    if block.startswith(":"):
        assert "\n" not in block, block
        return None
    lines = block.split("\n")
    assert [line.partition(": ")[0] for line in lines] == ["id", "event", "data"], block
    event_id, name, data = (line.partition(": ")[2] for line in lines)
    assert len(data.splitlines()) == 1, data
    return Event(name, int(event_id), json.loads(data))


async def read_events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """The events as they come, until the connection ends. A carriage return would be a line break:
    there is none."""
    waiting = b""
    async for some in response.content.iter_any():
        waiting += some
        assert b"\r" not in waiting
        *blocks, waiting = waiting.split(b"\n\n")
        for block in blocks:
            if (event := parse_event(block.decode())) is not None:
                yield event
    assert not waiting, f"cut in the middle of an event: {waiting!r}"


@asynccontextmanager
async def streaming(
    http: aiohttp.ClientSession,
    url: str,
    token: str | None,
    headers: dict[str, str] | None = None,
    **fields: Any,
) -> AsyncIterator[AsyncIterator[Event]]:
    """The events of a request that is accepted."""
    authorization = {"Authorization": f"Bearer {token}"} if token else {}
    async with http.post(url, json=fields, headers=authorization | (headers or {})) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8", (
            await response.text()
        )
        assert response.headers["Cache-Control"] == "no-cache"
        assert response.headers["X-Accel-Buffering"] == "no"
        yield read_events(response)

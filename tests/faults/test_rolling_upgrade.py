"""The version before and this one side by side: an upgrade and a downgrade while players play.

``make rolling`` plays for a minute in each direction, ``make test`` for a few seconds.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.backends_mariadb import DatabaseBackend, PreparedMariaDb, mariadb_settings
from tests.event_client import Event, streaming
from tests.faults.checker import check_everything
from tests.faults.harness import FaultServer, play_during
from tests.faults.older_version import unpack_older_version
from tests.faults.shared_harness import SharedHarness, create_user, shared_harness
from tests.load_clients import Player
from tests.server_process import ROOT, Client

SIDE_BY_SIDE_S = float(os.environ.get("ROLLING_S", "4"))
"""So long both versions serve, in each direction."""
_WORD_S = 0.1
"""Before each word of a reply: so it lasts while it is read and stopped at the other version."""

CHANGES = {"CHATCONFIG__REPLY_LEASE_S": 10}
"""No server is killed, and a slow one keeps its replies."""
Events = AsyncIterator[Event]


@pytest.fixture
def older_source() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="v-") as folder:
        yield unpack_older_version(Path(folder))


@pytest.fixture
async def harness(
    older_source: Path, prepared_mariadb: PreparedMariaDb, tmp_path: Path
) -> AsyncIterator[SharedHarness]:
    """A server of the older version and one of this, both stopped, over empty databases."""
    with prepared_mariadb.running_copy() as copy:
        assert copy.server is not None
        settings = mariadb_settings(copy.server)
        for name in (settings.database, *(shard.database for shard in settings.shards)):
            copy.server.sql(f"CREATE DATABASE {name}")
        backend = DatabaseBackend("mariadb", settings, tmp_path, copy.server)
        create_user(backend)
        async with shared_harness(
            backend, tmp_path, "rolling", sources=(older_source, ROOT), **CHANGES
        ) as harness:
            yield harness


async def test_rolling_upgrade_and_downgrade_lose_nothing(harness: SharedHarness) -> None:
    older, newer = harness.servers
    load_clients = [harness.player(seed, number=seed) for seed in range(3)]
    await harness.manage("db", "apply", server=older)
    await older.start()
    await asyncio.gather(*(player.sign_in() for player in load_clients))
    with harness.provider.pausing(_WORD_S):
        await harness.manage("db", "apply", server=newer)
        await replace(harness, older, newer, load_clients)
        await harness.manage("db", "apply", "--downgrade", server=older)
        await replace(harness, newer, older, load_clients)
    assert sum(player.acknowledged for player in load_clients) > 10, "nobody did anything"


async def replace(
    harness: SharedHarness, old: FaultServer, new: FaultServer, load_clients: list[Player]
) -> None:
    """``old`` serves, then both, then ``new``, while all play; at the end all is checked."""

    async def deed() -> None:
        await new.start()
        end_s = time.monotonic() + SIDE_BY_SIDE_S
        ways = [
            (here, there, stops)
            for here, there in ((old, new), (new, old))
            for stops in (False, True)
        ]
        await asyncio.gather(*(follow_replies(harness, *way, end_s) for way in ways))
        await old.stop()

    await play_during(load_clients, deed, harness.findings)
    both = harness.servers
    harness.servers = [new]
    await check_everything(harness, load_clients)
    harness.servers = both
    try:
        harness.findings.raise_if_any()
    except AssertionError as error:
        for server in both:
            error.add_note(server.process.log[-6000:])
        raise


async def follow_replies(
    harness: SharedHarness, here: FaultServer, there: FaultServer, stops: bool, end_s: float
) -> None:
    """A new account asks ``here``; ``there`` streams, perhaps stops, and lists the same replies."""
    player = harness.player(seed=0, number=9)
    harness.guests.append(player)
    player.pin(here.process.base_url)
    await player.sign_in()
    while not player.rooms or time.monotonic() < end_s:
        await player.act(player.creating())
        await follow_reply(harness, player, list(player.rooms)[-1], there, stops=stops)
    player.pin(None)


async def follow_reply(
    harness: SharedHarness, player: Player, room_id: str, there: FaultServer, *, stops: bool
) -> None:
    record = player.rooms[room_id]
    text = player.nonce()
    elsewhere = Client(harness.http, there.process.base_url)
    elsewhere.token = player.client.token

    def stream(client: Client, kind: str, **fields: Any) -> AbstractAsyncContextManager[Events]:
        url = f"{client.base_url}/api/chat/message/{kind}"
        return streaming(harness.http, url, client.token, room_id=room_id, **fields)

    async with stream(player.client, "stream", content=text) as events:
        accepted = (await anext(events)).data
        record.sent.append(text)
        record.ids[text] = accepted["user_message"]["message_id"]
        reply_id = accepted["message_id"]
        async with stream(elsewhere, "resume", message_id=reply_id) as followed:
            first = await anext(followed)
            if stops:
                fields = {"room_id": room_id, "message_id": reply_id}
                await elsewhere.ok("/api/chat/message/stop", **fields)
            there_read = [first] + [event async for event in followed]
        here_read = [event async for event in events]
    assert reply_of(here_read) == reply_of(there_read)
    # On a slow machine a reply has ended before it is stopped.
    assert here_read[-1].name in ("reply.done", "reply.stopped" if stops else "reply.done")
    for client in (player.client, elsewhere):
        page = await client.ok("/api/chat/messages", room_id=room_id)
        question, reply = page["messages"]
        assert (question["content"], question["seq"], reply["seq"]) == (text, 1, 2)
        assert without_state(reply) == reply_of(here_read)[1]


def reply_of(events: list[Event]) -> tuple[str, dict[str, Any]]:
    """The text that was streamed, and the message at its end."""
    text = "".join(event.data.get("text", "") for event in events)
    message = without_state(events[-1].data["message"])
    assert text == message["content"]
    return text, message


def without_state(message: dict[str, Any]) -> dict[str, Any]:
    """Without what changes when the message is written to the database."""
    return {name: value for name, value in message.items() if name != "state"}

"""At the backlog limit sends, new rooms and new titles are 503 and nothing of them is written; all else goes on."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.backends_mariadb import PreparedMariaDb
from tests.faults.checker import check_everything
from tests.faults.shared_world import SharedWorld, shared_world
from tests.players import uuid7

LIMIT = 6


@pytest.fixture
async def small_world(prepared_mariadb: PreparedMariaDb) -> AsyncIterator[SharedWorld]:
    """One server up, whose streams hold few events."""
    with (
        tempfile.TemporaryDirectory(prefix="f-") as folder,
        prepared_mariadb.running_copy() as backend,
    ):
        async with shared_world(
            backend, Path(folder), "backlog", servers=1, QUEUECONFIG__MAX_BACKLOG=LIMIT
        ) as world:
            yield world


async def test_a_full_backlog_answers_503_and_leaves_nothing_half_written(
    small_world: SharedWorld,
) -> None:
    world = small_world
    player = world.player(1)
    await player.sign_in()
    await player.act(player.creating())
    (room_id,) = player.rooms
    await player.act(player.sending(room_id))
    await world.settled()
    world.mariadb.kill()
    try:
        while world.waiting_events() < LIMIT:
            await player.act(player.sending(room_id))
        before = _keys(world)
        refused = await _post(
            world,
            player.client.token,
            "message/send",
            room_id=room_id,
            content="x",
            client_message_id=uuid7(),
        )
        assert refused == (503, 5003)
        assert await _post(world, player.client.token, "room/create", ai_persona="DEMO") == (
            503,
            5003,
        )
        assert await _post(
            world, player.client.token, "room/update", room_id=room_id, new_title="t"
        ) == (503, 5003)
        assert _keys(world) == before, "a refused write left something behind"
        ready = await _ready(world)
        assert ready == 503
        # Deleting and the end of a reply are never refused: there are no more of them than of what was accepted.
        await player.act(player.deleting_message(room_id))
        assert world.waiting_events() == LIMIT + 1
    finally:
        await asyncio.to_thread(world.mariadb.start)
    await world.settled()
    await player.act(player.sending(room_id))
    await check_everything(world, [player])
    world.findings.raise_if_any()


def _keys(world: SharedWorld) -> dict[str, bytes]:
    """Everything in Redis but what changes by itself. Of a state only that it is there: the consumer goes on trying."""
    names = [
        name
        for name in world.ask_redis("KEYS", "*")
        if ":session:" not in name and ":lock:" not in name
    ]
    return {name: b"" if "_state:" in name else world.dump(name) for name in sorted(names)}


async def _post(
    world: SharedWorld, token: str | None, path: str, **fields: object
) -> tuple[int, int]:
    """Status and error code."""
    url = f"{world.servers[0].process.base_url}/api/chat/{path}"
    async with world.http.post(
        url, json=fields, headers={"Authorization": f"Bearer {token}"}
    ) as answer:
        return answer.status, (await answer.json())["errorCode"]


async def _ready(world: SharedWorld) -> int:
    async with world.http.get(f"{world.servers[0].process.base_url}/readyz") as answer:
        return answer.status

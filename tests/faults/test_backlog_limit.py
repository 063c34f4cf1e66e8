"""At the backlog limit sends, new rooms and new titles are 503 and nothing of them is written; all
else goes on."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.backends_mariadb import PreparedMariaDb
from tests.faults.checker import check_everything
from tests.faults.shared_harness import SharedHarness, shared_harness
from tests.load_clients import uuid7

LIMIT = 6


@pytest.fixture
async def small_harness(prepared_mariadb: PreparedMariaDb) -> AsyncIterator[SharedHarness]:
    """One server up, whose streams hold few events."""
    with (
        tempfile.TemporaryDirectory(prefix="f-") as folder,
        prepared_mariadb.running_copy() as backend,
    ):
        async with shared_harness(
            backend, Path(folder), "backlog", servers=1, QUEUECONFIG__MAX_BACKLOG=LIMIT
        ) as harness:
            yield harness


async def test_a_full_backlog_answers_503_and_leaves_nothing_half_written(
    small_harness: SharedHarness,
) -> None:
    harness = small_harness
    player = harness.player(1)
    await player.sign_in()
    await player.act(player.creating())
    (room_id,) = player.rooms
    await player.act(player.sending(room_id))
    await harness.settled()
    harness.mariadb.kill()
    try:
        while harness.waiting_events() < LIMIT:
            await player.act(player.sending(room_id))
        before = _keys(harness)
        refused = await _post(
            harness,
            player.client.token,
            "message/send",
            room_id=room_id,
            content="x",
            client_message_id=uuid7(),
        )
        assert refused == (503, 5003)
        assert await _post(harness, player.client.token, "room/create", ai_persona="DEMO") == (
            503,
            5003,
        )
        assert await _post(
            harness, player.client.token, "room/update", room_id=room_id, new_title="t"
        ) == (503, 5003)
        assert _keys(harness) == before, "a refused write left something behind"
        ready = await _ready(harness)
        assert ready == 503
        # Deleting and the end of a reply are never refused: there are no more of them than of what
        # was accepted.
        await player.act(player.deleting_message(room_id))
        assert harness.waiting_events() == LIMIT + 1
    finally:
        await asyncio.to_thread(harness.mariadb.start)
    await harness.settled()
    await player.act(player.sending(room_id))
    await check_everything(harness, [player])
    harness.findings.raise_if_any()


def _keys(harness: SharedHarness) -> dict[str, bytes]:
    """Everything in Redis but what changes by itself. Of a state only that it is there: the
    consumer goes on trying."""
    names = [
        name
        for name in harness.ask_redis("KEYS", "*")
        if ":session:" not in name and ":lock:" not in name
    ]
    return {name: b"" if "_state:" in name else harness.dump(name) for name in sorted(names)}


async def _post(
    harness: SharedHarness, token: str | None, path: str, **fields: object
) -> tuple[int, int]:
    """Status and error code."""
    url = f"{harness.servers[0].process.base_url}/api/chat/{path}"
    async with harness.http.post(
        url, json=fields, headers={"Authorization": f"Bearer {token}"}
    ) as answer:
        return answer.status, (await answer.json())["errorCode"]


async def _ready(harness: SharedHarness) -> int:
    async with harness.http.get(f"{harness.servers[0].process.base_url}/readyz") as answer:
        return answer.status

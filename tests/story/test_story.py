"""Stories on all kinds of servers: two in this process on both pairs of backends, and real ones
that are killed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.backends_mariadb import DatabaseBackend, PreparedMariaDb
from tests.backends_redis import RedisServer
from tests.faults.embedded_harness import embedded_harness
from tests.faults.shared_harness import shared_harness
from tests.story.servers import Processes, StoryServers, in_process
from tests.story.story import WINDOW, ChatStory

pytestmark = pytest.mark.timeout(900 if "STORIES" not in os.environ else 0)
LONGER = float(os.environ.get("STORIES", "1"))
"""So many times more stories than in an ordinary run; then there is time to shorten one that fails,
too."""


async def tell(on: StoryServers, stories: int, *, steps: int = 40) -> None:
    class Story(ChatStory):
        servers = on
        loop = asyncio.get_running_loop()

    await asyncio.to_thread(
        run_state_machine_as_test,
        Story,
        settings=settings(
            max_examples=max(1, round(stories * LONGER)),
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink] if LONGER > 1 else [Phase.generate],
            derandomize=bool(os.environ.get("CI")),
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("private_server", ["valkey"], indirect=True)
async def test_stories_on_valkey_and_sqlite(
    private_server: RedisServer, shared_sqlite: DatabaseBackend, app_id: str, tmp_path: Path
) -> None:
    async with in_process(
        private_server, shared_sqlite, app_id, tmp_path, window=WINDOW, reply_lease_s=5
    ) as servers:
        await tell(servers, 5)


@pytest.mark.parametrize("private_server", ["redis"], indirect=True)
async def test_stories_on_redis_and_mariadb(
    private_server: RedisServer, shared_mariadb: DatabaseBackend, app_id: str, tmp_path: Path
) -> None:
    async with in_process(
        private_server, shared_mariadb, app_id, tmp_path, window=WINDOW, reply_lease_s=5
    ) as servers:
        await tell(servers, 5)


async def test_stories_with_server_processes_that_are_killed(
    prepared_mariadb: PreparedMariaDb, app_id: str, tmp_path: Path
) -> None:
    with prepared_mariadb.running_copy() as backend:
        async with shared_harness(backend, tmp_path, app_id, CHATCONFIG__WINDOW=WINDOW) as harness:
            await tell(Processes(harness), 2)


async def test_stories_with_the_embedded_default_that_is_killed(tmp_path: Path) -> None:
    async with embedded_harness(tmp_path, CHATCONFIG__WINDOW=WINDOW) as harness:
        await tell(Processes(harness), 2)

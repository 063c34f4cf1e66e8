"""Logout: at once, on every process, and for good, whatever Redis remembers."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from service.cache.cache_service import CacheService
from service.db.database_service import DatabaseService
from service.db.databases import apply_all
from template.account.ended_sessions import EndedSessions
from template.account.session_store import SessionStore
from template.base.session_info import SessionInfo
from tests.backends_mariadb import DatabaseBackend, running_database
from tests.backends_redis import RedisServer, running_cache

ALICE = SessionInfo("alice", 7, 2, "Alice")


@asynccontextmanager
async def running_store(
    server: RedisServer, app_id: str, database: DatabaseService
) -> AsyncIterator[tuple[SessionStore, CacheService]]:
    async with running_cache(server.settings(), app_id) as cache:
        yield SessionStore(cache, EndedSessions(database, 100), 100), cache


async def test_a_logout_outlives_a_redis_that_comes_back_with_older_data(
    private_server: RedisServer, app_id: str, database: DatabaseService, tmp_path: Path
) -> None:
    async with running_store(private_server, app_id, database) as (store, cache):
        await cache.get_client().execute("CONFIG", "SET", "appendfsync", "always")
        ended, kept = await store.create(ALICE), await store.create(ALICE)
        session = await store.find(ended)
        assert session is not None
        _restart_with(private_server, tmp_path, save=True)
        await store.delete(session.session_key)
        assert await store.find(ended) is None
        _restart_with(private_server, tmp_path, save=False)
        # The old data has both sessions again.
        assert await store.find(ended) is None
        assert await store.find(ended) is None
        assert (await _found(store, kept)).account_id == "alice"
    async with running_store(private_server, app_id, database) as (store, _):
        assert await store.find(ended) is None
        assert await store.find(kept) is not None


async def test_the_database_is_asked_once_in_a_run_of_redis(
    private_server: RedisServer, app_id: str, database: DatabaseService
) -> None:
    async with running_store(private_server, app_id, database) as (store, cache):
        token = await store.create(ALICE)
        before = database.calls
        await _found(store, token)
        assert database.calls == before
        private_server.kill()
        private_server.start()
        await _found(store, token)
        assert database.calls == before + 1
        trips = cache.get_client().round_trips
        await _found(store, token)
        assert (database.calls, cache.get_client().round_trips) == (before + 1, trips + 1)


async def test_what_is_noted_goes_when_no_redis_can_hold_the_session_any_more(
    fresh_database_backend: DatabaseBackend,
) -> None:
    await apply_all(fresh_database_backend.databases(), fresh_database_backend.settings)
    async with running_database(fresh_database_backend) as database:
        past, now = EndedSessions(database, -5), EndedSessions(database, 100)
        await past.add("a" * 64)
        await now.add("b" * 64)
        await now.add("b" * 64)
        assert not await now.contains("a" * 64)
        assert await now.contains("b" * 64)


async def _found(store: SessionStore, token: str) -> SessionInfo:
    session = await store.find(token)
    assert session is not None
    return session


def _restart_with(server: RedisServer, folder: Path, *, save: bool) -> None:
    """Kill it; keep a copy of its data, or put the copy back; start it."""
    server.kill()
    data, copy = server.folder / "appendonlydir", folder / "copy"
    if save:
        shutil.copytree(data, copy)
    else:
        shutil.rmtree(data)
        shutil.copytree(copy, data)
    server.start()

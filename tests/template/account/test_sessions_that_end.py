"""Logout: at once, on every process, and permanently, whatever Redis remembers."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from base_server.service.cache.cache_service import CacheService
from base_server.service.db.database_service import DatabaseService
from base_server.service.db.databases import apply_all
from base_server.template.account.account_store import AccountStore
from base_server.template.account.ended_sessions import EndedSessions
from base_server.template.account.global_mark import GlobalMark
from base_server.template.account.session_store import SessionStore
from base_server.template.base.base_template import BaseTemplate
from base_server.template.base.client_session import ClientSession
from base_server.template.base.endpoint import Endpoint
from base_server.template.base.envelope import Request, Response
from base_server.template.base.session_info import SessionInfo
from base_server.template.base.template_service import Call, TemplateService
from tests.backends_mariadb import DatabaseBackend, running_database
from tests.backends_redis import RedisServer, running_cache
from tests.database_rows import new_id
from tests.waiting import PATIENCE_S

ALICE = SessionInfo("alice", 7, 2, "Alice")


@asynccontextmanager
async def running_store(
    server: RedisServer, app_id: str, database: DatabaseService
) -> AsyncIterator[tuple[SessionStore, CacheService]]:
    async with running_cache(server.settings(), app_id) as cache:
        # A kill must lose nothing here: what comes back is decided by the test alone.
        await cache.get_client().execute("CONFIG", "SET", "appendfsync", "always")
        yield SessionStore(cache, EndedSessions(database, 100), 100), cache


async def test_a_logout_outlives_a_redis_that_comes_back_with_older_data(
    private_server: RedisServer, app_id: str, database: DatabaseService, tmp_path: Path
) -> None:
    async with running_store(private_server, app_id, database) as (store, _):
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


class Waiting(BaseTemplate):
    """A handler that takes until it is let go."""

    def __init__(self) -> None:
        self.begun, self.let_go, self.cancelled = asyncio.Event(), asyncio.Event(), False

    def endpoints(self) -> Sequence[Endpoint]:
        return [Endpoint(9001, "/api/wait", Request, Response, self.on_wait)]

    async def on_wait(self, client_session: ClientSession, request: Request) -> Response:
        self.begun.set()
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return Response()


async def test_waiting_request_ends_when_another_process_logs_it_out(
    private_server: RedisServer, app_id: str, database: DatabaseService
) -> None:
    """A request that waits ends when its session is logged out by another process."""
    template = Waiting()
    (endpoint,) = template.endpoints()
    async with (
        running_store(private_server, app_id, database) as (here, _),
        running_store(private_server, app_id, database) as (there, _),
    ):
        service = TemplateService(here, recheck_s=0.05)
        token = await here.create(ALICE)
        waiting = asyncio.create_task(service.handle(endpoint, Call(b"{}", bearer=token)))
        await template.begun.wait()
        await there.delete((await _found(there, token)).session_key)
        answer = await asyncio.wait_for(waiting, PATIENCE_S)
        assert (answer.status, answer.error_code, template.cancelled) == (401, 10000, True)

        template.begun.clear()
        token = await here.create(ALICE)
        waiting = asyncio.create_task(service.handle(endpoint, Call(b"{}", bearer=token)))
        await template.begun.wait()
        await asyncio.sleep(0.12)  # looked up twice
        template.let_go.set()
        assert (await waiting).error_code == 0


async def new_account(database: DatabaseService) -> SessionInfo:
    account_id = new_id("a")[:32]
    params = (account_id, "hash", account_id, "", "")
    row = (await database.call_global_procedure("fp_account_create", params))[0]
    return SessionInfo(account_id, row["account_db_key"], row["shard_id"])


async def came_back_older(database: DatabaseService, mark: GlobalMark) -> None:
    """As ``mark`` sees it when the database lost one change; what the test wants lost it does not
    store at all.
    """
    (stored,) = await database.call_global_procedure("fp_mark_get", (0,))
    await mark.note(stored["number"] + 1)
    await mark.check()


async def test_sessions_are_looked_up_once_after_an_older_database(
    private_server: RedisServer, app_id: str, database: DatabaseService
) -> None:
    """cases/faults.md U11: in every process; a session of an account that is not
    known ends.
    """
    async with running_cache(private_server.settings(), app_id) as cache:
        here, there = GlobalMark(cache, database), GlobalMark(cache, database)
        store, elsewhere = (
            SessionStore(cache, EndedSessions(database, 100), 100, mark) for mark in (here, there)
        )
        await here.check()
        await there.check()
        generation = here.generation
        known = await new_account(database)
        kept, lost = await store.create(known, generation), await store.create(ALICE, generation)
        for finder in (store, elsewhere):
            assert await finder.find_ended([kept, lost]) == []
            for token in (kept, lost):
                await _found(finder, token)
                assert finder.find_cached(token) is not None
        await came_back_older(database, here)
        await there.check()
        assert here.generation == there.generation == generation + 1
        assert here.alarm is not None
        assert there.alarm is not None
        assert here.alarm.lost == there.alarm.lost == 1
        for finder in (store, elsewhere):
            assert finder.find_cached(kept) is None, "it is not trusted before it was looked up"
            assert await finder.find_ended([kept, lost]) == [lost]
            assert (await _found(finder, kept)).account_db_key == known.account_db_key
        before = database.calls
        await _found(elsewhere, kept)
        assert database.calls == before


async def test_older_database_beside_a_full_redis_is_noticed_once(
    private_server: RedisServer, app_id: str, database: DatabaseService
) -> None:
    """cases/faults.md U11, U2: every process knows of it, and the sessions go on though they cannot
    be written.
    """
    async with running_cache(private_server.settings(), app_id) as cache:
        marks = [GlobalMark(cache, database) for _ in range(2)]
        stores = [SessionStore(cache, EndedSessions(database, 100), 100, mark) for mark in marks]
        await marks[0].check()
        token = await stores[0].create(await new_account(database), marks[0].generation)
        generation = marks[0].generation
        await cache.get_client().execute("CONFIG", "SET", "maxmemory", "1")
        # An account that the database does not know.
        await marks[0].note(marks[0]._number, 2**52)
        for _ in range(2):
            for mark in marks:
                await mark.check()
        assert marks[0].generation == marks[1].generation == generation + 1
        assert all(mark.alarm is not None for mark in marks)
        for store in stores:
            assert await store.find_ended([token]) == []
            assert store.find_cached(token) is not None


async def test_older_database_beside_a_read_only_redis_is_noticed_once(
    private_server: RedisServer, app_id: str, database: DatabaseService
) -> None:
    """cases/faults.md U11: not at every check; Redis has the alarm when it takes writes again."""
    async with running_cache(private_server.settings(), app_id) as cache:
        mark = GlobalMark(cache, database)
        await mark.check()
        await mark.note(mark._number, 2**52)
        generation = mark.generation
        await cache.get_client().execute("CONFIG", "SET", "min-replicas-to-write", "1")
        for _ in range(3):
            await mark.check()
        assert mark.generation == generation + 1
        await cache.get_client().execute("CONFIG", "SET", "min-replicas-to-write", "0")
        await mark.check()
        other = GlobalMark(cache, database)
        await other.check()
        assert other.generation == mark.generation
        # Each has its own second.
        assert [alarm.lost for alarm in (mark.alarm, other.alarm) if alarm] == [1, 1]
        assert other.alarm is not None


async def test_session_ends_when_redis_and_the_database_both_came_back(
    private_server: RedisServer, app_id: str, database: DatabaseService
) -> None:
    """cases/faults.md U11: neither knows any more whether it was logged out."""
    async with running_cache(private_server.settings(), app_id) as cache:
        await cache.get_client().execute("CONFIG", "SET", "appendfsync", "always")
        mark = GlobalMark(cache, database)
        store = SessionStore(cache, EndedSessions(database, 100), 100, mark)
        token = await store.create(await new_account(database))
        await _found(store, token)
        private_server.kill()
        private_server.start()
        await came_back_older(database, mark)
        assert await store.find(token) is None


async def test_session_from_before_an_older_database_is_looked_up(
    private_server: RedisServer, app_id: str, database: DatabaseService
) -> None:
    """cases/faults.md U11: the account was read from what the database was; its session is of that
    generation.
    """
    async with running_cache(private_server.settings(), app_id) as cache:
        mark = GlobalMark(cache, database)
        accounts, store = (
            AccountStore(database, mark),
            SessionStore(cache, EndedSessions(database, 100), 100, mark),
        )
        account_id = new_id("a")[:32]
        assert await accounts.create(account_id, "hash", "", "", "")
        account = await accounts.find(account_id)
        assert account is not None
        await came_back_older(database, mark)
        token = await store.create(ALICE, account.generation)
        assert await store.find(token) is None


async def test_marks_of_many_processes_raise_no_false_alarm(
    private_server: RedisServer, app_id: str, database: DatabaseService
) -> None:
    """cases/faults.md U11: signups and logouts that overtake each other, and a Redis that lost what
    it knew.
    """
    async with running_cache(private_server.settings(), app_id) as cache:
        marks = [GlobalMark(cache, database) for _ in range(4)]

        async def play(mark: GlobalMark, number: int) -> None:
            accounts, ended = AccountStore(database, mark), EndedSessions(database, 100)
            for _ in range(5):
                await accounts.create(new_id("a")[:32], "hash", "", "", "")
                await mark.note(await ended.add(f"{number}" * 64))
                await mark.check()

        await asyncio.gather(*(mark.check() for mark in marks))
        before = marks[0].generation
        await asyncio.gather(*(play(mark, number) for number, mark in enumerate(marks)))
        key = cache.get_client().key("global_mark", partition=0)
        for damage in (("DEL", key), ("HSET", key, "number", "x"), ("SET", key, "of another type")):
            await cache.get_client().execute(*damage)
            await asyncio.gather(*(mark.check() for mark in marks))
            assert await cache.get_client().execute("HGET", key, "number") is not None
        assert {mark.generation for mark in marks} == {before}
        assert [mark.alarm for mark in marks] == [None] * 4
        # What Redis lost, every process still knows.
        await marks[1].check()
        (stored,) = await database.call_global_procedure("fp_mark_get", (0,))
        await marks[0].note(stored["number"] + 3)
        await cache.get_client().execute("DEL", key)
        await marks[0].check()
        await marks[1].check()
        assert {marks[0].generation, marks[1].generation} == {before + 1}


async def test_sessions_are_looked_up_in_hundreds_and_again_per_redis_run(
    private_server: RedisServer, app_id: str, database: DatabaseService, tmp_path: Path
) -> None:
    """Many sessions are looked up a hundred at once and again in another run of Redis."""
    async with running_store(private_server, app_id, database) as (store, cache):
        tokens = [await store.create(SessionInfo(f"alice{n}", n, 1)) for n in range(140)]
        assert await store.find_ended(tokens) == []
        trips = cache.get_client().round_trips
        assert await store.find_ended(tokens) == []
        assert cache.get_client().round_trips == trips + 2
        _restart_with(private_server, tmp_path, save=True)
        logged_out = sorted([tokens[0], tokens[-1]])
        for token in logged_out:
            await store.delete((await _found(store, token)).session_key)
        assert sorted(await store.find_ended(tokens)) == logged_out
        _restart_with(private_server, tmp_path, save=False)
        # The old data has them again.
        assert sorted(await store.find_ended(tokens)) == logged_out
        assert sorted(await store.find_ended(tokens)) == logged_out

"""DatabaseService: stored procedures of one global database and its shards, on any backend."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

from base_server.service.core.durability import Durability
from base_server.service.core.errors import (
    DataRefused,
    NotDeployed,
    OutcomeUnknown,
    ServiceError,
    ServiceUnavailable,
    StartError,
)
from base_server.service.core.facade import Facade, facade
from base_server.service.core.instruments import Counter, Histogram
from base_server.service.core.logger import Logger
from base_server.service.core.tasks import TaskRegistry
from base_server.service.core.tracing import span
from base_server.service.db import schema
from base_server.service.db.database import SERVICE, Database
from base_server.service.db.databases import Databases, ShardAddress, apply_all
from base_server.service.db.db_settings import DatabaseSettings
from base_server.service.db.durability import judge
from base_server.service.db.values import Row

CALL_SECONDS = Histogram(
    "db_call_seconds", "Time of a procedure call, failed ones included.", ("procedure",)
)
FAILED_CALLS = Counter(
    "db_failed_calls",
    "Procedure calls that failed; reason: refused (the data), unavailable (not executed), "
    "missing, unknown, or other.",
    ("procedure", "reason"),
)


_SEARCH_AGAIN_S = 1.0


class DatabaseService(Facade):
    """All access to the databases. Every call runs to its end in a task that the caller's
    cancellation does not reach.

    Calls raise ``DataRefused`` (the data itself cannot be stored), ``OutcomeUnknown`` (sent and not
    answered), ``NotDeployed`` (there is no such procedure or shard; the error log has the fix
    too), ``ServiceUnavailable`` (nothing was executed; later it may work). ``env`` is only for the
    command that a start error names.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        data_dir: Path,
        scripts_dir: Path,
        *,
        env: str = "LOCAL",
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.clock = clock
        self._settings = settings
        self._databases = Databases(settings, data_dir=data_dir, scripts_dir=scripts_dir)
        self._fix = f"python -m application.manage --env {env} db apply"
        self._tasks = TaskRegistry()
        self._global: Database | None = None
        self._shards: dict[int, Database] = {}
        self._addresses: dict[int, ShardAddress] = {}
        self._searched_s = -inf  # for a shard that a call named
        self._unchecked: set[int] = set()
        self._loading = asyncio.Lock()
        self.calls = 0
        """How many procedure calls were made, for tests and metrics."""

    @property
    def shard_ids(self) -> list[int]:
        """The shards known to this process, ascending."""
        return sorted(self._shards)

    async def start(self) -> None:
        """Open the databases and require their scripts to be current; SQLite files are brought up
        to date here.

        Raises ``StartError``, and leaves data of a newer version as it is. A shard whose server
        does not answer is no reason not to start: it is checked before its first call.
        """
        if self._settings.type == "sqlite":
            await apply_all(self._databases, self._settings, command=self._fix)
        self._global = self._databases.open_global()
        try:
            await schema.require_current(
                self._global, self._databases.global_scripts, fix=self._fix
            )
            await self.refresh_shards()
        except ServiceUnavailable as error:
            await self.stop()
            raise StartError(
                f"{error.reason}: check databaseConfig (host, port, user, password)"
            ) from error
        except StartError:
            await self.stop()
            raise
        if not self._shards:
            await self.stop()
            raise StartError(f"the global database knows no shard; run: {self._fix}")
        for shard_id in self.shard_ids:
            try:
                await self._check_shard(shard_id)
            except ServiceUnavailable as error:
                Logger.error("shard is away", shard_id=shard_id, reason=error.reason)
            except StartError:
                await self.stop()
                raise

    async def stop(self) -> None:
        """Let running calls end (each has its deadline), then close all connections."""
        await self._tasks.drain(2 * self._settings.timeout_s)
        opened = [*self._shards.values(), *([self._global] if self._global else [])]
        self._shards, self._addresses, self._global = {}, {}, None
        for database in opened:
            await database.close()

    @facade
    async def call_shard_procedure(
        self, shard_id: int, name: str, params: Sequence[Any] = ()
    ) -> list[Row]:
        """Call ``name`` on a shard; the rows of its last result set, date columns as aware UTC
        datetimes."""
        return await self._tasks.finish(self._call_shard(shard_id, name, params), f"db:{name}")

    @facade
    async def call_global_procedure(self, name: str, params: Sequence[Any] = ()) -> list[Row]:
        """Call ``name`` on the global database; rows as in :meth:`call_shard_procedure`."""
        return await self._tasks.finish(
            self._call(self._require_global(), name, params), f"db:{name}"
        )

    @facade
    async def ping_global(self) -> None:
        """Raises ``ServiceUnavailable`` unless the global database answers."""
        await self._tasks.finish(self._require_global().ping(), "db:ping")

    @facade
    async def ping_shard(self, shard_id: int) -> None:
        """Raises ``ServiceUnavailable`` unless the shard answers."""
        await self._tasks.finish((await self._shard(shard_id)).ping(), "db:ping")

    async def require_shard(self, shard_id: int) -> None:
        """Raises ``ServiceUnavailable`` unless the shard is known, ``NotDeployed`` when it was just
        searched for, which is done once a second at most."""
        if shard_id in self._shards:
            return
        if self.clock() - self._searched_s <= _SEARCH_AGAIN_S:
            raise ServiceUnavailable(
                SERVICE, f"there is no shard {shard_id}; known are {self.shard_ids}"
            )
        self._searched_s = self.clock()
        await self.refresh_shards()
        if shard_id not in self._shards:
            reason = f"there is no shard {shard_id}; known are {self.shard_ids}"
            Logger.error("unknown shard", shard_id=shard_id, known=self.shard_ids, mend=self._fix)
            raise NotDeployed(
                SERVICE, f"{reason}: list it in databaseConfig.shards and run: {self._fix}"
            )

    async def follow_shards(self) -> None:
        """Job of every process: :meth:`refresh_shards`; an outage is left to the next time."""
        try:
            await self.refresh_shards()
        except ServiceUnavailable as outage:
            Logger.debug("shards not refreshed", reason=outage.reason)

    async def refresh_shards(self) -> None:
        """Take up the shards that were registered since, and those that were moved: from here on
        calls go to the new address, calls under way end at the old one."""
        async with self._loading:
            for row in await self._require_global().call("fp_shards_get", ()):
                address = ShardAddress.registered(row)
                if address == self._addresses.get(address.shard_id):
                    continue
                former = self._shards.get(address.shard_id)
                self._unchecked.add(address.shard_id)
                self._shards[address.shard_id] = self._databases.open_shard(address)
                self._addresses[address.shard_id] = address
                if former is not None:
                    Logger.info("shard moved", shard_id=address.shard_id, before=former.label)
                    await former.close()

    async def durability(self) -> list[Durability]:
        """The durability level now of the global database and of each shard that answers."""
        databases = [("database:global", self._require_global())]
        databases += [
            (f"database:shard{shard_id}", database)
            for shard_id, database in sorted(self._shards.items())
        ]
        found = []
        for name, database in databases:
            try:
                found.append(judge(name, await self._tasks.finish(database.facts(), "db:facts")))
            except ServiceUnavailable as outage:
                Logger.debug("durability not known", database=name, reason=outage.reason)
        return found

    async def claim_setting(self, name: str, value: str) -> None:
        """Fix a value that all servers of this database must share; raises ``StartError`` if it is
        fixed otherwise."""
        stored = (await self.call_global_procedure("fp_setting_claim", (name, value)))[0]["value"]
        if stored != value:
            raise StartError(
                f"{name} is {value} in the configuration and {stored} in the global database: "
                f"set it back to {stored}, or use an empty database"
            )

    async def _call_shard(self, shard_id: int, name: str, params: Sequence[Any]) -> list[Row]:
        return await self._call(await self._shard(shard_id), name, params)

    async def _call(self, database: Database, name: str, params: Sequence[Any]) -> list[Row]:
        self.calls += 1
        begun_s = time.monotonic()
        try:
            with span("database procedure", procedure=name, database=database.label):
                return await database.call(name, params)
        except NotDeployed as error:
            FAILED_CALLS.add(name, "missing")
            Logger.error(
                "procedure is missing", procedure=name, database=database.label, mend=self._fix
            )
            raise NotDeployed(
                error.service,
                f"{error.reason}; run: {self._fix} (one of your own you create yourself)",
            ) from error
        except ServiceError as error:
            FAILED_CALLS.add(name, _reason_of(error))
            raise
        finally:
            CALL_SECONDS.observe(time.monotonic() - begun_s, name)

    def _require_global(self) -> Database:
        if self._global is None:
            raise ServiceError("the database service is not started")
        return self._global

    async def _shard(self, shard_id: int) -> Database:
        await self.require_shard(shard_id)
        database = self._shards[shard_id]
        if shard_id in self._unchecked:
            try:
                await self._check_shard(shard_id)
            except StartError as error:
                raise ServiceUnavailable("database", str(error)) from error
        return database

    async def _check_shard(self, shard_id: int) -> None:
        await schema.require_current(
            self._shards[shard_id], self._databases.shard_scripts, fix=self._fix
        )
        self._unchecked.discard(shard_id)


def _reason_of(error: ServiceError) -> str:
    if isinstance(error, DataRefused):
        return "refused"
    if isinstance(error, OutcomeUnknown):
        return "unknown"
    return "unavailable" if isinstance(error, ServiceUnavailable) else "other"

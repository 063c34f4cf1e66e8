"""CacheService: Redis in one of its forms, started, checked, and handed out as clients."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from base_server.service.cache.cache_client import CacheClient
from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.cache.generation import RunEpoch
from base_server.service.cache.keyspace import Keyspace
from base_server.service.cache.partition import Partitions
from base_server.service.cache.server_facts import judge, judge_durability, read_facts
from base_server.service.cache.signals import Handler, Signals
from base_server.service.core.durability import Durability
from base_server.service.core.errors import (
    ServiceError,
    ServiceNotRunning,
    ServiceUnavailable,
    StartError,
)
from base_server.service.core.facade import Facade, facade
from base_server.service.core.tasks import TaskRegistry
from base_server.service.redis_client.client import Exchange
from base_server.service.redis_client.cluster_client import SCRIPT_GUARD, ClusterExchange
from base_server.service.redis_client.cluster_map import Address, Cluster
from base_server.service.redis_client.connecting import (
    OnConnect,
    make_pool,
    refuse_certificates,
)
from base_server.service.redis_client.connection_pool import Pool

if TYPE_CHECKING:
    from base_server.service.cache.embedded import EmbeddedServer

T = TypeVar("T")

_RESTART_PATIENCE_S = 2.0
"""An embedded server that died is back in about 0.1 s."""


class CacheService(Facade):
    """Owns the connections, and for ``type: embedded`` the server itself.

    ``data_dir`` holds the embedded server's data; the other types do not touch it.
    """

    def __init__(
        self, settings: CacheSettings, *, app_id: str, env: str, partitions: int, data_dir: Path
    ) -> None:
        refuse_certificates(settings)
        self._settings = settings
        self._env = env
        self._data_dir = data_dir
        self._keyspace = Keyspace(app_id, env, Partitions(partitions))
        self._epoch = RunEpoch(self._keyspace)
        self._tasks = TaskRegistry()
        self._waits = TaskRegistry()
        self._embedded: EmbeddedServer | None = None
        self._client: CacheClient | None = None
        self._bulk_client: CacheClient | None = None
        self._signals: Signals | None = None
        self._cluster: Cluster | None = None
        self._exchanges: list[Exchange | ClusterExchange] = []
        self._facts: dict[str, str] = {}

    @property
    def partitions(self) -> Partitions:
        return self._keyspace.partitions

    async def start(self) -> None:
        """Start or reach the server, check it, claim the partition count. Raises :class:`StartError`."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Let calls that were begun end (not those that wait in the server), close the connections, stop the
        embedded server. May be called twice.
        """
        self._client = self._bulk_client = self._signals = None
        await self._waits.drain(0)
        await self._tasks.drain(self._settings.timeout_s)
        for exchange in self._exchanges:
            for pool in exchange.pools:
                await pool.disconnect()
        self._exchanges = []
        if self._embedded is not None:
            await self._embedded.stop()
            self._embedded = None

    @facade
    def get_client(self) -> CacheClient:
        """For the hot path: small calls that answer at once. ``async with CacheService.get_client() as redis``."""
        return self._running(self._client)

    @facade
    def get_bulk_client(self) -> CacheClient:
        """Connections of its own for fills, settles, large ranges and blocking reads."""
        return self._running(self._bulk_client)

    async def subscribe(
        self, pattern: str, handler: Handler, on_begun: Callable[[], None] | None = None
    ) -> bool:
        """Call ``handler(channel, text)`` for every :meth:`CacheClient.publish` on a logical channel that matches
        the glob ``pattern`` (``stop:*``), until the service stops, and ``on_begun()`` whenever signals may have been
        missed; see :mod:`base_server.service.cache.signals`.

        True: signals from now on are heard. False: the server is away, they are once it is back.
        """
        return await self._running(self._signals).subscribe(
            pattern, handler, self._settings.timeout_s, on_begun
        )

    def channels(self, pattern: str) -> str:
        """What a Redis user must be allowed (``ACL SETUSER name &…``) for :meth:`subscribe` and publishing to it."""
        return self._keyspace.pattern(pattern)

    def server_facts(self) -> dict[str, str]:
        """version, appendonly, appendfsync, maxmemory_policy, replicas as read last; run_id of the last connection.
        Of a cluster the worst of all masters, with ``masters`` (how many) instead of run_id."""
        if self._cluster is not None:
            return dict(self._facts)
        return self._facts | {"run_id": self._epoch.run_id or self._facts.get("run_id", "")}

    async def epochs(self) -> list[tuple[int, bool]]:
        """Of each partition: its epoch, and whether it is of the server run that answers now."""
        client, partitions = self.get_client(), range(self.partitions.count)
        stored = await client.execute_many(
            [("MGET", *self._epoch.keys(partition)) for partition in partitions]
        )
        return [
            (int(epoch or 0), run_id == self._epoch_of(partition).run_id)
            for partition, (epoch, run_id) in zip(partitions, stored, strict=True)
        ]

    async def durability(self) -> Durability:
        """What an acknowledgement of this Redis is worth now, asked anew. Raises ServiceUnavailable."""
        self._facts = await read_facts(self.get_bulk_client())
        return judge(self._facts)

    async def is_full(self) -> bool:
        """Whether Redis, or one of its masters, has reached maxmemory: it refuses what adds data, and goes on with what
        takes it away. Raises ServiceUnavailable when it takes no writes at all: a replica, or one that cannot save."""
        try:
            # Writes nothing: a script without flags is refused whenever a write would be.
            await self.get_client().execute_on_each("EVAL", "#!lua\nreturn 0", 0)
        except ServiceUnavailable as refusal:
            if not refusal.reason.startswith("OOM"):
                raise
            return True
        return False

    async def _start(self) -> None:
        settings = self._settings
        if settings.owns_server:
            if sys.platform == "win32":
                raise StartError(
                    'There is no embedded cache server for Windows: set cacheConfig.type to "redis".'
                )
            from base_server.service.cache.embedded import EmbeddedServer  # noqa: PLC0415 - needs POSIX file locks

            self._embedded = EmbeddedServer(self._data_dir, settings)
            await self._embedded.start()
            settings = self._embedded.client_settings()
        try:
            if settings.type == "redis_cluster":
                self._cluster = await self._find_cluster(settings)
            self._client = self._make_client(
                settings,
                max_connections=settings.max_connections,
                timeout_s=settings.timeout_s,
                gather=True,
            )
            self._bulk_client = self._make_client(
                settings,
                max_connections=settings.max_bulk_connections,
                timeout_s=settings.bulk_timeout_s,
                gather=False,
            )
            self._signals = Signals(
                lambda: self._make_pool(settings, max_connections=1, timeout_s=settings.timeout_s),
                self._keyspace,
                self._waits,
            )
            self._facts = await read_facts(self._client)
            judge_durability(self._facts, env=self._env, accept_volatile=settings.accept_volatile)
            await self._claim_partition_count(self._client)
        except ServiceError as error:
            raise StartError(
                f"Redis at {settings.address} cannot be used ({error}): start it, or set cacheConfig "
                "host, port, username, password, tls (BASE_SERVER__CACHECONFIG__HOST, …)."
            ) from error

    async def _find_cluster(self, settings: CacheSettings) -> Cluster:
        def ask(node: Address) -> Pool:
            return make_pool(
                settings.at(node), None, max_connections=1, timeout_s=settings.timeout_s
            )

        cluster = Cluster(settings.seeds, self._keyspace, ask, self._tasks)
        await cluster.refresh()
        return cluster

    def _make_client(
        self,
        settings: CacheSettings,
        *,
        max_connections: int,
        timeout_s: float,
        gather: bool,
    ) -> CacheClient:
        exchange: Exchange | ClusterExchange

        def pool(node: Address | None = None) -> Pool:
            return self._make_pool(
                settings, node, max_connections=max_connections, timeout_s=timeout_s
            )

        if self._cluster is not None:
            exchange = ClusterExchange(
                self._cluster, pool, self._tasks, self._waits, timeout_s, gather=gather
            )
        else:
            exchange = Exchange(pool(), self._tasks, self._waits, timeout_s, gather=gather)
        self._exchanges.append(exchange)
        guard = SCRIPT_GUARD if self._cluster else ""
        return CacheClient(exchange, self._keyspace, guard)

    def _make_pool(
        self,
        settings: CacheSettings,
        node: Address | None = None,
        *,
        max_connections: int,
        timeout_s: float,
    ) -> Pool:
        """Connections to ``node`` of a cluster (any, if None), or to the one server."""
        epoch = self._epoch
        if self._cluster is not None:
            node = node or random.choice(self._cluster.masters() or settings.seeds)  # noqa: S311
            settings, epoch = settings.at(node), self._cluster.run(node)
        patience_s = _RESTART_PATIENCE_S if self._settings.type == "embedded" else 0.0
        adopt: OnConnect = epoch.on_connect
        return make_pool(
            settings,
            adopt,
            max_connections=max_connections,
            timeout_s=timeout_s,
            patience_s=patience_s,
        )

    def _epoch_of(self, partition: int) -> RunEpoch:
        if self._cluster is None:
            return self._epoch
        node = self._cluster.owner_of_partition(partition)
        return self._epoch if node is None else self._cluster.run(node)

    async def _claim_partition_count(self, client: CacheClient) -> None:
        name, mine = self._keyspace.partition_count_key, str(self.partitions.count)
        await client.execute("SET", name, mine, "NX")
        if (stored := await client.execute("GET", name)) != mine:
            raise StartError(
                f"queueConfig.partitions is {mine}, but the data in Redis was made with {stored} ({name}): "
                f"set queueConfig.partitions to {stored}, or use another templateConfig.appId."
            )

    @staticmethod
    def _running(part: T | None) -> T:
        if part is None:
            raise ServiceNotRunning("CacheService is not started, or was stopped.")
        return part

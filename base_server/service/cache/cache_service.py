"""CacheService: Redis in one of its forms, started, checked, and handed out as clients."""

from __future__ import annotations

import random
import ssl
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from base_server.service.cache.cache_client import CacheClient
from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.cache.generation import ClusterGenerations, ServerGeneration
from base_server.service.cache.keyspace import Keyspace
from base_server.service.cache.partition import Partitions
from base_server.service.cache.server_facts import judge, judge_durability, read_facts
from base_server.service.core.durability import Durability
from base_server.service.core.errors import (
    ServiceError,
    ServiceNotRunning,
    ServiceUnavailable,
    StartError,
)
from base_server.service.core.facade import Facade, facade
from base_server.service.core.tasks import TaskRegistry
from base_server.service.redis_client.auto_pipeline import CallOptions
from base_server.service.redis_client.client import RedisClient
from base_server.service.redis_client.cluster_client import SCRIPT_GUARD, AnyClient, ClusterClient
from base_server.service.redis_client.cluster_map import Address, ClusterMap
from base_server.service.redis_client.connection import Connector, RedisConnection
from base_server.service.redis_client.connection_pool import ConnectionPool
from base_server.service.redis_client.pubsub_client import Handler, PubSubClient
from base_server.service.redis_client.raw_client import RawClient, make_redis_py_pool

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
        _check_certificates(settings)
        self._settings = settings
        self._env = env
        self._data_dir = data_dir
        self._keyspace = Keyspace(app_id, env, Partitions(partitions))
        self._generation = ServerGeneration(self._keyspace)
        self._tasks = TaskRegistry()
        self._waits = TaskRegistry()
        self._embedded: EmbeddedServer | None = None
        self._client: CacheClient | None = None
        self._bulk_client: CacheClient | None = None
        self._pubsub: PubSubClient | None = None
        self._cluster: tuple[ClusterMap, ClusterGenerations] | None = None
        self._close: list[Callable[[], Awaitable[None]]] = []
        self._facts: dict[str, str] = {}

    @property
    def partitions(self) -> Partitions:
        return self._keyspace.partitions

    async def start(self) -> None:
        """Start or reach the server, check it, claim the partition count. Raises StartError."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Wait for calls that were begun (not for those that wait in the server), close the
        connections, stop the embedded server. May be called twice.
        """
        self._client = self._bulk_client = self._pubsub = None
        await self._waits.drain(0)
        await self._tasks.drain(self._settings.timeout_s)
        while self._close:
            await self._close.pop()()
        if self._embedded is not None:
            await self._embedded.stop()
            self._embedded = None

    @facade
    def get_client(self) -> CacheClient:
        """For the hot path: small calls that Redis answers at once.

        ``async with CacheService.get_client() as redis``.
        """
        return self._running(self._client)

    @facade
    def get_bulk_client(self) -> CacheClient:
        """Connections of its own for fills, acknowledgements, large ranges and blocking reads."""
        return self._running(self._bulk_client)

    async def subscribe(
        self, pattern: str, handler: Handler, on_begin: Callable[[], None] | None = None
    ) -> bool:
        """Call ``handler(channel, text)`` for every :meth:`CacheClient.publish` on a logical
        channel that matches the glob ``pattern`` (``stop:*``), until the service stops, and
        ``on_begin()`` whenever signals may have been missed; see
        :mod:`base_server.service.redis_client.pubsub_client`.

        True: signals from now on are heard. False: the server is away, they are once it is back.
        """
        logical = self._keyspace.logical
        return await self._running(self._pubsub).subscribe(
            self._keyspace.pattern(pattern),
            lambda channel, text: handler(logical(channel), text),
            self._settings.timeout_s,
            on_begin,
        )

    def channels(self, pattern: str) -> str:
        """What a Redis user needs (``ACL SETUSER name &…``) to subscribe and publish to it."""
        return self._keyspace.pattern(pattern)

    def server_facts(self) -> dict[str, str]:
        """version, appendonly, appendfsync, maxmemory_policy, replicas as read last; run_id of the
        last connection. Of a cluster the worst of all masters, with ``masters`` (how many) instead
        of run_id."""
        if self._cluster is not None:
            return dict(self._facts)
        return self._facts | {"run_id": self._generation.run_id or self._facts.get("run_id", "")}

    async def generations(self) -> list[tuple[int, bool]]:
        """Of each partition: its generation, and whether that is of the server run that answers."""
        client, partitions = self.get_client(), range(self.partitions.count)
        stored = await client.execute_many(
            [("MGET", *self._generation.keys(partition)) for partition in partitions]
        )
        return [
            (int(generation or 0), run_id == self._generation_of(partition).run_id)
            for partition, (generation, run_id) in zip(partitions, stored, strict=True)
        ]

    async def durability(self) -> Durability:
        """The durability level of this Redis, read again. Raises ServiceUnavailable."""
        self._facts = await read_facts(self.get_bulk_client())
        return judge(self._facts)

    async def is_full(self) -> bool:
        """Whether Redis, or one of its masters, has reached maxmemory: it refuses what adds data,
        and goes on with what removes data. Raises ServiceUnavailable when it takes no writes at
        all: a replica, or one that cannot save."""
        try:
            # Writes nothing: a script without flags is refused whenever a write would be.
            await self.get_client().execute_on_each("EVAL", "#!lua\nreturn 0", 0)
        except ServiceUnavailable as refusal:
            if not refusal.reason.startswith("OOM"):
                raise
            return True
        return False

    async def _start(self) -> None:
        settings = await self._start_embedded() if self._settings.owns_server else self._settings
        try:
            if settings.type == "redis_cluster":
                self._cluster = await self._find_cluster(settings)
            self._client = self._make_client(
                settings,
                max_connections=settings.max_connections,
                timeout_s=settings.timeout_s,
                shared=True,
            )
            self._bulk_client = self._make_client(
                settings,
                max_connections=settings.max_bulk_connections,
                timeout_s=settings.bulk_timeout_s,
                shared=False,
            )

            async def connect() -> RedisConnection:
                return await self._connector(settings, settings.timeout_s).connect()

            self._pubsub = PubSubClient(connect, self._waits)
            self._facts = await read_facts(self._client)
            judge_durability(self._facts, env=self._env, accept_volatile=settings.accept_volatile)
            await self._claim_partition_count(self._client)
        except ServiceError as error:
            raise StartError(
                f"Redis at {settings.address} cannot be used ({error}): start it, or set "
                "cacheConfig host, port, username, password, tls (BASE_SERVER__CACHECONFIG__HOST, "
                "…)."
            ) from error

    async def _start_embedded(self) -> CacheSettings:
        """Returns how to connect to it."""
        if sys.platform == "win32":
            raise StartError(
                'There is no embedded cache server for Windows: set cacheConfig.type to "redis".'
            )
        # Needs POSIX file locks.
        from base_server.service.cache.embedded import EmbeddedServer  # noqa: PLC0415

        self._embedded = EmbeddedServer(self._data_dir, self._settings)
        await self._embedded.start()
        return self._embedded.client_settings()

    async def _find_cluster(self, settings: CacheSettings) -> tuple[ClusterMap, ClusterGenerations]:
        async def connect(node: Address) -> RedisConnection:
            return await settings.connector(node, timeout_s=settings.timeout_s).connect()

        generations = ClusterGenerations(self._keyspace)
        cluster = ClusterMap(settings.seeds, connect, self._tasks, generations.on_move)
        await cluster.refresh()
        return cluster, generations

    def _make_client(
        self, settings: CacheSettings, *, max_connections: int, timeout_s: float, shared: bool
    ) -> CacheClient:
        def make_pool(node: Address | None = None) -> ConnectionPool:
            connect = self._connector(settings, timeout_s, node).connect
            return ConnectionPool(connect, max_connections=max_connections, timeout_s=timeout_s)

        options = CallOptions(
            timeout_s=timeout_s, shared=shared, tasks=self._tasks, waits=self._waits
        )
        client: AnyClient
        if self._cluster is None:
            client = RedisClient(make_pool(), options)
        else:
            cluster, generations = self._cluster
            client = ClusterClient(cluster, make_pool, generations, options)
        connector = self._connector(settings, timeout_s)
        redis_py_pool = make_redis_py_pool(connector, max_connections)

        async def close() -> None:
            for pool in client.pools:
                pool.close_idle()  # after the drain of the tasks no other is left
            await redis_py_pool.disconnect()

        self._close.append(close)
        raw = RawClient(client, redis_py_pool, options)
        return CacheClient(client, raw, self._keyspace, SCRIPT_GUARD if self._cluster else "")

    def _connector(
        self, settings: CacheSettings, timeout_s: float, node: Address | None = None
    ) -> Connector:
        """Connections to ``node`` of a cluster (any, if None), or to the one server, whose run is
        verified before anything else."""
        on_connect = self._generation.on_connect
        if self._cluster is not None:
            cluster, generations = self._cluster
            node = node or random.choice(cluster.masters() or settings.seeds)  # noqa: S311
            on_connect = partial(generations.on_connect, address=node)
        return replace(
            settings.connector(node, timeout_s=timeout_s),
            patience_s=_RESTART_PATIENCE_S if self._settings.type == "embedded" else 0.0,
            on_connect=on_connect,
        )

    def _generation_of(self, partition: int) -> ServerGeneration:
        found = None if self._cluster is None else self._cluster[1].of_partition(partition)
        return found or self._generation

    async def _claim_partition_count(self, client: CacheClient) -> None:
        """The first start writes it for ever: with another count no key would be found again."""
        name, mine = self._keyspace.partition_count_key, str(self.partitions.count)
        await client.execute("SET", name, mine, "NX")
        if (stored := await client.execute("GET", name)) != mine:
            raise StartError(
                f"queueConfig.partitions is {mine}, but the data in Redis was made with {stored} "
                f"({name}): set queueConfig.partitions to {stored}, or use another "
                "templateConfig.appId."
            )

    @staticmethod
    def _running(part: T | None) -> T:
        if part is None:
            raise ServiceNotRunning("CacheService is not started, or was stopped.")
        return part


def _check_certificates(settings: CacheSettings) -> None:
    """Raise StartError for certificates that cannot be read: the error of a connection would not
    name the file."""
    if not settings.tls or settings.tls_ca_file is None:
        return
    try:
        ssl.create_default_context(cafile=settings.tls_ca_file)
    except OSError as error:
        raise StartError(
            f"cacheConfig.tls_ca_file {settings.tls_ca_file}: {error}; name a PEM file of "
            "certificates, or leave it out for the system's."
        ) from error

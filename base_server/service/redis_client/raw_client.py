"""The documented ``_client``: redis-py's client, whose commands go through ours.

So they are batched, a caller's cancellation does not harm a connection, reads are repeated once,
and on a cluster they go to the nodes of their keys. A plain client of redis-py would do none of
this: it repeats writes on a cluster, and a cancelled call costs a connection. What makes the server
wait (BLPOP, XREAD with BLOCK, …) has a connection for itself meanwhile, and needs a time-out; what
changes a connection (SELECT, MULTI by hand, …) is refused.

WATCH and redis-py's own pub/sub use a pool of redis-py's. On a cluster WATCH is refused, and what
concerns each node by itself (SCAN, KEYS, FLUSHDB, …); its pub/sub stays with one node, dead or
alive: use ``CacheService.subscribe``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from redis.asyncio import (
    BlockingConnectionPool,
    Connection,
    Redis,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ExecAbortError, RedisError
from redis.maint_notifications import MaintNotificationsConfig

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.redis_client.auto_pipeline import CallOptions
from base_server.service.redis_client.calls import Command
from base_server.service.redis_client.client import effect_of
from base_server.service.redis_client.cluster_client import AnyClient, ClusterClient
from base_server.service.redis_client.connection import Connector
from base_server.service.redis_client.errors import ERROR_REPLIES, CacheCommandError
from base_server.service.redis_client.raw_commands import refuse_changes, wait_s_of


def make_redis_py_pool(connector: Connector, max_connections: int) -> BlockingConnectionPool:
    """Connections of redis-py to the same server; none is opened before it is needed.

    Its retries are off (after a time-out redis-py 8.1 runs a script twice), and so are RESP3 and
    maintenance notifications (with them it hands out a connection with an unread reply).
    """
    options: dict[str, Any] = {
        "db": connector.db,
        "username": connector.username,
        "password": connector.password,
    }
    kind: type[Connection | UnixDomainSocketConnection] = Connection
    if connector.unix_socket_path is not None:
        kind = UnixDomainSocketConnection
        options["path"] = connector.unix_socket_path
    else:
        options |= {"host": connector.host, "port": connector.port, "socket_keepalive": True}
        if connector.tls:
            kind = SSLConnection
            options["ssl_ca_certs"] = connector.tls_ca_file
    return BlockingConnectionPool(
        max_connections=max_connections,
        timeout=connector.timeout_s,
        connection_class=kind,
        decode_responses=True,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        socket_timeout=None,
        socket_connect_timeout=connector.timeout_s,
        **options,
    )


class RawClient(Redis):
    """Commands and pipelines run to their end whatever happens to the caller."""

    def __init__(
        self, client: AnyClient, pool: BlockingConnectionPool, options: CallOptions
    ) -> None:
        """``pool`` and ``options`` are for pipelines with WATCH."""
        super().__init__(connection_pool=pool)
        self.redis_client = client
        self.options = options

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        (reply,) = await _run(self.redis_client, [_words(args)])
        if isinstance(reply, ERROR_REPLIES):
            raise reply
        return _shaped(self, reply, args[0], options)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        return _RawPipeline(self, transaction, shard_hint)


class _RawPipeline(Pipeline):
    """One call, with MULTI and EXEC around it; only WATCH takes a connection for itself."""

    def __init__(self, raw: RawClient, transaction: bool, shard_hint: str | None) -> None:
        super().__init__(raw.connection_pool, raw.response_callbacks, transaction, shard_hint)
        self._raw = raw

    async def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        if isinstance(self._raw.redis_client, ClusterClient):
            raise CacheCommandError("CLUSTER", f"{args[0]} is for a single server: use a script")
        execute = super().immediate_execute_command
        return await execute(*args, **options)  # type: ignore[no-untyped-call]

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        if self.watching:
            return await self._execute_watching(raise_on_error)
        stack, self.command_stack = self.command_stack, []
        if not stack:
            return []
        commands = [_words(args) for args, _ in stack]
        if self.is_transaction:
            replies = _executed(await _run(self._raw.redis_client, commands, atomic=True))
        else:
            replies = await _run(self._raw.redis_client, commands)
        if raise_on_error:
            self.raise_first_error(stack, replies)
        return [
            reply if isinstance(reply, ERROR_REPLIES) else _shaped(self, reply, args[0], options)
            for reply, (args, options) in zip(replies, stack, strict=True)
        ]

    async def _execute_watching(self, raise_on_error: bool) -> list[Any]:
        options = self._raw.options
        deadline = asyncio.wait_for(super().execute(raise_on_error), options.timeout_s)
        work = options.tasks.spawn(deadline, "cache pipeline")
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # Leaving `async with` gives the connection back: not before its replies were read.
            await asyncio.wait([work])
            raise


async def _run(client: AnyClient, commands: list[Command], *, atomic: bool = False) -> list[Any]:
    for command in commands:
        refuse_changes(command)
    wait_s = 0.0 if atomic else sum(map(wait_s_of, commands))  # in a transaction nothing waits
    if atomic:
        commands = [("MULTI",), *commands, ("EXEC",)]
    try:
        return await client.run(commands, effect_of(commands), wait_s)
    except ServiceUnavailable as error:
        # Users of redis-py expect its errors.
        raise error.__cause__ if isinstance(error.__cause__, RedisError) else error from None


def _words(args: tuple[Any, ...]) -> Command:
    return (*args[0].split(), *args[1:])  # redis-py names some commands with two words


def _shaped(client: Redis, reply: Any, name: Any, options: Mapping[str, Any]) -> Any:
    """The reply as redis-py returns it: a set, a dict, a bool, …"""
    callback = client.response_callbacks.get(name)
    return (
        callback(reply, **{key: value for key, value in options.items() if key != "keys"})
        if callback
        else reply
    )


def _executed(replies: list[Any]) -> list[Any]:
    """What EXEC replied; raises the reason when it executed nothing."""
    *queued, executed = replies
    if isinstance(executed, ExecAbortError):
        raise next((reply for reply in queued if isinstance(reply, ERROR_REPLIES)), executed)
    if isinstance(executed, ERROR_REPLIES):
        raise executed
    return list(executed)

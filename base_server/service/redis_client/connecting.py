"""Pools of connections as the settings ask for them: one protocol, explicit time-outs, no retries of redis-py's."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.core.errors import StartError
from base_server.service.redis_client.connection import WiredConnection
from base_server.service.redis_client.connection_pool import Pool

OnConnect = Callable[[Any], Awaitable[None]]
"""Runs on every new connection before it serves anything; the connection is closed when it fails."""


class TcpConnection(WiredConnection, Connection):
    pass


class TlsConnection(WiredConnection, SSLConnection):
    pass


class _UnixConnection(UnixDomainSocketConnection):
    """redis-py 8.1 greets the server twice on a socket file, and a failed greeting leaves the socket open."""

    async def _connect(self) -> None:
        async with asyncio.timeout(self.socket_connect_timeout):
            self._reader, self._writer = await asyncio.open_unix_connection(path=self.path)


class UnixConnection(WiredConnection, _UnixConnection):
    pass


def refuse_certificates(settings: CacheSettings) -> None:
    """Raise StartError for certificates that cannot be read: a connection would only say that there is no such file."""
    if not settings.tls or settings.tls_ca_file is None:
        return
    try:
        ssl.create_default_context(cafile=settings.tls_ca_file)
    except OSError as error:
        raise StartError(
            f"cacheConfig.tls_ca_file {settings.tls_ca_file}: {error}; name a PEM file of certificates, or leave it out"
            " for the system's."
        ) from error


def make_pool(
    settings: CacheSettings,
    on_connect: OnConnect | None,
    *,
    max_connections: int,
    timeout_s: float,
    patience_s: float = 0.0,
) -> Pool:
    """A pool that waits up to ``timeout_s`` for a free connection; nothing is connected yet.

    ``patience_s``: how long to wait for a server that is just being started again.
    """
    options: dict[str, Any] = {
        "patience_s": patience_s,
        "db": settings.db,
        "username": settings.username,
        "password": settings.password.get_secret_value() if settings.password else None,
    }
    kind: type[WiredConnection]
    if settings.unix_socket_path is not None:
        kind = UnixConnection
        options["path"] = settings.unix_socket_path
    else:
        kind = TlsConnection if settings.tls else TcpConnection
        options |= {"host": settings.host, "port": settings.port, "socket_keepalive": True}
        if settings.tls:
            options["ssl_ca_certs"] = settings.tls_ca_file
    return _pool(kind, options, _greeting(on_connect), max_connections, timeout_s)


def _pool(
    kind: type[WiredConnection],
    options: dict[str, Any],
    greeting: OnConnect | None,
    max_connections: int,
    timeout_s: float,
) -> Pool:
    return Pool(
        connection_class=kind,
        max_connections=max_connections,
        timeout_s=timeout_s,
        decode_responses=True,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        redis_connect_func=greeting,
        **options,
    )


def _greeting(on_connect: OnConnect | None) -> OnConnect:
    async def greet(connection: WiredConnection) -> None:
        try:
            await connection.on_connect()
            if on_connect is not None:
                await on_connect(connection)
        except BaseException:
            # An open connection that was not greeted to the end would be served from as it is.
            await connection.disconnect(nowait=True)
            raise

    return greet

"""Listening sockets, bound early so that a port in use stops the start at once."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence

from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError

from base_server.service.core.logger import Logger

from ..workers.ports import explained, url_of

_CLOSE_S = 2.0
_BACKLOG = 1024
_POLL_S = 0.02


# Caused by a client alone: it disconnects, or sends something that is not HTTP.
_CLIENT_FAULTS = (ConnectionError, ClientPayloadError, web.RequestPayloadError, HttpProcessingError)


class _HttpLogHandler(logging.Handler):
    """Writes aiohttp's log of connections to our log; client faults are one line at debug level."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, _CLIENT_FAULTS):
            Logger.debug("connection ended by client", error=type(error).__name__)
        elif record.levelno >= logging.WARNING:
            Logger.error("connection failed", reason=record.getMessage(), exc_info=error)


def _http_log() -> logging.Logger:
    # Outside the tree of loggers, which belongs to the host.
    log = logging.Logger("http")
    log.addHandler(_HttpLogHandler())
    return log


class HttpListener:
    """One app on one port. Handlers are not cancelled when their client disconnects.

    ``sockets``: a worker's bound sockets, used instead of ``host`` and ``port``.
    """

    def __init__(
        self,
        app: web.Application,
        host: str,
        port: int,
        *,
        key: str,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        self._is_open = self._is_retiring = False
        app.on_response_prepare.append(self._close_when_retiring)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=_http_log(),
            handler_cancellation=False,
            handle_signals=False,
            shutdown_timeout=_CLOSE_S,
            # A small body may become a large one, and decompression would block the event loop.
            auto_decompress=False,
        )
        self._sites: list[web.BaseSite] = []
        self._host = host
        self._port = port
        self._key = key
        self._sockets = sockets

    async def open(self) -> None:
        """Listen. Raises :class:`StartError` that names the configuration's ``key``."""
        await self._runner.setup()
        if self._sockets:
            self._sites = [
                web.SockSite(self._runner, bound, backlog=_BACKLOG) for bound in self._sockets
            ]
        else:
            self._sites = [web.TCPSite(self._runner, self._host, self._port, backlog=_BACKLOG)]
        try:
            for site in self._sites:
                await site.start()
        except OSError as error:
            self._sites = []
            await self._runner.cleanup()
            raise explained(error, self._host, self._port, self._key) from None
        self._is_open = True

    @property
    def url(self) -> str:
        """The address for a browser on this machine, with the port that was bound."""
        return url_of(self._runner.addresses[0])

    async def retire(self, idle_s: float) -> None:
        """Stop accepting and close connections gently; requests under way go on.

        Each response is the last on its connection; idle connections are closed after ``idle_s``.
        """
        self._is_retiring = True
        for site in self._sites:
            await site.stop()
        self._sites = []
        server = self._runner.server
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + idle_s
        # aiohttp has no event for the end of a connection.
        while server and server.connections and loop.time() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        if server is not None:
            server.pre_shutdown()

    async def close(self) -> None:
        """Stop accepting; requests under way get 2 s, then they are cancelled. Idempotent."""
        if self._is_open:
            self._is_open = False
            await self._runner.cleanup()

    async def _close_when_retiring(
        self, request: web.Request, response: web.StreamResponse
    ) -> None:
        if self._is_retiring:
            response.force_close()
            response.headers["Connection"] = "close"

"""Open ports: bound early, so that a port in use stops the start at once."""

from __future__ import annotations

import errno
import socket

from aiohttp import web

from service.core.errors import StartError

_CLOSE_S = 2.0


class Listener:
    """One app on one port. Handlers run on when their client leaves."""

    def __init__(self, app: web.Application, host: str, port: int, *, key: str) -> None:
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=False, handle_signals=False, shutdown_timeout=_CLOSE_S
        )
        self._is_open = False
        self._host = host
        self._port = port
        self._key = key

    async def open(self) -> None:
        """Listen. Raises :class:`StartError` that names the configuration's ``key``."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise StartError(self._explained(error)) from None
        self._is_open = True

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it (the bound port, if any was free)."""
        host, port = self._runner.addresses[0][:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
        return f"http://{shown}:{port}"

    async def close(self) -> None:
        """Accept nothing more; requests under way get 2 s, then they are cancelled. May be called twice."""
        if self._is_open:
            self._is_open = False
            await self._runner.cleanup()

    def _explained(self, error: OSError) -> str:
        where = f"port {self._port} on {self._host}"
        mend = f"set netConfig.{self._key} (BASE_SERVER__NETCONFIG__{self._key.upper()})"
        if error.errno == errno.EADDRINUSE:
            return f"Cannot listen: {where} is in use: stop the other server or {mend}."
        if error.errno == errno.EACCES:
            return f"Cannot listen: no permission for {where}: take a port above 1023; {mend}."
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            return f"Cannot listen: {self._host} is no address of this machine: set netConfig.host."
        return f"Cannot listen on {where}: {error.strerror}; {mend}."

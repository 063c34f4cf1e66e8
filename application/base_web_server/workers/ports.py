"""The ports that a server's workers share, and the error for a port that cannot be bound."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Sequence

from base_server.service.core.errors import StartError


class PortInUse(StartError):
    """Another program listens on the port."""


class SharedPort:
    """One port for ``count`` workers: bound sockets that do not listen yet. Port 0 takes a free
    one.

    On Linux every worker has its own socket (SO_REUSEPORT), and the kernel spreads connections over
    those that listen: measured with four workers and 32 connections, 3 to 11 each; on one shared
    socket 0 to 17. Elsewhere they share one. ``key`` is the port's configuration key. Raises
    :class:`StartError`, :class:`PortInUse`.
    """

    def __init__(self, host: str, port: int, count: int, *, key: str) -> None:
        self.key = key
        self._spreads = sys.platform == "linux"
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            addresses = dict.fromkeys(
                (family, str(address[0])) for family, _, _, _, address in found
            )
            # SO_REUSEPORT hides another program's socket that has it too; a bind without it fails.
            for family, address in addresses:
                with _bind(family, (address, port), share=False) as probe:
                    port = probe.getsockname()[1]
            self._sockets = [
                [
                    _bind(family, (address, port), share=self._spreads)
                    for family, address in addresses
                ]
                for _ in range(count if self._spreads else 1)
            ]
        except OSError as error:
            raise explained(error, host, port, key) from None

    @property
    def url(self) -> str:
        return url_of(self._sockets[0][0].getsockname())

    def descriptors(self, worker: int) -> list[int]:
        """The descriptors of worker ``worker`` (1 …), to be inherited."""
        return [bound.fileno() for bound in self._of(worker)]

    def renew(self, worker: int) -> None:
        """Replace the sockets of a worker that died, for its successor. Raises ``OSError``.

        Closing them refuses connections that waited there, which nobody would ever accept, and
        directs new ones to the other workers.
        """
        if self._spreads:
            mine = self._of(worker)
            fresh = [_bind(bound.family, bound.getsockname()[:2], share=True) for bound in mine]
            _close(mine)
            mine[:] = fresh

    def close(self) -> None:
        """Close this process's descriptors; the workers' copies stay open."""
        for sockets in self._sockets:
            _close(sockets)

    def _of(self, worker: int) -> list[socket.socket]:
        return self._sockets[worker - 1 if self._spreads else 0]


def url_of(address: Sequence[object]) -> str:
    """The address of a bound socket, for use on this machine."""
    host, port = str(address[0]), address[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"


def explained(error: OSError, host: str, port: int, key: str) -> StartError:
    """The start's error for a port that cannot be bound, with the fix."""
    where = f"port {port} on {host}"
    fix = f"set netConfig.{key} (BASE_SERVER__NETCONFIG__{key.upper()})"
    if error.errno == errno.EADDRINUSE:
        return PortInUse(f"Cannot listen: {where} is in use: stop the other server or {fix}.")
    if error.errno == errno.EACCES:
        return StartError(
            f"Cannot listen: no permission for {where}: take a port above 1023; {fix}."
        )
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return StartError(
            f"Cannot listen: {host} is no address of this machine: set netConfig.host."
        )
    return StartError(f"Cannot listen on {where}: {error.strerror}; {fix}.")


def _bind(family: int, address: tuple[str, int], *, share: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


def _close(sockets: Sequence[socket.socket]) -> None:
    for bound in sockets:
        bound.close()

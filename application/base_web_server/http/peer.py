"""The address of the client, seen through the proxies that are trusted."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from aiohttp import web


class PeerFinder:
    """``trusted_proxies``: networks whose entries in X-Forwarded-For are trusted."""

    def __init__(self, trusted_proxies: Sequence[str]) -> None:
        self._networks = [ip_network(proxy, strict=False) for proxy in trusted_proxies]

    def find(self, request: web.BaseRequest) -> str:
        """The last address on the way here that is no trusted proxy; empty for a Unix socket."""
        peer = request.remote or ""
        if not self._networks:
            return peer
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
        for hop in reversed(forwarded.split(",")):
            if not self._is_trusted(peer) or not _is_address(hop.strip()):
                break
            peer = hop.strip()
        return peer

    def _is_trusted(self, peer: str) -> bool:
        return _is_address(peer) and any(ip_address(peer) in network for network in self._networks)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True

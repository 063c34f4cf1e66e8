"""Rate limits: failed logins per account and address, signups per address."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

from base_server.service.cache.cache_service import CacheService
from base_server.service.redis_client.script import load_scripts
from base_server.template.base.errors import TooManyRequests

_IPV6_PREFIX = 64
"""RFC 6177: a site has at least a /64, and its hosts choose the other 64 bits freely."""

_SCRIPTS = load_scripts(Path(__file__).parent / "lua")


class LoginLimit:
    """Counts attempts that have not succeeded, in windows of ``window_s`` in Redis, for all
    processes.

    An attempt counts from its begin, so parallel guesses gain nothing.
    """

    def __init__(
        self, cache: CacheService, *, per_account: int, per_address: int, window_s: int
    ) -> None:
        self._cache = cache
        self._per_account = per_account
        self._per_address = per_address
        self._window_s = window_s

    async def check(self, account_id: str, peer: str) -> None:
        """Count an attempt; raises :class:`TooManyRequests` with the time to wait."""
        for key, limit in self._counters(account_id, peer):
            await _count(
                self._cache, key, limit, self._window_s, "too many failed logins, try again later"
            )

    async def forgive(self, account_id: str, peer: str) -> None:
        """Take the attempt back: it succeeded."""
        for key, _ in self._counters(account_id, peer):
            await self._cache.get_client().run_script(
                _SCRIPTS["forgive_attempt"], [key], [], repeatable=False
            )

    def _counters(self, account_id: str, peer: str) -> list[tuple[str, int]]:
        """The address first: once over its limit it cannot use up the attempts of accounts."""
        counters = [
            (self._cache.get_client().key(f"login_attempts:{account_id}"), self._per_account)
        ]
        if peer:
            counters.insert(
                0, (_address_key(self._cache, "login_attempts_from", peer), self._per_address)
            )
        return counters


class SignupLimit:
    """Counts signups per address, failed ones too: that also slows down probing for taken names."""

    def __init__(self, cache: CacheService, *, per_address: int, window_s: int) -> None:
        self._cache = cache
        self._per_address = per_address
        self._window_s = window_s

    async def check(self, peer: str) -> None:
        """Count a signup; raises :class:`TooManyRequests`. A caller without an address is not
        counted.
        """
        if peer:
            key = _address_key(self._cache, "signups_from", peer)
            await _count(
                self._cache,
                key,
                self._per_address,
                self._window_s,
                "too many signups, try again later",
            )


async def _count(cache: CacheService, key: str, limit: int, window_s: int, refusal: str) -> None:
    wait_s = await cache.get_client().run_script(
        _SCRIPTS["count_attempt"], [key], [limit, window_s], repeatable=False
    )
    if wait_s:
        raise TooManyRequests(refusal, retry_after_s=float(wait_s))


def _address_key(cache: CacheService, kind: str, peer: str) -> str:
    block = _block_of(peer)
    # of_text hashes the whole text: an IPv6 address has colons of its own.
    return cache.get_client().key(f"{kind}:{block}", partition=cache.partitions.of_text(block))


def _block_of(peer: str) -> str:
    """What one customer has: an IPv4 address, or the first 64 bits of an IPv6 address."""
    try:
        address = ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, IPv4Address):
        return peer
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((int(address), _IPV6_PREFIX), strict=False))

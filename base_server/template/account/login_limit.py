"""How often a password may be guessed, per account and per address."""

from __future__ import annotations

from pathlib import Path

from service.cache.cache_service import CacheService
from service.cache.script import load_scripts
from template.base.errors import TooManyRequests


class LoginLimit:
    """Counts attempts that have not succeeded, in windows of ``window_s`` kept in Redis (so over all processes).

    Attempts under way count, so parallel guesses gain nothing.
    """

    def __init__(self, cache: CacheService, *, per_account: int, per_address: int, window_s: int) -> None:
        self._cache = cache
        self._per_account = per_account
        self._per_address = per_address
        self._window_s = window_s
        scripts = load_scripts(Path(__file__).parent / "lua")
        self._count = scripts["count_attempt"]
        self._forgive = scripts["forgive_attempt"]

    async def check(self, account_id: str, peer: str) -> None:
        """Count an attempt; raises :class:`TooManyRequests` with the time to wait when there were too many."""
        client = self._cache.get_client()
        for key, limit in self._counters(account_id, peer):
            wait_s = await client.run_script(self._count, [key], [limit, self._window_s], repeatable=False)
            if wait_s:
                raise TooManyRequests("too many failed logins, try again later", retry_after_s=float(wait_s))

    async def forgive(self, account_id: str, peer: str) -> None:
        """The attempt succeeded: it does not count."""
        for key, _ in self._counters(account_id, peer):
            await self._cache.get_client().run_script(self._forgive, [key], [], repeatable=False)

    def _counters(self, account_id: str, peer: str) -> list[tuple[str, int]]:
        client = self._cache.get_client()
        counters = [(client.key(f"login_attempts:{account_id}"), self._per_account)]
        if peer:
            # The whole text is hashed, as an IPv6 address has colons of its own.
            partition = self._cache.partitions.of_text(peer)
            counters.append((client.key(f"login_attempts_from:{peer}", partition=partition), self._per_address))
        return counters

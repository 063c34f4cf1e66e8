"""Argon2id in a bounded thread pool, so that logins have a limit of memory and CPU."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from base_server.service.core.logger import Logger
from base_server.template.base.errors import TooManyRequests

T = TypeVar("T")


class PasswordVault:
    """Hashes and verifies passwords.

    At most ``threads`` at a time and ``waiting`` behind them; more raise :class:`TooManyRequests`.
    A hash takes about 0.1 s and 64 MiB (RFC 9106, second recommended option).
    """

    def __init__(self, threads: int = 2, waiting: int = 64) -> None:
        self._hasher = PasswordHasher()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._capacity = threads + waiting
        self._absent: str | None = None

    async def hash(self, password: str) -> str:
        """The encoded hash to store (about 100 ASCII characters)."""
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether ``password`` matches ``stored``; False after the same work for None."""
        return await self._run(lambda: self._verify(stored, password))

    def close(self) -> None:
        """Wait for running hashes and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _verify(self, stored: str | None, password: str) -> bool:
        if self._absent is None:
            self._absent = self._hasher.hash("no account has this password")
        try:
            return self._hasher.verify(stored or self._absent, password) and stored is not None
        except VerifyMismatchError:
            return False
        except (VerificationError, InvalidHashError) as error:
            Logger.error("a stored password hash cannot be read", error=type(error).__name__)
            return self._verify(None, password)  # the same work, and False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._capacity == 0:
            raise TooManyRequests("too many logins at once, try again", retry_after_s=1)
        self._capacity -= 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        # Released when the work is done, not when the caller is cancelled: the thread is still
        # busy.
        future.add_done_callback(self._release)
        return await asyncio.shield(future)

    def _release(self, _: object) -> None:
        self._capacity += 1

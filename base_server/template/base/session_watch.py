"""Ends long requests and streams soon after their session has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from types import TracebackType
from typing import Protocol, runtime_checkable

from base_server.service.core.errors import ServiceError
from base_server.service.core.logger import Logger
from base_server.template.base.errors import SessionMissing
from base_server.template.base.session_guard import CachedSession
from base_server.template.base.session_info import SessionInfo

_AT_ONCE = 100


class SessionFinder(Protocol):
    """The source of sessions: the account template's store, or a host's own service."""

    async def find(self, token: str) -> SessionInfo | None:
        """The session of ``token``, or None. Raises ``ServiceUnavailable`` on an outage."""
        ...


@runtime_checkable
class ManySessions(Protocol):
    """A :class:`SessionFinder` that checks many sessions in one call."""

    async def find_ended(self, tokens: Collection[str]) -> Collection[str]:
        """Those of ``tokens`` without a session. Raises ``ServiceUnavailable`` on an outage."""
        ...


@runtime_checkable
class CachesSessions(Protocol):
    """A :class:`SessionFinder` with a cache in this process."""

    def find_cached(self, token: str) -> CachedSession | None:
        """The session of ``token`` as it was found last, to be verified; None: look it up."""
        ...


class SessionWatch:
    """Checks the sessions of running requests periodically; no task while no request runs.

    The end of a session is noticed within ``period_s``.
    """

    def __init__(self, sessions: SessionFinder, period_s: float) -> None:
        self._sessions = sessions
        self._pause_s = period_s / 2
        self._scopes: set[_Scope] = set()
        self._looking: asyncio.Task[None] | None = None

    def lasting(self, token: str) -> _Scope:
        """``with``: when the session of ``token`` ends, the body is cancelled and this raises
        :class:`SessionMissing`.
        """
        return _Scope(self, token)

    def enter(self, scope: _Scope) -> None:
        self._scopes.add(scope)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="session watch")

    def leave(self, scope: _Scope) -> None:
        self._scopes.discard(scope)

    async def _look(self) -> None:
        known: set[str] = set()
        try:
            while self._scopes:
                await asyncio.sleep(self._pause_s)
                # Requests that began since the last check had their session looked up then.
                ended = set(await self._ended(known & {scope.token for scope in self._scopes}))
                for scope in [scope for scope in self._scopes if scope.token in ended]:
                    self._scopes.remove(scope)
                    scope.end()
                known = {scope.token for scope in self._scopes}
        finally:
            self._looking = None

    async def _ended(self, tokens: Collection[str]) -> list[str]:
        ended: list[str] = []
        asked = list(tokens)
        at_once = max(1, len(asked)) if isinstance(self._sessions, ManySessions) else _AT_ONCE
        for start in range(0, len(asked), at_once):
            some = asked[start : start + at_once]
            try:
                if isinstance(self._sessions, ManySessions):
                    ended += await self._sessions.find_ended(some)
                else:
                    found = await asyncio.gather(*(self._sessions.find(token) for token in some))
                    ended += [
                        token for token, session in zip(some, found, strict=True) if session is None
                    ]
            except ServiceError:
                continue  # an outage ends no session
            except Exception as error:  # of a host's service: the watch must go on for the others
                Logger.error("sessions could not be looked up", exc_info=error)
        return ended


class _Scope:
    """A running request. Cancels as ``asyncio.timeout`` does, at a third of the cost."""

    __slots__ = ("_cancelling", "_has_ended", "_task", "_watch", "token")

    def __init__(self, watch: SessionWatch, token: str) -> None:
        self._watch = watch
        self.token = token
        self._has_ended = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a request runs in a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._watch.enter(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watch.leave(self)
        if (
            self._has_ended
            and self._task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            raise SessionMissing("the session ended while the request was answered") from None

    def end(self) -> None:
        self._has_ended = True
        self._task.cancel()

"""A session that was found a moment ago: the request's first script asks whether it goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from base_server.service.core.errors import AnswerLost, PremiseFailed, ServiceUnavailable
from base_server.template.base.error_response import as_api_error
from base_server.template.base.errors import SessionMissing
from base_server.template.base.session_info import SessionInfo

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Belief:
    """A session as it was found last; ``premise`` is what the cache has to be asked to prove it."""

    session: SessionInfo
    premise: Any


class SessionProof:
    """Of one request. Its handler gives every script to :meth:`run`, and does and tells nothing before the first."""

    __slots__ = ("_find", "_premise")

    def __init__(self, premise: Any, find: Callable[[], Awaitable[SessionInfo | None]]) -> None:
        self._premise = premise
        self._find = find

    async def run(self, script: Callable[[Any], Awaitable[T]]) -> T:
        """What ``script(premise)`` answers; with None it has nothing to ask, for the session is proven.

        A script whose premise failed, or whose answer was lost, runs again after the session was looked up. Until it is
        proven an outage is the answer itself (ServiceDown): nothing is told from elsewhere. Raises SessionMissing.
        """
        if self._premise is None:
            return await script(None)
        premise, self._premise = self._premise, None
        try:
            return await script(premise)
        except PremiseFailed:
            await self._look()
        except AnswerLost as lost:
            try:
                await self._look()
            except SessionMissing:
                raise as_api_error(
                    lost
                ) from lost  # it may have been executed while the session was there
        except ServiceUnavailable as outage:
            raise as_api_error(outage) from outage
        return await script(None)

    async def look(self) -> None:
        """Look the session up, unless a script has asked. Raises SessionMissing, and ServiceDown on an outage."""
        if self._premise is not None:
            self._premise = None
            await self._look()

    async def _look(self) -> None:
        try:
            session = await self._find()
        except ServiceUnavailable as outage:
            raise as_api_error(outage) from outage
        if session is None:
            raise SessionMissing

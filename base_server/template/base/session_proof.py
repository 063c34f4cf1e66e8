"""A session that was found a moment ago: the request's first script asks whether it goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from base_server.service.core.errors import (
    ConnectionLostInFlight,
    PreconditionFailed,
    ServiceUnavailable,
)
from base_server.template.base.error_response import as_api_error
from base_server.template.base.errors import SessionMissing
from base_server.template.base.session_info import SessionInfo

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class VerifiedSession:
    """A session as it was found last; a script checks its ``precondition`` to prove it."""

    session: SessionInfo
    precondition: Any


class SessionProof:
    """Of one request. Its handler gives every script to :meth:`run`, and nothing comes before it."""

    __slots__ = ("_find", "_precondition")

    def __init__(
        self, precondition: Any, find: Callable[[], Awaitable[SessionInfo | None]]
    ) -> None:
        self._precondition = precondition
        self._find = find

    async def run(self, script: Callable[[Any], Awaitable[T]]) -> T:
        """Return ``script(precondition)``; the precondition is None once the session is proven.

        A script whose precondition failed, or whose answer was lost, runs again after the session
        was looked up. Until it is proven an outage is the answer itself (ServiceDown): nothing is
        told from elsewhere. Raises SessionMissing.
        """
        if self._precondition is None:
            return await script(None)
        precondition, self._precondition = self._precondition, None
        try:
            return await script(precondition)
        except PreconditionFailed:
            await self._look()
        except ConnectionLostInFlight as lost:
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
        if self._precondition is not None:
            self._precondition = None
            await self._look()

    async def _look(self) -> None:
        try:
            session = await self._find()
        except ServiceUnavailable as outage:
            raise as_api_error(outage) from outage
        if session is None:
            raise SessionMissing

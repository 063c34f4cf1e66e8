"""A session from the process's cache: the request's first script verifies that it goes on."""

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
class CachedSession:
    """A session as it was found last; it goes on if a script's ``precondition`` holds."""

    session: SessionInfo
    precondition: Any


class SessionGuard:
    """Of one request. Its handler gives every script to :meth:`run`, and nothing comes before."""

    __slots__ = ("_find", "_precondition")

    def __init__(
        self, precondition: Any, find: Callable[[], Awaitable[SessionInfo | None]]
    ) -> None:
        self._precondition = precondition
        self._find = find

    async def run(self, run_script: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Return ``run_script(*args)``; the first call gets the session's ``precondition`` too.

        A script whose precondition failed, or whose answer was lost, runs again after the session
        was looked up. Until it is verified an outage ends the request (ServiceDown): nothing is
        read from elsewhere. Raises SessionMissing.
        """
        if self._precondition is None:
            return await run_script(*args)
        precondition, self._precondition = self._precondition, None
        try:
            return await run_script(*args, precondition=precondition)
        except PreconditionFailed:
            await self._look_up()
        except ConnectionLostInFlight as lost:
            try:
                await self._look_up()
            except SessionMissing:
                # The script may have been executed while the session was there.
                raise as_api_error(lost) from lost
        except ServiceUnavailable as outage:
            raise as_api_error(outage) from outage
        return await run_script(*args)

    async def verify(self) -> None:
        """Look the session up, unless a script has verified it. Raises SessionMissing, and
        ServiceDown on an outage."""
        if self._precondition is not None:
            self._precondition = None
            await self._look_up()

    async def _look_up(self) -> None:
        try:
            session = await self._find()
        except ServiceUnavailable as outage:
            raise as_api_error(outage) from outage
        if session is None:
            raise SessionMissing

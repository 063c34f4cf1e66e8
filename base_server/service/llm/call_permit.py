"""The caller's permit to call a provider, obtained right before the request goes out.

A caller may have to note durably that it calls (docs/decisions/0037). Whatever lies between that
note and the request is time in which the process can die and leave a question that is noted as
asked and was not; making the request ready is most of it. So the HTTP client obtains the permit,
after the request has been made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class CallPermit:
    """Obtained once, whatever is sent after the first request.

    ``failure``: what the claim raised, if it did."""

    def __init__(self, claim: Callable[[], Awaitable[None]]) -> None:
        self._claim = claim
        self._is_given = False
        self.failure: Exception | None = None

    async def obtain(self) -> None:
        """Raises what the caller's claim raises."""
        if self._is_given:
            return
        try:
            await self._claim()
        except Exception as error:
            self.failure = error
            raise
        self._is_given = True


_of_this_call: ContextVar[CallPermit | None] = ContextVar("call_permit", default=None)


@contextmanager
def needing(permit: CallPermit) -> Iterator[None]:
    """Requests that are sent inside, in this task, obtain ``permit`` first."""
    token = _of_this_call.set(permit)
    try:
        yield
    finally:
        _of_this_call.reset(token)


async def obtain_permit(request: object) -> None:
    """The HTTP client's hook for a request that is ready."""
    if (permit := _of_this_call.get()) is not None:
        await permit.obtain()

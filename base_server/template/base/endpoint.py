"""A row of a template's endpoint table: a POST route, its models, handler and access."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from base_server.service.core.renamed import old_names
from base_server.template.base.client_session import ClientSession
from base_server.template.base.envelope import Request, Response
from base_server.template.base.errors import ErrorCode
from base_server.template.base.event_stream import Events, StreamEvent

# A handler takes its endpoint's own request type. That of a stream returns its events, or a
# response with the error that happened before the first event.
Handler = Callable[[ClientSession, Any], Awaitable[Response | Events]]


class Access(Enum):
    """Who may call: an account with a session, or anyone."""

    USER = "user"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True)
class Example:
    """A valid request and its response, for the API's description; of a stream, its ``events``.

    Ids are those of the other examples of the template, as if one account had sent them all.
    """

    request: Mapping[str, Any]
    answer: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[StreamEvent] = ()


@dataclass(frozen=True)
class Endpoint:
    """``id`` and ``path`` are unique in a server; ``summary`` is one line for the API description.

    ``events`` makes it a stream of Server-Sent Events: the events' names with the models of their
    data. ``response`` is the response to a request that failed before the first one.
    ``verifies_session``: the handler verifies its caller's session in its first script
    (:class:`base_server.template.base.session_guard.SessionGuard`) and does nothing before.
    ``errors``: the codes that the handler may return, beside those of any request; None: all.
    """

    id: int
    path: str
    request: type[Request]
    response: type[Response]
    handler: Handler
    access: Access = Access.USER
    summary: str = ""
    events: Mapping[str, type[BaseModel]] = field(default_factory=dict)
    example: Example | None = None
    verifies_session: bool = False
    errors: Collection[ErrorCode] | None = None

    @property
    def possible_errors(self) -> list[ErrorCode]:
        """The error codes of a request, by number."""
        anybody = {ErrorCode.INVALID_REQUEST, ErrorCode.SERVER_ERROR, ErrorCode.SERVICE_DOWN}
        user = {ErrorCode.SESSION_MISSING} if self.access is Access.USER else set()
        own = set(ErrorCode) - {ErrorCode.OK} if self.errors is None else set(self.errors)
        return sorted(anybody | user | own)


if not TYPE_CHECKING:
    __getattr__ = old_names(__name__, Protocol="Endpoint")

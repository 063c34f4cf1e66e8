"""A row of a template's protocol table: one POST route, its models, its handler, who may call it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from template.base.client_session import ClientSession
from template.base.wire import Request, Response

# A handler takes its protocol's own request type, which the table pairs with it.
Handler = Callable[[ClientSession, Any], Awaitable[Response]]


class Access(Enum):
    """Who may call: an account with a session, or anybody."""

    USER = "user"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True)
class Protocol:
    """``id`` and ``path`` are unique in a server; ``summary`` is one line for the API description."""

    id: int
    path: str
    request: type[Request]
    response: type[Response]
    handler: Handler
    access: Access = Access.USER
    summary: str = ""

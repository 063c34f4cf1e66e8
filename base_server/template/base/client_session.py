"""The caller of a handler."""

from __future__ import annotations

from dataclasses import dataclass

from base_server.template.base.session_guard import SessionGuard
from base_server.template.base.session_info import SessionInfo


@dataclass(slots=True)
class ClientSession:
    """The account of the request (an empty one for anonymous endpoints) and where the request came
    from.

    ``peer`` is the client's address, after trusted proxies; empty when a handler is called
    directly. ``last_event_id`` is the header Last-Event-ID of a client that resumes a stream.
    ``guard``: the session is from the cache, and the handler's first script verifies it; None: it
    was looked up.
    """

    session: SessionInfo
    request_id: str = ""
    peer: str = ""
    last_event_id: str = ""
    guard: SessionGuard | None = None

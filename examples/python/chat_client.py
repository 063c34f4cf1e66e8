"""A reference client of the chat server, Python's standard library alone.

    python examples/python/chat_client.py http://127.0.0.1:8080 alice "correct horse"

signs up or logs in, makes a room and sends each line of the input; replies are printed as they are
written. What makes it safe on a bad network is in :meth:`ChatClient.say`: one ``client_message_id``
for all attempts at a message, and a stream that broke is resumed where it broke.
"""

from __future__ import annotations

import http.client
import json
import secrets
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

ATTEMPTS = 8
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 5.0


class ChatError(Exception):
    """The response to a failed request: ``code`` is ``ROOM_NOT_FOUND``, …; ``body`` the envelope.

    ``retryable``: the same request may succeed later.
    """

    def __init__(self, body: dict[str, Any]) -> None:
        error = body.get("error") or {}
        numbers = [str(part) for part in (body.get("errorCode"), error.get("code")) if part]
        super().__init__(f"{' '.join(numbers)}: {error.get('message')}")
        self.code: str = error.get("code", "")
        self.retryable: bool = error.get("retryable", False)
        self.retry_after_s: float | None = error.get("retry_after_s")
        self.body = body


class Event(NamedTuple):
    """One Server-Sent Event. ``id`` is opaque; resume from the last one seen."""

    name: str
    id: str
    data: dict[str, Any]


class ChatClient:
    """One account. Not thread-safe; ``timeout_s``: longest silence (a stream has a ping every 15
    s).
    """

    def __init__(self, base_url: str, *, timeout_s: float = 30.0) -> None:
        url = urlsplit(base_url)
        self._secure = url.scheme == "https"
        self._address = url.netloc
        self._timeout_s = timeout_s
        self._token = ""
        self._sequence = 0

    def log_in(self, account_id: str, password: str, *, sign_up: bool = False) -> None:
        """Keep a new access token. ``sign_up``: make the account first unless it exists."""
        if sign_up:
            try:
                self.call("/api/account/signup", account_id=account_id, password=password)
            except ChatError as error:
                if error.code != "ACCOUNT_EXISTS":
                    raise
        self._token = self.call("/api/account/login", account_id=account_id, password=password)[
            "accessToken"
        ]

    def create_room(self, ai_persona: str, title: str | None = None) -> dict[str, Any]:
        """A new room; repeated attempts make one."""
        answer = self.call(
            "/api/chat/room/create",
            ai_persona=ai_persona,
            title=title,
            client_request_id=str(uuid.uuid4()),
        )
        room: dict[str, Any] = answer["room"]
        return room

    def say(self, room_id: str, content: str, on_text: Callable[[str], None]) -> dict[str, Any]:
        """Send a message; ``on_text`` gets the reply piece by piece, each piece once. Returns the
        AI's message.

        Raises :class:`ChatError` when the server refuses it, or when the reply failed
        (``body["message"]`` is then what there is of it).
        """
        path = "/api/chat/message/stream"
        # One id for all attempts: the server stores the message, and asks the AI, once.
        fields: dict[str, Any] = {
            "room_id": room_id,
            "content": content,
            "client_message_id": uuid7(),
        }
        failure: Exception | None = None
        for attempt in range(ATTEMPTS):
            least_s = 0.0
            try:
                for event in self._stream(path, fields):
                    if event.name == "message.accepted":
                        path = "/api/chat/message/resume"
                        fields = {"room_id": room_id, "message_id": event.data["message_id"]}
                    elif event.name == "reply.delta":
                        on_text(event.data["text"])
                    elif event.name == "reply.error":
                        raise ChatError(event.data)
                    else:  # reply.done, reply.stopped
                        message: dict[str, Any] = event.data["message"]
                        return message
                    fields["last_event_id"] = event.id
            except ChatError as error:
                if not error.retryable:
                    raise
                failure = error
                least_s = error.retry_after_s or 0.0
            except (OSError, http.client.HTTPException) as error:
                failure = (
                    error  # the connection broke, or was not made: the reply goes on without us
                )
            _pause(attempt, least_s)
        raise TimeoutError(
            f"no whole reply in {ATTEMPTS} attempts ({failure or 'the stream ended early'})"
        )

    def call(self, path: str, **fields: Any) -> dict[str, Any]:
        """POST with retries; returns the response's envelope. Raises :class:`ChatError`."""
        failure: Exception | None = None
        for attempt in range(ATTEMPTS):
            least_s = 0.0
            try:
                with self._post(path, fields) as response:
                    return _checked(json.load(response))
            except ChatError as error:
                if not error.retryable:
                    raise
                failure = error
                least_s = error.retry_after_s or 0.0
            except (OSError, http.client.HTTPException) as error:
                failure = error
            _pause(attempt, least_s)
        raise TimeoutError(f"no answer to {path} in {ATTEMPTS} attempts ({failure})")

    def _stream(self, path: str, fields: dict[str, Any]) -> Iterator[Event]:
        """The events of one connection, until it ends."""
        with self._post(path, fields) as response:
            if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                _checked(json.load(response))  # refused before the first event
            event: dict[str, str] = {}
            for line in response:
                name, _, value = line.decode().rstrip("\r\n").partition(": ")
                if name:  # a comment (": ping") has none
                    event[name] = value
                elif line.strip() == b"" and "data" in event:
                    yield Event(event["event"], event.get("id", ""), json.loads(event["data"]))
                    event = {}

    def _post(self, path: str, fields: dict[str, Any]) -> http.client.HTTPResponse:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._address, timeout=self._timeout_s)
        self._sequence += 1
        body = {"sequence": self._sequence} | {
            name: value for name, value in fields.items() if value is not None
        }
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        connection.request("POST", path, json.dumps(body).encode(), headers)
        return connection.getresponse()


def uuid7() -> str:
    """A UUIDv7 (RFC 9562): its time lets the server recognise a retry without the database."""
    ms = time.time_ns() // 1_000_000
    value = ms << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))


def _checked(body: dict[str, Any]) -> dict[str, Any]:
    if body["errorCode"] != 0:
        raise ChatError(body)
    return body


def _pause(attempt: int, least_s: float) -> None:
    """Wait after an attempt: doubling, up to a limit, and as long as the server asks."""
    time.sleep(max(least_s, min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S)))


def main(base_url: str, account_id: str, password: str, ai_persona: str = "GPT4O") -> None:
    client = ChatClient(base_url)
    client.log_in(account_id, password, sign_up=True)
    room = client.create_room(ai_persona)
    for line in sys.stdin:
        if content := line.strip():
            client.say(room["room_id"], content, lambda text: print(text, end="", flush=True))
            print(flush=True)


def explained(error: Exception, base_url: str, account_id: str) -> str:
    """One line for the person before the terminal: what happened, and what to do about it."""
    if isinstance(error, ChatError):
        if error.code == "WRONG_CREDENTIALS":
            return (
                f"{account_id}: the password is wrong, or the name is somebody else's; try another"
            )
        return str(error)
    if isinstance(error, OSError):
        return f"{error}: is a server running at {base_url}?"
    return f"{base_url} does not answer as a chat server does: is the address right?"


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5) or not urlsplit(sys.argv[1]).netloc:
        sys.exit("usage: chat_client.py http://HOST:PORT ACCOUNT_ID PASSWORD [AI_PERSONA]")
    try:
        main(*sys.argv[1:])
    except (ChatError, OSError, ValueError, LookupError) as error:
        sys.exit(f"chat_client.py: {explained(error, *sys.argv[1:3])}")
    except KeyboardInterrupt:
        sys.exit(130)

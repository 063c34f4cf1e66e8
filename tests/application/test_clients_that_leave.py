"""A client that leaves in the middle of anything is a line at debug level, never a traceback."""

from __future__ import annotations

import json
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.server_process import ServerProcess, running_server

RESET = struct.pack("ii", 1, 0)
POST = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SIGNUP = POST % b"/api/account/signup"
LENGTH = b"Content-Length: 1000\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
# What the client sends before it leaves, and whether the server notices while it reads a body.
LEAVES = {
    "in a body": (SIGNUP + LENGTH + b'{"account_id":', True),
    "before a body": (SIGNUP + LENGTH, True),
    "in a chunk": (SIGNUP + CHUNKED + b"400\r\n{", True),
    "between chunks": (SIGNUP + CHUNKED + b"1\r\n{\r\n", True),
    "in a body by protocol id": (POST % b"/api/protocol/1001" + LENGTH + b"{", True),
    "in a body of a stream": (POST % b"/api/chat/message/stream" + LENGTH + b"{", True),
    "in a body after 100-continue": (SIGNUP + b"Expect: 100-continue\r\n" + LENGTH, True),
    "in a body of an unknown path": (POST % b"/nowhere" + LENGTH + b"{", False),
    "in a body that is refused": (SIGNUP + b"Content-Encoding: gzip\r\n" + LENGTH + b"{", False),
    "in a body of GET": (b"GET /readyz HTTP/1.1\r\nHost: x\r\n" + LENGTH + b"{", False),
    "in the head": (b"POST /api/account/signup HTTP/1.1\r\nHost:", False),
    "after garbage": (b"\x00\x01garbage\r\n\r\n", False),
    "after a bad header": (b"GET / HTTP/1.1\r\nno header\r\n\r\n", False),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    changes = {"BASE_SERVER__NETCONFIG__LOG_LEVEL": "debug"}
    with (
        tempfile.TemporaryDirectory(prefix="i-") as folder,
        running_server(Path(folder) / "data", workers=1, **changes) as running,
    ):
        yield running


def leave(server: ServerProcess, sent: bytes, *, reset: bool) -> None:
    url = urlsplit(server.base_url)
    with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
        connection.sendall(sent)
        time.sleep(0.05)  # lets the server begin with the request; either order must be right
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def wait_until_connections_are_closed(server: ServerProcess) -> None:
    """A request on a new connection is answered after what the loop had to do for the old ones."""
    url = urlsplit(server.base_url)
    for _ in range(3):
        with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while connection.recv(4096):
                pass


@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
@pytest.mark.parametrize(("sent", "is_noticed"), LEAVES.values(), ids=LEAVES.keys())
def test_a_client_that_leaves_is_one_line_at_debug_level(
    server: ServerProcess, sent: bytes, is_noticed: bool, reset: bool
) -> None:
    """cases/faults.md U8."""
    before = len(server.log)
    leave(server, sent, reset=reset)
    if is_noticed:
        deadline_s = time.monotonic() + 30
        while "client left" not in server.log[before:]:
            assert time.monotonic() < deadline_s, server.log[before:]
            time.sleep(0.01)
    wait_until_connections_are_closed(server)
    lines = [json.loads(line) for line in server.log[before:].splitlines()]
    assert all(line["level"] in ("debug", "info") for line in lines), lines
    assert [line["event"] for line in lines].count("client left") == is_noticed

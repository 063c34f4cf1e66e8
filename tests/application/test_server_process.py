"""The server as its users meet it: started from a shell, asked over HTTP, stopped, killed,
misconfigured.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.server_process import (
    ROOT,
    Client,
    ServerProcess,
    run_to_its_end,
    running_server,
    server_environment,
)
from tests.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(
        tmp_path_factory.mktemp("server") / "data",
        BASE_SERVER__NETCONFIG__MAX_BODY_BYTES="100000",
        BASE_SERVER__NETCONFIG__CORS_ORIGINS='["https://game.example"]',
    ) as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_health_and_metrics(server: ServerProcess, http: aiohttp.ClientSession) -> None:
    async with http.get(server.base_url + "/livez") as answer:
        assert (answer.status, await answer.json()) == (200, {"status": "alive"})
    async with http.get(server.base_url + "/readyz?verbose") as answer:
        body = await answer.json()
        assert (answer.status, body["status"], body["failed"], body["degraded"]) == (
            200,
            "ready",
            [],
            [],
        )
        assert {"redis", "database:global", "database:shard1", "database:shard2"} <= {
            c["name"] for c in body["checks"]
        }
    await Client(http, server.base_url).post(
        "/api/account/login", account_id="nobody", password="wrong password"
    )
    async with http.get(server.base_url + "/metrics") as answer:
        text = await answer.text()
    assert 'base_server_requests_total{error_code="2002",protocol="1002"} 1.0' in text
    assert 'base_server_request_seconds_bucket{le="0.001",protocol="1002"}' in text
    assert "base_server_ready 1.0" in text
    assert 'base_server_queue_waiting{queue="chat_persistence"}' in text


async def test_openapi_describes_every_protocol_and_error_code(
    server: ServerProcess, http: aiohttp.ClientSession
) -> None:
    async with http.get(server.base_url + "/openapi.json") as answer:
        document = await answer.json()
    assert document["openapi"] == "3.1.0"
    paths = {"/api/account/signup", "/api/account/login", "/api/account/logout", "/api/chat/rooms"}
    assert paths <= set(document["paths"])
    codes = {
        item["const"]: item["title"]
        for item in document["components"]["schemas"]["ErrorCode"]["oneOf"]
    }
    assert (len(codes), codes[1004], codes[10000]) == (18, "ROOM_NOT_FOUND", "SESSION_MISSING")
    signup = document["paths"]["/api/account/signup"]["post"]
    assert set(signup["responses"]) == {
        "200",
        "400",
        "408",
        "409",
        "413",
        "415",
        "429",
        "500",
        "503",
    }
    for ref in set(re.findall(r'"#/components/schemas/([^"]+)"', str(document).replace("'", '"'))):
        assert ref in document["components"]["schemas"]


NONSENSE = {"data": b"{}", "headers": {"Expect": "nonsense"}}
UTF_7 = "application/json; charset=utf-7"
REFUSED: dict[str, tuple[str, str, dict[str, Any], int, int]] = {
    "unknown path": ("POST", "/api/nowhere", {}, 404, 1003),
    "unknown page": ("GET", "/nowhere", {}, 404, 1003),
    "wrong method": ("GET", "/api/account/login", {}, 405, 1003),
    "unknown protocol": ("POST", "/api/protocol/4711", {}, 404, 1003),
    "no number": ("POST", "/api/protocol/abc", {}, 404, 1003),
    "other digits": ("POST", "/api/protocol/١٠٠٢", {}, 404, 1003),
    "too large": ("POST", "/api/account/login", {"data": b"a" * 100_001}, 413, 1002),
    "too large in chunks": ("POST", "/api/account/login", {"data": "chunks"}, 413, 1002),
    "an unknown Expect": ("POST", "/api/account/login", NONSENSE, 417, 1002),
    "not JSON": ("POST", "/api/account/login", {"data": b"account_id=alice"}, 400, 1002),
    "UTF-7": (
        "POST", "/api/account/login",
        {"data": b"{}", "headers": {"Content-Type": UTF_7}}, 400, 1002,
    ),
    "no session": ("POST", "/api/account/logout", {"data": b"{}"}, 401, 10000),
    "no token": ("POST", "/api/account/logout", {"json": {"accessToken": "07.x"}}, 401, 10000),
    "field missing": ("POST", "/api/protocol/1002", {"json": {"account_id": "alice"}}, 400, 1002),
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"), REFUSED.values(), ids=REFUSED.keys()
)
async def test_what_is_refused_is_an_envelope(
    server: ServerProcess,
    http: aiohttp.ClientSession,
    method: str,
    path: str,
    options: dict[str, Any],
    status: int,
    code: int,
) -> None:
    if options.get("data") == "chunks":
        options = {"data": _chunks()}
    async with http.request(method, server.base_url + path, **options) as answer:
        assert answer.content_type == "application/json"
        body = await answer.json()
        assert (answer.status, body["errorCode"]) == (status, code)
        assert set(body["error"]) >= {"code", "message", "retryable"}
        assert ("Allow" in answer.headers) == (status == 405)


FIXES = {
    "unknown path": ("POST", "/api/nowhere", b"{}", "/openapi.json"),
    "unknown protocol": ("POST", "/api/protocol/4711", b"{}", "/openapi.json"),
    "wrong method": ("GET", "/api/account/login", None, "takes POST"),
    "wrong method of a page": ("POST", "/livez", b"{}", "takes GET, HEAD"),
    "too large": ("POST", "/api/account/login", b"a" * 100_001, "at most 100000 bytes"),
}


@pytest.mark.parametrize(("method", "path", "body", "fix"), FIXES.values(), ids=FIXES.keys())
async def test_what_is_refused_says_how_to_mend_it(
    server: ServerProcess,
    http: aiohttp.ClientSession,
    method: str,
    path: str,
    body: bytes | None,
    fix: str,
) -> None:
    async with http.request(method, server.base_url + path, data=body) as answer:
        assert fix in (await answer.json())["error"]["message"]


def test_a_body_is_asked_for_when_its_client_waits_to_be_asked(server: ServerProcess) -> None:
    host, _, port = server.base_url.removeprefix("http://").partition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as raw,
        raw.makefile("rb") as answers,
    ):
        raw.sendall(
            b"POST /api/account/logout HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert answers.readline() == b"HTTP/1.1 100 Continue\r\n"
        raw.sendall(b"{}")
        assert answers.readline() == b"\r\n"
        assert answers.readline() == b"HTTP/1.1 401 Unauthorized\r\n"


def test_a_compressed_body_is_an_envelope(server: ServerProcess) -> None:
    connection = HTTPConnection(server.base_url.removeprefix("http://"), timeout=10)
    connection.request("POST", "/api/account/login", b"{}", {"Content-Encoding": "gzip"})
    with closing(connection), connection.getresponse() as answer:
        assert (answer.status, json.loads(answer.read())["errorCode"]) == (415, 1002)


async def _chunks() -> AsyncIterator[bytes]:
    for _ in range(11):
        yield b"a" * 10_000


async def test_request_ids_are_taken_if_sane_and_returned(
    server: ServerProcess, http: aiohttp.ClientSession
) -> None:
    for given, path in (("abc-1.2_3", "/livez"), ("abc-4", "/nowhere")):
        async with http.get(server.base_url + path, headers={"X-Request-ID": given}) as answer:
            assert answer.headers["X-Request-ID"] == given
    for given in ("a b", "x" * 65, "ü", ""):
        async with http.get(server.base_url + "/livez", headers={"X-Request-ID": given}) as answer:
            assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])


async def test_only_listed_origins_may_call(
    server: ServerProcess, http: aiohttp.ClientSession
) -> None:
    asks = {"Access-Control-Request-Method": "POST"}
    url = server.base_url + "/api/account/login"
    async with http.options(url, headers={"Origin": "https://game.example", **asks}) as answer:
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (
            204,
            "https://game.example",
        )
    async with http.options(url, headers={"Origin": "https://evil.example", **asks}) as answer:
        assert answer.status == 405
        assert "Access-Control-Allow-Origin" not in answer.headers


PASSWORD = "비밀번호 열두 글자"
_ON_A_TERMINAL = """
import os, runpy, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as in a login: the tests may run under nohup
# The first terminal that a session's leader opens is its own.
terminal = os.open(sys.argv.pop(1), os.O_RDWR)
for stream in (0, 1, 2):
    os.dup2(terminal, stream)
os.close(terminal)
runpy.run_module("application.base_web_server", run_name="__main__", alter_sys=True)
"""


async def test_accounts_over_http(server: ServerProcess, http: aiohttp.ClientSession) -> None:
    client = Client(http, server.base_url)
    created = await client.ok(
        "/api/protocol/1001", account_id="ＰＬＡＹＥＲ_1", password="비밀번호 열두 글자", sequence=3
    )
    assert (created["account_id"], created["sequence"]) == ("player_1", 3)
    again = await client.post(
        "/api/account/signup", account_id="player_1", password="another password"
    )
    assert again["errorCode"] == 2001
    login = await client.ok("/api/account/login", account_id="Player_1", password=PASSWORD)
    assert login["account"]["account_id"] == "player_1"
    assert login["account"]["created_at"].endswith("+00:00")
    client.token = login["accessToken"]
    await client.ok("/api/chat/rooms")
    await client.ok("/api/account/logout")
    assert (await client.post("/api/account/logout"))["errorCode"] == 10000
    assert login["accessToken"] not in server.log
    assert PASSWORD not in server.log


async def test_what_was_acknowledged_outlives_a_kill(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with running_server(tmp_path / "data", is_fresh=True) as server:
        client = Client(http, server.base_url)
        await client.sign_in("alice")
        room = (await client.ok("/api/chat/room/create", ai_persona="DEMO", title="한글 방 🎮"))[
            "room"
        ]
        sent = await client.ok(
            "/api/chat/message/send", room_id=room["room_id"], content="첫 메시지 👋"
        )
        server.kill()
        server.start()
        client.base_url = server.base_url
        listed = await client.ok("/api/chat/messages", room_id=room["room_id"])
        contents = [message["content"] for message in listed["messages"]]
        assert contents == ["첫 메시지 👋", sent["message"]["content"]]
        rooms = await client.ok("/api/chat/rooms")
        assert [item["title"] for item in rooms["rooms"]] == ["한글 방 🎮"]


async def test_a_terminal_that_closes_ends_the_server_in_order(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    """It sends SIGHUP, and takes no line of the log any more."""
    data_dir, (screen, terminal) = tmp_path / "data", os.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _ON_A_TERMINAL, os.ttyname(terminal),
        cwd=ROOT, env=server_environment(data_dir), start_new_session=True,
    )  # fmt: skip
    said = b""
    while b"Ready at " not in said or b"server ready" not in said:
        said += await asyncio.to_thread(os.read, screen, 65536)
    os.close(terminal)
    client = Client(http, re.findall(r"Ready at (\S+)", said.decode())[0])
    await client.sign_in("alice")
    room = (await client.ok("/api/chat/room/create", ai_persona="DEMO"))["room"]
    await client.ok("/api/chat/message/send", room_id=room["room_id"], content="before")
    os.close(screen)
    try:
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert not _children_in(data_dir)
    with running_server(data_dir, workers=1, is_fresh=True) as server:
        client.base_url = server.base_url
        listed = await client.ok("/api/chat/messages", room_id=room["room_id"])
        assert listed["messages"][0]["content"] == "before"
        assert "ending an orphaned" not in server.log


def test_under_nohup_a_terminal_that_closes_changes_nothing(tmp_path: Path) -> None:
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with running_server(tmp_path / "data", is_fresh=True, workers=1) as server:
            server.signal(signal.SIGHUP)
            with pytest.raises(subprocess.TimeoutExpired):
                server.wait(timeout_s=1)
            assert "server drains" not in server.log
    finally:
        signal.signal(signal.SIGHUP, ignored)


def test_sigterm_stops_cleanly_and_a_second_one_does_not_wait(tmp_path: Path) -> None:
    with running_server(
        tmp_path / "data", is_fresh=True, BASE_SERVER__NETCONFIG__QUIET_S="3600"
    ) as server:
        server.signal(signal.SIGTERM)
        server.wait_for_log("server drains")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "server stopped" in server.log
        assert not _children_in(server.data_dir)


async def test_while_it_drains_it_answers_but_is_not_ready(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with running_server(
        tmp_path / "data", is_fresh=True, BASE_SERVER__NETCONFIG__QUIET_S="60"
    ) as server:
        server.signal(signal.SIGTERM)
        server.wait_for_log("server drains")
        async with http.get(server.base_url + "/readyz") as answer:
            assert (answer.status, (await answer.json())["status"]) == (503, "draining")
        assert (await Client(http, server.base_url).post("/api/account/logout"))[
            "errorCode"
        ] == 10000
        server.signal(signal.SIGTERM)


@pytest.mark.parametrize(("status_for_errors", "status"), [("error", 404), ("ok", 200)])
async def test_the_admin_port_has_the_operators_routes_to_itself(
    tmp_path: Path, http: aiohttp.ClientSession, status_for_errors: str, status: int
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    changes = {
        "BASE_SERVER__NETCONFIG__ADMIN_PORT": str(port),
        "BASE_SERVER__NETCONFIG__HTTP_STATUS_FOR_ERRORS": status_for_errors,
    }
    with running_server(tmp_path / "data", is_fresh=True, **changes) as server:
        async with http.get(f"http://127.0.0.1:{port}/readyz") as answer:
            assert answer.status == 200
        for path in ("/livez", "/readyz?verbose", "/metrics"):
            for ask in (http.get, http.head):
                async with ask(server.base_url + path) as answer:
                    assert answer.status == 404, (
                        "a probe of the wrong port must not take it for well"
                    )
        async with http.get(server.base_url + "/metrics") as answer:
            assert (await answer.json())["errorCode"] == 1003
        async with http.post(server.base_url + "/api/nowhere") as answer:
            assert (answer.status, (await answer.json())["errorCode"]) == (status, 1003)


def _children_in(data_dir: Path) -> list[str]:
    """Command lines of processes that still work in ``data_dir``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(data_dir) in line:
            found.append(line)
    return found


def _start_error(tmp_path: Path, **changes: str) -> str:
    """The one line of a server that cannot start."""
    ended = run_to_its_end(
        ["application.base_web_server"], server_environment(tmp_path / "data", changes)
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout == ""
    (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith("error: ")
    return line


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = _start_error(tmp_path, BASE_SERVER__NETCONFIG__PORT=port)
    assert f"port {port} on 127.0.0.1 is in use" in line
    assert "BASE_SERVER__NETCONFIG__PORT" in line


def test_a_data_dir_of_another_server_is_one_line(tmp_path: Path, server: ServerProcess) -> None:
    line = _start_error(tmp_path, BASE_SERVER__TEMPLATECONFIG__DATA_DIR=str(server.data_dir))
    assert str(server.data_dir) in line


def test_a_data_dir_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = _start_error(
        tmp_path, BASE_SERVER__TEMPLATECONFIG__DATA_DIR=str(tmp_path / "file" / "data")
    )
    assert "cannot be written" in line


def test_a_server_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    redis = {"BASE_SERVER__CACHECONFIG__TYPE": "redis", "BASE_SERVER__CACHECONFIG__PORT": "1"}
    assert "127.0.0.1:1" in _start_error(tmp_path, **redis)
    mysql = {"BASE_SERVER__DATABASECONFIG__TYPE": "mysql", "BASE_SERVER__DATABASECONFIG__PORT": "1"}
    assert "databaseConfig" in _start_error(tmp_path, **mysql)


def test_a_bad_value_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    assert "'netConfig.port' = 99999" in _start_error(
        tmp_path, BASE_SERVER__NETCONFIG__PORT="99999"
    )
    assert "default_persona" in _start_error(
        tmp_path, BASE_SERVER__LLMCONFIG__DEFAULT_PERSONA="NOBODY"
    )


def test_wrong_arguments_end_with_2() -> None:
    ended = run_to_its_end(["application.base_web_server", "--env", "MOON"], dict(os.environ))
    assert ended.returncode == 2


def test_a_missing_provider_key_stops_prod(tmp_path: Path) -> None:
    environment = server_environment(
        tmp_path / "data", {"BASE_SERVER__DATABASECONFIG__PASSWORD": "geheim"}
    )
    ended = subprocess.run(
        [sys.executable, "-m", "application.base_web_server", "--env", "PROD"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "OPENAI_API_KEY" in ended.stderr
    assert "geheim" not in ended.stderr

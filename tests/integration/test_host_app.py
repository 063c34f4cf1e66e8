"""A game server (``host_app/``, a source root of its own) mounts the chat without changing it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.server_process import ROOT, Client, server_environment
from tests.waiting import PATIENCE_S, until

HOST_APP = Path(__file__).parent / "host_app"
MINSU, JIWOO, GUEST = ("game-token-of-minsu", "game-token-of-jiwoo", "game-token-of-guest")


def environment(data_dir: Path, host: Path = HOST_APP) -> dict[str, str]:
    """As a host starts it: its own source root first, ours after it."""
    roots = os.pathsep.join(map(str, (host, ROOT)))
    return server_environment(data_dir) | {"PYTHONPATH": roots}


@contextmanager
def running(
    data_dir: Path, *arguments: str, host: Path = HOST_APP, **variables: str
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The host as a process: its address and the process; SIGTERM and exit code 0 at the end."""
    with (data_dir.parent / "host.log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=data_dir.parent, env=environment(data_dir, host) | variables,
            stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("Ready at "), (data_dir.parent / "host.log").read_text()[-3000:]
            yield line.split()[-1], process
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE_S) == 0, (data_dir.parent / "host.log").read_text()[
                    -3000:
                ]
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def player(http: aiohttp.ClientSession, address: str, token: str) -> Client:
    client = Client(http, address)
    client.token = token
    return client


def game(data_dir: Path, *more: str) -> Any:
    return running(data_dir, "game_server", "--data-dir", str(data_dir), *more)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A game that runs: its address and its data folder."""
    data_dir = tmp_path_factory.mktemp("market") / "data"
    with game(data_dir) as (address, _):
        yield address, data_dir


async def test_the_game_has_its_own_pages_templates_and_the_chat(
    http: aiohttp.ClientSession, market: tuple[str, Path]
) -> None:
    address, _ = market
    async with http.get(f"{address}/") as page:
        assert await page.text() == "the game"
    minsu, jiwoo = player(http, address, MINSU), player(http, address, JIWOO)
    assert [(await minsu.ok("/api/market/buy", item="sword"))["left"] for _ in range(3)] == [
        2,
        1,
        0,
    ]
    sold_out = await jiwoo.post("/api/protocol/8001", item="sword")
    assert (sold_out["errorCode"], sold_out["error"]["message"]) == (1008, "sword is sold out")
    room = (await minsu.ok("/api/chat/room/create", ai_persona="DEMO", title="모험 🗡️"))["room"]
    sent = await minsu.ok("/api/chat/message/send", room_id=room["room_id"], content="안녕")
    assert "안녕" in sent["message"]["content"]
    listed = await minsu.ok("/api/chat/rooms")
    assert [(r["title"], r["message_count"]) for r in listed["rooms"]] == [("모험 🗡️", 2)]
    # The accounts are the game's: nobody sees another's, and ours are not there.
    assert (await jiwoo.ok("/api/chat/rooms"))["total_count"] == 0
    assert (await jiwoo.post("/api/chat/messages", room_id=room["room_id"]))["errorCode"] == 1004
    assert (await player(http, address, "stolen").post("/api/chat/rooms"))["errorCode"] == 10000
    assert (await minsu.post("/api/account/login", account_id="minsu", password="12345678"))[
        "errorCode"
    ] == 1003
    # A player of whom the game knows no shard.
    guest = player(http, address, GUEST)
    await guest.ok("/api/chat/room/create", ai_persona="DEMO")
    assert (await guest.ok("/api/chat/rooms"))["total_count"] == 1


async def test_the_games_template_calls_the_chat_and_the_games_wire_reaches_it(
    http: aiohttp.ClientSession, market: tuple[str, Path]
) -> None:
    address, _ = market
    jiwoo = player(http, address, JIWOO)
    room_id = (await jiwoo.ok("/api/market/ask", item="sword"))["room_id"]
    message = {"protocol": 6001, "token": JIWOO, "body": {"limit": 5, "sequence": 9}}
    async with http.post(f"{address}/game/rpc", json=message) as answer:
        listed = (await answer.json())["body"]
    assert (listed["errorCode"], listed["sequence"]) == (0, 9)
    assert [(room["room_id"], room["title"]) for room in listed["rooms"]] == [
        (room_id, "About the sword")
    ]
    async with http.post(f"{address}/game/rpc", json=message | {"token": "stolen"}) as answer:
        assert (await answer.json())["body"]["errorCode"] == 10000


async def test_everything_is_there_after_a_kill(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    with game(tmp_path / "data") as (address, process):
        minsu = player(http, address, MINSU)
        room_id = (await minsu.ok("/api/chat/room/create", ai_persona="DEMO"))["room"]["room_id"]
        await minsu.ok("/api/chat/message/send", room_id=room_id, content="before the kill")
        process.kill()
        process.wait()
    with game(tmp_path / "data") as (address, _):
        page = await player(http, address, MINSU).ok("/api/chat/messages", room_id=room_id)
        assert [m["content"] for m in page["messages"] if m["sender_type"] == "USER"] == [
            "before the kill"
        ]


def refused(data_dir: Path, *more: str) -> str:
    """The line with which the game ends when it cannot start."""
    return refused_start(data_dir, "game_server", "--data-dir", str(data_dir), *more)


def refused_start(data_dir: Path, *arguments: str, **variables: str) -> str:
    """The line with which ``python -m …`` ends when it cannot start."""
    ended = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=data_dir.parent, env=environment(data_dir) | variables,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    line = ended.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert "Traceback" not in ended.stderr
    return line


def test_two_hosts_on_one_data_folder_are_refused(market: tuple[str, Path]) -> None:
    _, data_dir = market
    assert str(data_dir) in refused(data_dir)


@pytest.mark.parametrize("taken", ["6001", "6000"], ids=["first", "second"])
def test_a_protocol_id_that_the_chat_has_is_refused_at_start(tmp_path: Path, taken: str) -> None:
    line = refused(tmp_path / "data", "--market-protocol", taken)
    assert line.startswith("error: Template 'market' wants the id 6001 ")
    assert "template 'chat' has for protocol 6001 at /api/chat/rooms" in line
    assert not (tmp_path / "data").exists()


def test_a_protocol_id_that_the_chat_keeps_is_refused_at_start(tmp_path: Path) -> None:
    line = refused(tmp_path / "data", "--market-protocol", "6022")
    assert line.startswith("error: Template 'market' wants the id 6022 ")
    assert "template 'chat' keeps" in line


SHIPPED = ("application.base_web_server", "--env", "LOCAL")
REGISTER = "game_server.guest:register"


async def buys_and_asks(http: aiohttp.ClientSession, address: str) -> None:
    """The market and the chat are served side by side."""
    client = Client(http, address)
    await client.sign_in("minsu")
    assert (await client.ok("/api/market/buy", item="sword"))["left"] in range(3)
    room_id = (await client.ok("/api/market/ask", item="sword"))["room_id"]
    assert (await client.ok("/api/chat/rooms"))["rooms"][0]["room_id"] == room_id
    async with http.get(f"{address}/openapi.json") as answer:
        paths = (await answer.json())["paths"]
    assert {"/api/market/buy", "/api/chat/rooms", "/api/account/login"} <= set(paths)


@pytest.mark.parametrize(
    "arguments",
    [
        ("game_server.guest", "--env", "LOCAL"),
        (*SHIPPED, "--app", REGISTER),
    ],
    ids=["registered before main", "--app"],
)
async def test_the_market_can_be_a_guest_of_the_shipped_server(
    http: aiohttp.ClientSession, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """cases/promises.md P5."""
    with running(tmp_path / "data", *arguments) as (address, _):
        await buys_and_asks(http, address)


async def worker_pids(http: aiohttp.ClientSession, address: str) -> set[int]:
    """Of the workers that are ready."""
    with suppress(aiohttp.ClientError):
        async with http.get(f"{address}/readyz?verbose") as answer:
            workers = (await answer.json())["workers"]
        return {worker["pid"] for worker in workers if worker["status"] == "ready"}
    return set()


async def test_workers_that_are_started_again_serve_the_guest(tmp_path: Path) -> None:
    """cases/promises.md P5, after SIGHUP and after the death of a worker; named by the
    configuration.
    """
    variables = {"BASE_SERVER__NETCONFIG__APP": REGISTER, "BASE_SERVER__NETCONFIG__WORKERS": "2"}
    # A connection of its own for each request, and so any of the workers.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
        with running(tmp_path / "data", *SHIPPED, **variables) as (address, process):
            await buys_and_asks(http, address)
            client = Client(http, address)
            await client.sign_in("minsu")

            async def all_serve_the_market(without: set[int]) -> set[int]:
                found: set[int] = set()

                async def two_others() -> bool:
                    found.clear()
                    found.update(await worker_pids(http, address))
                    return len(found) == 2 and not found & without

                await until(two_others)
                for _ in range(12):
                    assert (await client.post("/api/market/buy", item="shield"))[
                        "errorCode"
                    ] == 1008, "sold out"
                return found

            first = await all_serve_the_market(without=set())
            process.send_signal(signal.SIGHUP)
            second = await all_serve_the_market(without=first)
            os.kill(min(second), signal.SIGKILL)
            await all_serve_the_market(without={min(second)})


def test_templates_of_one_process_are_refused_with_workers(
    tmp_path: Path,
) -> None:
    """cases/promises.md P5: not served by the workers, and said before anything has started."""
    line = refused_start(tmp_path / "data", "game_server.guest", "--env", "LOCAL", "--workers", "2")
    assert "in this process only: market" in line
    assert "--app module:function" in line
    assert not (tmp_path / "data").exists()


OWN_NAMES = """import application, service, template
from template.market.market_template import MarketTemplate

def register(context):
    assert application.WHOSE == service.WHOSE == template.WHOSE == "the host"
    context.add_template("MARKET", MarketTemplate(context))
"""


@pytest.fixture
def host_with_own_names(tmp_path: Path) -> Path:
    """The market in a host whose `application`, `service` and `template` are regular packages."""
    host = tmp_path / "host"
    shutil.copytree(HOST_APP / "template", host / "template")
    for name in ("application", "service", "template"):
        (host / name).mkdir(exist_ok=True)
        (host / name / "__init__.py").write_text("WHOSE = 'the host'\n")
    (host / "own_names.py").write_text(OWN_NAMES)
    return host


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_server_runs_beside_packages_of_the_same_names(
    host_with_own_names: Path, tmp_path: Path, workers: str
) -> None:
    server = ("base_server.application.base_web_server", "--env", "LOCAL", "--workers", workers)
    with running(
        tmp_path / "data", *server, "--app", "own_names:register", host=host_with_own_names
    ) as (address, _):
        # A connection of its own for each request, and so any of the workers.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
            await buys_and_asks(http, address)
            if workers == "2":
                assert len(await worker_pids(http, address)) == 2


def test_commands_run_beside_packages_of_the_same_names(
    host_with_own_names: Path, tmp_path: Path
) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "base_server.application.manage", "config", "check"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=environment(tmp_path / "data", host_with_own_names)
        | {"BASE_SERVER__NETCONFIG__APP": "own_names:register"},
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr

"""Several worker processes on one port: killed, replaced one by one and stopped while players chat
with all of them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import Deployment
from tests.event_client import streaming
from tests.load_clients import Findings, Player
from tests.server_process import (
    Client,
    ServerProcess,
    run_to_its_end,
    running_server,
    server_environment,
)
from tests.waiting import PATIENCE_S, until


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """Each request on a connection of its own, and so at a worker of chance."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(
        connector=connector, timeout=aiohttp.ClientTimeout(total=PATIENCE_S)
    ) as session:
        yield session


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Two workers on the embedded pair, with a port for operators."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    data_dir = tmp_path_factory.mktemp("pair") / "data"
    disk = data_dir.with_name("tmp")
    disk.mkdir()
    with running_server(
        data_dir, workers=2, BASE_SERVER__NETCONFIG__ADMIN_PORT=port, TMPDIR=str(disk)
    ) as server:
        server.admin_url = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
        yield server


async def readyz(http: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with http.get(f"{url}/readyz?verbose") as answer:
        body: dict[str, Any] = await answer.json()
    return body | {"http_status": answer.status}


async def pids(http: aiohttp.ClientSession, url: str) -> dict[int, int]:
    """Of the workers that are up."""
    body = await readyz(http, url)
    return {worker["worker"]: worker["pid"] for worker in body["workers"] if "pid" in worker}


async def all_up(
    http: aiohttp.ClientSession, url: str, count: int, *, without: Set[int] = frozenset()
) -> bool:
    """Whether all workers are ready, none of them a process of ``without``, whose end may not be
    noticed yet."""
    with suppress(aiohttp.ClientError):
        workers = (await readyz(http, url))["workers"]
        ready = [worker["pid"] for worker in workers if worker["status"] == "ready"]
        return len(ready) == count and not without & set(ready)
    return False


async def is_counted(http: aiohttp.ClientSession, admin_url: str, series: str) -> bool:
    """Whether a scrape says so: what one worker has counted the others know within a second."""
    async with http.get(f"{admin_url}/metrics") as answer:
        return series in await answer.text()


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


async def test_one_scrape_and_one_readiness_tell_of_all(
    pair: ServerProcess, http: aiohttp.ClientSession
) -> None:
    admin: str = pair.admin_url  # type: ignore[attr-defined]
    client = Client(http, pair.base_url)
    await client.sign_in("counter")
    for _ in range(30):
        await client.ok("/api/chat/rooms")
    await until(
        lambda: is_counted(
            http, admin, 'base_server_requests_total{error_code="0",protocol="6001"} 30.0'
        )
    )
    body = await readyz(http, admin)
    assert (body["http_status"], body["status"], body["failed"]) == (200, "ready", [])
    assert [worker["status"] for worker in body["workers"]] == ["ready", "ready"]
    for _ in range(4):  # any worker answers
        async with http.get(f"{admin}/metrics") as answer:
            text = await answer.text()
        assert 'base_server_requests_total{error_code="0",protocol="6001"} 30.0' in text
        assert 'base_server_request_seconds_count{protocol="6001"} 30.0' in text
        assert "base_server_ready 1.0" in text
        for of_a_process in ("process_resident_memory_bytes", "base_server_tasks"):
            assert (
                len(re.findall(rf'^{of_a_process}\{{worker="[12]"\}} [1-9]', text, re.MULTILINE))
                == 2
            )
        assert 'base_server_queue_waiting{queue="chat_persistence"}' in text
    async with http.get(pair.base_url + "/readyz") as answer:
        assert answer.status == 404


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no files in memory")
async def test_what_workers_say_of_themselves_needs_no_disk(
    pair: ServerProcess, http: aiohttp.ClientSession
) -> None:
    assert len(await pids(http, pair.admin_url)) == 2  # type: ignore[attr-defined]
    assert not list(pair.data_dir.with_name("tmp").glob("chat-workers-*")), (
        "a full one would end all of them"
    )


async def test_both_workers_take_connections_and_know_the_same_chat(
    pair: ServerProcess, http: aiohttp.ClientSession
) -> None:
    client = Client(http, pair.base_url)
    await client.sign_in("wanderer")
    room_id = (await client.ok("/api/chat/room/create", ai_persona="DEMO"))["room"]["room_id"]
    said = [f"text {number}" for number in range(12)]
    for text in said:
        await client.ok("/api/chat/message/send", room_id=room_id, content=text)
    listed = await client.ok("/api/chat/messages", room_id=room_id)
    assert [
        message["content"] for message in listed["messages"] if message["sender_type"] == "USER"
    ] == said
    served = {}
    for number, pid in (await pids(http, pair.admin_url)).items():  # type: ignore[attr-defined]
        served[number] = len(re.findall(rf'"pid": {pid}\b', pair.log))
    assert set(served) == {1, 2}


async def test_a_killed_worker_is_started_again_and_its_counts_stay(
    pair: ServerProcess, http: aiohttp.ClientSession
) -> None:
    admin: str = pair.admin_url  # type: ignore[attr-defined]
    await Client(http, pair.base_url).post("/api/protocol/1003")
    series = 'base_server_requests_total{error_code="10000",protocol="1003"} 1.0'
    await until(lambda: is_counted(http, admin, series))
    before = await pids(http, admin)
    os.kill(before[2], signal.SIGKILL)

    async def serves_without_it() -> bool:
        body = await readyz(http, admin)
        found = body["http_status"], body["degraded"], body["workers"][1]
        return found == (200, ["workers"], {"worker": 2, "status": "not up"})

    await until(serves_without_it)
    await until(lambda: all_up(http, admin, 2, without={before[2]}))
    after = await pids(http, admin)
    assert (after[1], after[2] != before[2]) == (before[1], True)
    assert await is_counted(http, admin, series)


async def test_the_embedded_server_outlives_its_workers_and_is_started_again(
    pair: ServerProcess, http: aiohttp.ClientSession
) -> None:
    client = Client(http, pair.base_url)
    await client.sign_in("survivor")
    valkey = int((pair.data_dir / "valkey" / "valkey.pid").read_text())
    os.kill(valkey, signal.SIGKILL)
    await until(lambda: not is_alive(valkey))
    # Called while nothing listens there: waited for, not refused.
    assert (await client.ok("/api/chat/rooms"))["rooms"] == []


@pytest.mark.parametrize("deployment", ["DEBUG 4"], indirect=True)
async def test_nothing_is_lost_while_workers_are_killed_and_replaced(
    deployment: Deployment, http: aiohttp.ClientSession
) -> None:
    server, findings, stop = deployment.server, Findings(), asyncio.Event()
    server.start()
    kept = aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=PATIENCE_S)
    )  # its connections are used again
    players = [
        Player(
            session, lambda: server.base_url, number=n, seed=time.time_ns() + n, findings=findings
        )
        for n, session in enumerate([http, kept] * 3)
    ]
    await asyncio.gather(*(player.sign_in() for player in players))
    playing = [asyncio.create_task(player.play(stop)) for player in players]
    first = await pids(http, server.base_url)
    try:
        server.signal(signal.SIGHUP)
        await asyncio.to_thread(server.wait_for_log, "rolling restart done", 90)
        second = await pids(http, server.base_url)
        assert not set(first.values()) & set(second.values())
        failed = [
            line
            for player in players
            for line in player.history
            if not re.search(r"-> (0|1006) ", line)
        ]
        assert not failed, "a rolling restart is not noticed"

        killed = {second[number] for number in (1, 3)}
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        await until(lambda: all_up(http, server.base_url, 4, without=killed))
        assert sum(player.acknowledged for player in players) > 100
    finally:
        stop.set()
        await asyncio.gather(*playing)
    await asyncio.gather(*(player.act() for player in players))
    await asyncio.gather(*(player.check() for player in players))
    findings.raise_if_any()
    await kept.close()
    last = await pids(http, server.base_url)
    assert server.stop() == 0
    assert not [pid for pid in last.values() if is_alive(pid)]
    assert Counter(re.findall('"event": "server stopped"', server.log)).total() == 8, (
        "four retired, four stopped"
    )


async def test_a_stream_goes_on_through_a_rolling_restart(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    slow = {"BASE_SERVER__LLMCONFIG__DEMO_WORD_DELAY_S": "0.25"}
    with running_server(tmp_path / "data", workers=2, **slow) as server:
        client = Client(http, server.base_url)
        await client.sign_in("listener")
        room_id = (await client.ok("/api/chat/room/create", ai_persona="DEMO"))["room"]["room_id"]
        question = "Tell me a short story."
        url, fields = (
            f"{server.base_url}/api/chat/message/stream",
            {"room_id": room_id, "content": question},
        )
        before = set((await pids(http, server.base_url)).values())
        text, offset, last = "", 0, None
        server.signal(signal.SIGHUP)
        while last is None:
            async with streaming(http, url, client.token, **fields) as events:
                async for event in events:
                    if event.name == "message.accepted":
                        fields = {"room_id": room_id, "message_id": event.data["message_id"]}
                    elif event.is_last:
                        last = event
                    else:
                        text, offset = text + event.data["text"], event.id
            # Cut without a last event: the rest is to be had elsewhere.
            url, fields["last_event_id"] = f"{server.base_url}/api/chat/message/resume", str(offset)
        assert last.name == "reply.done"
        assert text == last.data["message"]["content"]
        assert "almost lost" in text
        await asyncio.to_thread(server.wait_for_log, "rolling restart done", 60)
        assert not before & set((await pids(http, server.base_url)).values())


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "SIGKILL of the supervisor"]
)
async def test_no_worker_outlives_its_supervisor(
    tmp_path: Path, http: aiohttp.ClientSession, number: int
) -> None:
    with running_server(tmp_path / "data", workers=2) as server:
        client = Client(http, server.base_url)
        await client.sign_in("leaver")
        room_id = (await client.ok("/api/chat/room/create", ai_persona="DEMO"))["room"]["room_id"]
        workers = await pids(http, server.base_url)
        server.signal(number)
        assert server.wait() == (0 if number == signal.SIGINT else -signal.SIGKILL)
        await until(lambda: not any(map(is_alive, workers.values())))
        server.start()
        client.base_url = server.base_url
        assert (await client.ok("/api/chat/rooms"))["rooms"][0]["room_id"] == room_id


def test_start_waits_for_the_port_of_a_killed_servers_workers(
    tmp_path: Path,
) -> None:
    """A start waits until a killed servers workers have let go of the port."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = str(held.getsockname()[1])
        server = ServerProcess(
            tmp_path / "data", workers=2, changes={"BASE_SERVER__NETCONFIG__PORT": port}
        )
        server.launch()
        server.wait_for_log("port in use, waiting for it")
    try:
        server.wait_for_log("server ready")
    finally:
        assert server.stop() == 0


def test_what_stops_the_start_is_said_once(tmp_path: Path) -> None:
    def lines(*arguments: str, **changes: str) -> list[str]:
        environment = server_environment(tmp_path / "data", changes)
        ended = run_to_its_end(["application.base_web_server", *arguments], environment)
        assert (ended.returncode, ended.stdout) == (1, ""), ended.stderr
        return [line for line in ended.stderr.splitlines() if not line.startswith("{")]

    mysql = {"BASE_SERVER__DATABASECONFIG__TYPE": "mysql", "BASE_SERVER__DATABASECONFIG__PORT": "1"}
    why, what = lines("--workers", "4", **mysql)
    assert "databaseConfig" in why
    assert what.startswith(
        "error: Worker 1 ended at its start once, the last time with exit code 1"
    )
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        (line,) = lines(BASE_SERVER__NETCONFIG__PORT=port, BASE_SERVER__NETCONFIG__WORKERS="2")
    assert f"port {port} on 127.0.0.1 is in use" in line, "also when the other shares it"

"""Bodies made to be costly, over HTTP: refused in little time and memory, by every route, while
others are served."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.server_process import DESCRIBED, ServerProcess, running_server


def hostile_body(key_length: int, keys: int) -> bytes:
    """The body of cases/abuse.md A1: a long key around many short ones, then the character that is
    refused."""
    inside = b",".join(b'"%s":0' % f"{number:x}".zfill(3).encode() for number in range(keys))
    key = b"K" * key_length
    return b'{"account_id":"alice","password":"correct horse","%s":{%s},"z":"\\u0000"}' % (
        key,
        inside,
    )


SIZES = {"140 KB": hostile_body(100_000, 5_000), "980 KB": hostile_body(500_000, 60_000)}
POST_ROUTES = [
    path for path, described in DESCRIBED.items() if "post" in described and "{" not in path
]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with (
        tempfile.TemporaryDirectory(prefix="i-") as folder,
        running_server(Path(folder) / "data", workers=1) as running,
    ):
        yield running


def peak_memory_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return (
        int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
        * 1024
    )


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def refused_status(http: aiohttp.ClientSession, url: str, body: bytes) -> tuple[int, int]:
    async with http.post(url, data=body) as answer:
        return answer.status, (await answer.json())["errorCode"]


@pytest.mark.parametrize("size", SIZES)
async def test_a_hostile_body_costs_little_on_any_route(server: ServerProcess, size: str) -> None:
    """cases/abuse.md A1: it took 0.6 GB and 3 s (980 KB: 5.6 GB and 57 s, no other answer
    meanwhile)."""
    body = SIZES[size]
    paths = [*POST_ROUTES, "/api/protocol/1001", "/api/protocol/6011"]
    async with aiohttp.ClientSession(server.base_url) as http:
        assert await refused_status(http, paths[0], b'{"z":"\\u0000"}') == (400, 1002)
        peak_before, ticks_before = peak_memory_bytes(server.pid), cpu_ticks(server.pid)
        for path in paths:
            assert await refused_status(http, path, body) == (400, 1002)
        # A tenth of what one of these bodies took, for all of them.
        assert peak_memory_bytes(server.pid) - peak_before < 64 * 2**20
        assert (cpu_ticks(server.pid) - ticks_before) / len(paths) < 30, (
            "more than 0.3 s of CPU a body"
        )


async def test_livez_answers_while_hostile_bodies_are_refused(server: ServerProcess) -> None:
    """cases/abuse.md A1: /livez was dead for a minute."""
    body = SIZES["980 KB"]
    enough = asyncio.Event()
    async with aiohttp.ClientSession(server.base_url) as http:

        async def attack() -> set[tuple[int, int]]:
            statuses = set()
            while not enough.is_set():
                statuses.add(await refused_status(http, "/api/account/signup", body))
            return statuses

        attackers = [asyncio.create_task(attack()) for _ in range(4)]
        for _ in range(5):
            async with http.get("/livez") as answer:
                assert answer.status == 200
        enough.set()
        assert set().union(*[await attacker for attacker in attackers]) == {(400, 1002)}

"""Requests a second: sends and lists beside bare aiohttp, LangChain alone, and the peers."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import ExitStack
from itertools import chain

from benchmarks.bench import Bench, Row
from benchmarks.load import Ask, Contender
from benchmarks.ours import our_server
from benchmarks.population import TEXT, populate, quiet
from benchmarks.processes import running
from tests.server_process import ROOT

ROOMS = 64
_PARSED = "aiohttp + pydantic"
_AINVOKE = "ainvoke + two scripts"
_SKETCHES = ("sketch of a send", "sketch of a list")
_FASTAPI = "FastAPI + MySQL: send"
_LANGGRAPH = "LangGraph + MySQL: send"


def run(bench: Bench) -> None:
    with ExitStack() as stack:
        contenders = [*_limits(bench, stack), *_ours(bench, stack), *_peers(bench, stack)]
        found = bench.contest(contenders)
    for name in (
        "aiohttp, empty",
        _PARSED,
        "aiohttp + pydantic + one script",
        _AINVOKE,
        _FASTAPI,
        _LANGGRAPH,
    ):
        if name in found:
            bench.add(Row(name, found[name].per_s, "req/s", found[name].cpu_ms))
    for name in _SKETCHES:
        ratios = (
            found[name].per_s / found[_PARSED].per_s,
            found[_PARSED].cpu_ms / found[name].cpu_ms,
        )
        bench.add(Row(name, found[name].per_s, "req/s", found[name].cpu_ms, _PARSED, *ratios))

    def judge(work: str, against: str, target: float, note: str = "") -> None:
        if against in found:
            ours, other = found[work], found[against]
            ratios = ours.per_s / other.per_s, other.cpu_ms / ours.cpu_ms
            bench.add(
                Row(work, ours.per_s, "req/s", ours.cpu_ms, against, *ratios, target, note=note)
            )

    judge("send, provider stubbed", _PARSED, 0.35, "0.5 is the dream")
    judge("send, provider stubbed", _FASTAPI, 3)
    judge("send, provider stubbed", _LANGGRAPH, 30)
    judge("send, LangChain fake", _AINVOKE, 0.7)
    judge("message list, 20 cached", _PARSED, 0.5, "0.6 is the dream")
    judge("room list, 20 cached", _PARSED, 0.5, "0.6 is the dream")


def _limits(bench: Bench, stack: ExitStack) -> list[Contender]:
    command = [sys.executable, "-m", "benchmarks.subjects.bare", str(bench.backends.redis.socket)]
    bare = stack.enter_context(running("bare", command, os.environ, bench.folder / "bare.log"))

    def contender(name: str, path: str) -> Contender:
        asks = [
            Ask(path, "", {"room_id": f"room{number}", "content": TEXT}) for number in range(ROOMS)
        ]
        return Contender(name, bare, asks, bench.folder)

    return [
        contender("aiohttp, empty", "/empty"),
        contender(_PARSED, "/parsed"),
        contender("aiohttp + pydantic + one script", "/script"),
        contender(_AINVOKE, "/ainvoke"),
        contender(_SKETCHES[0], "/sketch/send"),
        contender(_SKETCHES[1], "/sketch/list"),
    ]


def _ours(bench: Bench, stack: ExitStack) -> list[Contender]:
    stubbed = stack.enter_context(our_server(bench, "stubbed", "stub"))
    bench.say("  16 accounts with 20 rooms, 20 messages in 64 of them")
    owners = asyncio.run(
        populate(stubbed.url, accounts=16, rooms=20, messages=20, talking=slice(4))
    )
    langchain = stack.enter_context(our_server(bench, "langchain", "langchain"))
    others = asyncio.run(populate(langchain.url, accounts=16, rooms=4))
    asyncio.run(quiet(stubbed.url))
    return [
        Contender(
            "send, provider stubbed", stubbed,
            list(chain.from_iterable(owner.sends(slice(4, 8)) for owner in owners)), bench.folder,
        ),
        Contender("send, LangChain fake", langchain, list(chain(*(owner.sends() for owner in others))), bench.folder),
        Contender(
            "message list, 20 cached", stubbed,
            list(chain.from_iterable(owner.message_lists(slice(4)) for owner in owners)), bench.folder,
        ),
        Contender("room list, 20 cached", stubbed, [owner.room_list() for owner in owners], bench.folder),
    ]  # fmt: skip


def _peers(bench: Bench, stack: ExitStack) -> list[Contender]:
    if bench.peers_python is None:
        return []
    found = []
    asks = [
        Ask("/send", "", {"room_id": f"room{number}", "content": TEXT}) for number in range(ROOMS)
    ]
    for name, module in ((_FASTAPI, "fastapi"), (_LANGGRAPH, "langgraph")):
        bench.backends.mariadb.sql(f"CREATE DATABASE peer_{module} CHARACTER SET utf8mb4")
        command = [
            str(bench.peers_python),
            str(ROOT / "benchmarks" / "peers" / f"{module}_mysql.py"),
        ]
        environment = {**os.environ, "MYSQL_PORT": str(bench.backends.mariadb.port)}
        peer = stack.enter_context(
            running(name, command, environment, bench.folder / f"{module}.log")
        )
        found.append(Contender(name, peer, asks, bench.folder))
    return found

"""A harness that faults are put into: servers, where their data can be read past them, and an AI
provider."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import redis

from tests.faults.fault_proxy import FaultProxy
from tests.faults.provider import CountingProvider
from tests.load_clients import Findings, Player
from tests.server_process import ServerProcess, run_to_its_end
from tests.waiting import PATIENCE_S, until

_SETTLE_S = PATIENCE_S
_CUT_OFF_A_KILL = 4
"""As many as there are players: each waits for one reply at a time, which may have been claimed
while the provider had not read the request. It may not be asked again (decision 0037). Fewer would
be a guess about how fast this machine is."""


@dataclass
class FaultServer:
    """A server process and its ways out, if there are proxies on them.

    Start and kill run in threads: proxies and provider live in this process's event loop, and a
    server that is starting needs them.
    """

    process: ServerProcess
    proxies: Sequence[FaultProxy] = ()
    """Redis, global database and shard 1, shard 2."""
    up: bool = False
    cut_off: int = 0
    """Replies that kills since the last check may have cut off between their claim and their
    request."""

    @property
    def redis(self) -> FaultProxy:
        return self.proxies[0]

    @property
    def databases(self) -> Sequence[FaultProxy]:
        return self.proxies[1:]

    @property
    def second_shard(self) -> FaultProxy:
        return self.proxies[2]

    async def start(self) -> None:
        await asyncio.to_thread(self.process.start)
        self.up = True

    async def stop(self) -> None:
        """SIGTERM: it ends or hands over what it has begun."""
        self.up = False
        assert await asyncio.to_thread(self.process.stop) == 0, self.process.log[-2000:]

    async def kill(self) -> None:
        self.up = False
        self.cut_off += _CUT_OFF_A_KILL
        await asyncio.to_thread(self.process.kill)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """SIGSTOP; SIGCONT at the end."""
        self.process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.signal(signal.SIGCONT)


@dataclass
class ServerHarness:
    """What players, faults and the checker need of any deployment."""

    provider: CountingProvider
    servers: list[FaultServer]
    http: aiohttp.ClientSession
    findings: Findings = field(default_factory=Findings, kw_only=True)
    shard_ids: Sequence[int] = field(default=(1, 2), kw_only=True)
    guests: list[Player] = field(default_factory=list, kw_only=True)
    """Players of faults, to be checked with the others."""
    excused: set[str] = field(default_factory=set, kw_only=True)
    """See :meth:`excuse`."""

    @property
    def socket(self) -> Path:
        """Where Redis listens."""
        raise NotImplementedError

    @property
    def append_only_folder(self) -> Path:
        raise NotImplementedError

    def shard_rows(self, shard_id: int, query: str) -> list[dict[str, Any]]:
        """Rows of one shard database; ``query`` names its tables after FROM."""
        raise NotImplementedError

    def global_rows(self, query: str) -> list[dict[str, Any]]:
        raise NotImplementedError

    def player(self, seed: int, number: int = 0) -> Player:
        """A player that asks any server that is up, in turn of chance."""
        chance = random.Random(seed)
        return Player(
            self.http,
            lambda: self.url(chance),
            number=number,
            seed=seed,
            findings=self.findings,
            persona="GPT4O",
        )

    def url(self, chance: random.Random) -> str:
        servers = [server for server in self.servers if server.up] or self.servers
        return chance.choice(servers).process.base_url

    def ask_redis(self, *command: Any) -> Any:
        """One command past the proxies, on a connection of its own."""
        with redis.Redis(
            unix_socket_path=str(self.socket), decode_responses=True, socket_timeout=20
        ) as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]

    def dump(self, key: str) -> bytes:
        """A key's whole value, for comparing."""
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            return bytes(client.dump(key) or b"")  # type: ignore[arg-type]

    def waiting_events(self) -> int:
        """Events in all persistence streams."""
        return sum(
            self.ask_redis("XLEN", key)
            for key in self.ask_redis("KEYS", "*}:queue:chat_persistence:*")
        )

    def dead_letters(self) -> list[Any]:
        keys = self.ask_redis("KEYS", "*}:queue_dead:chat_persistence:*")
        return [entry for key in keys for entry in self.ask_redis("XRANGE", key, "-", "+")]

    def open_turns(self) -> int:
        return sum(self.ask_redis("ZCARD", key) for key in self.ask_redis("KEYS", "*:turn_leases"))

    async def settled(self) -> None:
        """Wait until every reply has ended and every event is in MySQL."""

        def done() -> bool:
            try:
                return self.open_turns() == 0 and self.waiting_events() == 0
            except redis.RedisError:
                return False

        await until(done, _SETTLE_S, "every reply ended and every event written")

    async def manage(self, *command: str, server: FaultServer | None = None) -> str:
        """What an operator's command of the first server's version, or of this one's, prints.

        It must succeed, in the end where an event stream is being written just now."""
        process = (server or self.servers[0]).process
        arguments = ["application.manage", "--env", process.env, *command]
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            ended = await asyncio.to_thread(
                run_to_its_end, arguments, process.environment, source=process.source
            )
            if "try again" not in ended.stderr or time.monotonic() > deadline_s:
                break
        assert ended.returncode == 0, ended.stderr[-2000:]
        return ended.stdout

    def excuse(self, question_id: str, end: str | None) -> bool:
        """Whether a question may be unasked because a server was killed after it had marked it as
        asked and before its request reached the provider: one for each player, and ``end`` must be
        interrupted."""
        if question_id in self.excused:
            return True
        killed = next((server for server in self.servers if server.cut_off), None)
        if killed is None or end != "interrupted":
            return False
        killed.cut_off -= 1
        self.excused.add(question_id)
        return True

    async def start_all(self) -> None:
        """Everything that is not up."""
        await asyncio.gather(*(server.start() for server in self.servers if not server.up))


async def play_during(
    load_clients: list[Player],
    deed: Callable[[], Awaitable[object]],
    findings: Findings,
    *,
    within_s: float | None = PATIENCE_S,
) -> float:
    """Have all play while ``deed`` breaks and fixes; returns how long after it the last of them had
    a success.

    ``within_s`` None: nobody needs to have one."""
    stop = asyncio.Event()
    playing = [asyncio.create_task(player.play(stop)) for player in load_clients]
    try:
        await deed()
        mended_s = time.monotonic()
        waiting = set(load_clients) if within_s is not None else set()
        while within_s is not None and waiting and time.monotonic() < mended_s + within_s:
            await asyncio.sleep(0.01)
            waiting -= {player for player in waiting if player.last_success_s > mended_s}
        for player in waiting:
            findings.add(
                "unexpected",
                f"{player.name}: no success within {within_s:g} s; {player.history[-1]}",
            )
        return time.monotonic() - mended_s
    finally:
        stop.set()
        await asyncio.gather(*playing)

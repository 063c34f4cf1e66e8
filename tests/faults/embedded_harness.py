"""The server as ``make run`` has it, with its own Valkey and SQLite, and what can be done to it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.conftest import Deployment, Local
from tests.faults.harness import FaultServer, ServerHarness, play_during
from tests.faults.provider import CountingProvider
from tests.load_clients import Player
from tests.waiting import PATIENCE_S

EMBEDDED_FAULTS = (
    "server killed",
    "Valkey killed",
    "server and Valkey killed",
    "Valkey paused",
    "server paused",
)


@dataclass
class DeployedHarness(ServerHarness):
    """One deployment of the tests over HTTP, of whatever kind."""

    deployed: Deployment

    @property
    def socket(self) -> Path:
        return self.deployed.socket

    def shard_rows(self, shard_id: int, query: str) -> list[dict[str, Any]]:
        return self.deployed.shard_rows(shard_id, query)

    def global_rows(self, query: str) -> list[dict[str, Any]]:
        return self.deployed.global_rows(query)


@dataclass
class EmbeddedHarness(DeployedHarness):
    """The embedded default."""

    @property
    def append_only_folder(self) -> Path:
        return self.deployed.data_dir / "valkey" / "appendonlydir"


@asynccontextmanager
async def embedded_harness(folder: Path, **changes: object) -> AsyncIterator[EmbeddedHarness]:
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(CountingProvider())
        http = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S))
        )
        values = {
            "CHATCONFIG__WINDOW": 20,
            "CHATCONFIG__BATCH_INTERVAL_S": 0.3,
            "CHATCONFIG__LOCK_TTL_S": 3,
            "CHATCONFIG__REPLY_LEASE_S": 2,
            "CHATCONFIG__REPLY_DEADLINE_S": 100,
            "LLMCONFIG__PROVIDERS__OPENAI__BASE_URL": provider.base_url,
            "LLMCONFIG__PROVIDERS__OPENAI__API_KEY": "of-the-test",
        }
        environment = {
            f"BASE_SERVER__{name}": str(value) for name, value in (values | changes).items()
        }
        deployed = Local("LOCAL", folder / "embedded", environment, workers=1)
        harness = EmbeddedHarness(provider, [FaultServer(deployed.server)], http, deployed)
        try:
            await harness.start_all()
            yield harness
        finally:
            await asyncio.to_thread(deployed.server.stop)


async def run_embedded_fault(
    name: str, harness: EmbeddedHarness, load_clients: list[Player], chance: random.Random
) -> float:
    """As ``run_fault``, for one of ``EMBEDDED_FAULTS``."""
    (server,) = harness.servers
    long_s = chance.uniform(1, 5)

    async def deed() -> None:
        await asyncio.sleep(chance.uniform(0.2, 1))
        if name == "server paused":
            with server.paused():
                await asyncio.sleep(long_s)
            return
        if name == "Valkey paused":
            pid = harness.ask_redis("INFO", "server")["process_id"]
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(long_s)
            finally:
                os.kill(pid, signal.SIGCONT)
            return
        if name != "Valkey killed":
            await server.kill()
        if name != "server killed":
            harness.deployed.kill_cache()
        await harness.start_all()

    return await play_during(load_clients, deed, harness.findings)

"""The server generation: nothing that a Redis forgot when it died is taken for the truth.

Each partition has a key ``epoch``, its generation, an integer of at least 1, and beside it
``epoch_run``, the run id of the server that it was made in. The process that first connects to
another run of the server (empty, old or whole) raises the generation of every partition, before
that connection serves anything; what was cached in an older generation is then not used.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from base_server.service.cache.keyspace import Keyspace
from base_server.service.core.errors import StartError
from base_server.service.core.logger import Logger
from base_server.service.redis_client.calls import Command, Effect
from base_server.service.redis_client.cluster_client import Ask
from base_server.service.redis_client.cluster_map import Address
from base_server.service.redis_client.connection import RedisConnection
from base_server.service.redis_client.errors import NOT_SERVED_HERE
from base_server.service.redis_client.script import ScriptFolder
from base_server.service.redis_client.slots import tag_slot

VERIFY_RUN = ScriptFolder(Path(__file__).parent / "lua")["verify_run"]
_ASK_RUN = ("INFO", "server")
_OLDEST = 7


class ServerGeneration:
    """What this process knows of the run of one server.

    ``run_id`` is the run that was verified last (``""`` before the first connection), ``verified``
    the partitions whose generations were compared with it.
    """

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self.run_id = ""
        self.verified: set[int] = set()

    def keys(self, partition: int) -> list[str]:
        """The generation, and the run that it was made in."""
        return [self._keyspace.key("epoch", partition), self._keyspace.key("epoch_run", partition)]

    async def on_connect(self, connection: RedisConnection) -> None:
        """Verify the run at the other end of a new connection, unless it is the known one."""
        await self.verify_run(connection, range(self._keyspace.partitions.count))

    async def verify_run(
        self, connection: RedisConnection, partitions: Iterable[int], *, may_lack: bool = False
    ) -> None:
        """Verify ``partitions``; with ``may_lack`` those that the server does not serve are left
        for the node that their commands go to next. Raises another error reply."""
        (text,) = await connection.ask(_ASK_RUN)
        if isinstance(text, Exception):
            raise text
        info = parse_info(text)
        run_id = info["run_id"]
        if run_id == self.run_id:
            return
        require_flags(info["redis_version"])
        asked = list(partitions)
        replies = await connection.ask(*(self.verification(p, run_id) for p in asked))
        generations: dict[int, int] = {}
        for partition, reply in zip(asked, replies, strict=True):
            if not isinstance(reply, Exception):
                generations[partition] = reply
            elif not (may_lack and isinstance(reply, NOT_SERVED_HERE)):
                raise reply
        if run_id != self.run_id:  # another connection may have been faster
            Logger.info(
                "cache server run adopted",
                run_id=run_id,
                before=self.run_id,
                highest_epoch=max(generations.values(), default=0),
            )
        self.run_id = run_id
        self.verified = set(generations)

    def verification(self, partition: int, run_id: str) -> Command:
        """The command that compares a partition's generation with a run; it may be repeated."""
        return ("EVAL", VERIFY_RUN.source, 2, *self.keys(partition), run_id)


class ClusterGenerations:
    """A :class:`ServerGeneration` for each node of a cluster: the guard of its ClusterClient.

    A partition that moved to another node, or whose replica was promoted, so begins a new
    generation, as after a restart: the node may lack its last writes.
    """

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._nodes: dict[Address, ServerGeneration] = {}
        partitions = keyspace.partitions
        self._partition_of = {tag_slot(partitions.tag(p)): p for p in range(partitions.count)}
        """By slot; other slots hold nothing that a generation guards."""
        self._served_by: dict[int, Address] = {}

    def of_node(self, address: Address) -> ServerGeneration:
        if address not in self._nodes:
            self._nodes[address] = ServerGeneration(self._keyspace)
        return self._nodes[address]

    def of_partition(self, partition: int) -> ServerGeneration | None:
        """That of the node that serves it; ``None`` while none does."""
        address = self._served_by.get(partition)
        return None if address is None else self.of_node(address)

    def on_move(self, slot: int, address: Address) -> None:
        """A node serves a slot from now on: that it was verified there earlier does not count."""
        if (partition := self._partition_of.get(slot)) is not None:
            self._served_by[partition] = address
            self.of_node(address).verified.discard(partition)

    async def on_connect(self, connection: RedisConnection, address: Address) -> None:
        """Verify the run of a node at a new connection, for the partitions that it serves."""
        served = [p for p, node in self._served_by.items() if node == address]
        await self.of_node(address).verify_run(connection, served, may_lack=True)

    def unverified(self, address: Address, slots: Iterable[int | None]) -> set[int]:
        """The partitions of ``slots`` that were not compared with the node's run yet."""
        partition_of = self._partition_of
        return {partition_of[slot] for slot in slots if slot in partition_of} - self.of_node(
            address
        ).verified

    async def verify(self, address: Address, what: int, ask: Ask) -> Any:
        """Compare one partition with the node's run. Returns the error reply of a refusal."""
        node = self.of_node(address)
        (info,) = await ask([_ASK_RUN], Effect.READ)
        if isinstance(info, Exception):
            return info
        verification = node.verification(what, parse_info(info)["run_id"])
        (reply,) = await ask([verification], Effect.REPEATABLE)
        if isinstance(reply, Exception):
            return reply
        node.verified.add(what)
        return None


def require_flags(redis_version: str) -> None:
    """Raise StartError for a server without script flags (``allow-oom``); Valkey says 7.2."""
    if int(redis_version.partition(".")[0]) < _OLDEST:
        raise StartError(
            f"Redis 7.0 or newer (or Valkey) is needed, the server says {redis_version}: update it."
        )


def parse_info(text: str) -> dict[str, str]:
    """The ``name:value`` lines of an INFO reply."""
    return dict(
        line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#")
    )

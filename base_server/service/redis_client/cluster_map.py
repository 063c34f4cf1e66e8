"""The map of a Redis Cluster: which node serves which slot, and in which run of that node a partition is believed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Any

from redis.exceptions import RedisError

from base_server.service.cache.generation import RunEpoch
from base_server.service.cache.keyspace import Keyspace
from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.logger import Logger
from base_server.service.core.tasks import TaskRegistry
from base_server.service.redis_client.connection_pool import Pool
from base_server.service.redis_client.slots import tag_slot

Address = tuple[str, int]

_ASK_S = 1.0
"""Longest wait for one node's map; then another node is asked."""


class Cluster:
    """Learned from the seeds, and anew whenever a node sends somebody elsewhere or cannot be reached."""

    def __init__(
        self,
        seeds: Iterable[Address],
        keyspace: Keyspace,
        make_pool: Callable[[Address], Pool],
        tasks: TaskRegistry,
    ) -> None:
        """``make_pool`` gives ungreeted connections to a node, for asking for the map."""
        self._seeds = list(seeds)
        self._keyspace = keyspace
        self._make_pool = make_pool
        self._tasks = tasks
        self._owners: dict[int, Address] = {}
        self._masters: list[Address] = []
        self._others: set[Address] = set()  # replicas
        self._runs: dict[Address, RunEpoch] = {}
        self._refreshing: asyncio.Task[None] | None = None
        partitions = keyspace.partitions
        self.partition_of = {tag_slot(partitions.tag(p)): p for p in range(partitions.count)}
        """The partition of a slot; other slots hold nothing that an epoch guards."""
        self._slot_of = {partition: slot for slot, partition in self.partition_of.items()}

    def owner(self, slot: int | None) -> Address | None:
        """The node that serves ``slot``, any master for ``None``; ``None`` when no node does."""
        if slot is None:
            return random.choice(self._masters) if self._masters else None  # noqa: S311
        return self._owners.get(slot)

    def owner_of_partition(self, partition: int) -> Address | None:
        return self._owners.get(self._slot_of[partition])

    def masters(self) -> list[Address]:
        """The nodes that serve slots, in the order of their slots."""
        return self._masters

    def run(self, address: Address) -> RunEpoch:
        """What this process knows of the run of a node."""
        if address not in self._runs:
            self._runs[address] = RunEpoch(self._keyspace, lambda: self._partitions_of(address))
        return self._runs[address]

    def learn(self, slot: int, address: Address) -> None:
        """``slot`` is served by ``address``, from now on: an earlier look at the epoch there does not count."""
        if self._owners.get(slot) == address:
            return
        self._owners[slot] = address
        if address not in self._masters:
            self._masters = [*self._masters, address]
        if (partition := self.partition_of.get(slot)) is not None:
            self.run(address).adopted.discard(partition)

    async def refresh(self) -> None:
        """Ask the nodes for the map, one after the other until one answers; all who want it share one asking.

        Raises :class:`ServiceUnavailable` when none answers.
        """
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = self._tasks.spawn(self._refresh(), "cache cluster map")
        await asyncio.shield(self._refreshing)

    async def _refresh(self) -> None:
        nodes = list({*self._owners.values(), *self._others})
        random.shuffle(nodes)  # not all processes at the same node
        reasons = []
        for address in dict.fromkeys([*nodes, *self._seeds]):
            try:
                async with asyncio.timeout(_ASK_S):
                    rows = await self._ask(address)
            except (RedisError, OSError) as error:
                reasons.append(f"{address[0]}:{address[1]}: {error or 'no answer'}")
                continue
            if rows:
                self._take(address, rows)
                return
            reasons.append(f"{address[0]}:{address[1]}: it knows of no slots")
        raise ServiceUnavailable(
            "cache", f"no node of the cluster tells its slots ({'; '.join(reasons)})"
        )

    async def _ask(self, address: Address) -> list[Any]:
        pool = self._make_pool(address)
        try:
            connection = await pool.take()
            await connection.send_command("CLUSTER", "SLOTS")
            rows: list[Any] = await connection.read_response()
            return rows
        finally:
            await pool.disconnect()

    def _take(self, asked: Address, rows: list[Any]) -> None:
        before = self._masters
        others: set[Address] = set()
        for first, last, master, *replicas in rows:
            owner = _address(asked, master)
            for slot in range(int(first), int(last) + 1):
                self.learn(slot, owner)
            others.update(_address(asked, replica) for replica in replicas)
        self._others = others
        self._masters = list(dict.fromkeys(self._owners[slot] for slot in sorted(self._owners)))
        if self._masters != before:
            names = [f"{host}:{port}" for host, port in self._masters]
            Logger.info("cache cluster map", masters=names)

    def _partitions_of(self, address: Address) -> list[int]:
        return [p for slot, p in self.partition_of.items() if self._owners.get(slot) == address]


def _address(asked: Address, node: list[Any]) -> Address:
    """An entry of CLUSTER SLOTS; a node that does not know its own name is the one that was asked."""
    host, port = node[0], int(node[1])
    return (host if host and host != "?" else asked[0], port)

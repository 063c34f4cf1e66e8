"""The map of a Redis Cluster: which master serves which slot."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from redis.exceptions import RedisError

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.logger import Logger
from base_server.service.core.tasks import TaskRegistry
from base_server.service.redis_client.connection import RedisConnection

Address = tuple[str, int]
"""Host and port of a node."""

_ASK_S = 1.0
"""Longest wait for the map of one node; then the next node is asked."""


class ClusterMap:
    """Learned from the seeds, and again when a node redirects a call or cannot be reached."""

    def __init__(
        self,
        seeds: Iterable[Address],
        connect: Callable[[Address], Awaitable[RedisConnection]],
        tasks: TaskRegistry,
        on_move: Callable[[int, Address], None],
    ) -> None:
        """``on_move(slot, address)`` is called before a slot's first command goes to a new node."""
        self._seeds = list(seeds)
        self._connect = connect
        self._tasks = tasks
        self._on_move = on_move
        self._nodes: dict[int, Address] = {}
        self._masters: list[Address] = []
        self._replicas: set[Address] = set()
        self._refreshing: asyncio.Task[None] | None = None

    def node_of(self, slot: int | None) -> Address | None:
        """The master that serves ``slot``, any master for ``None``; ``None`` when none does."""
        if slot is None:
            return random.choice(self._masters) if self._masters else None  # noqa: S311
        return self._nodes.get(slot)

    def masters(self) -> list[Address]:
        """The nodes that serve slots, in the order of their slots."""
        return self._masters

    def learn(self, slot: int, address: Address) -> None:
        """From now on ``address`` serves ``slot``."""
        if self._nodes.get(slot) == address:
            return
        self._nodes[slot] = address
        if address not in self._masters:
            self._masters = [*self._masters, address]
        self._on_move(slot, address)

    async def refresh(self) -> None:
        """Ask the nodes for the map, one after the other until one answers.

        Callers share a refresh that is under way, also when one of them is cancelled.
        Raises :class:`ServiceUnavailable` when no node answers.
        """
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = self._tasks.spawn(self._refresh(), "cache cluster map")
        await asyncio.shield(self._refreshing)

    async def _refresh(self) -> None:
        nodes = list({*self._nodes.values(), *self._replicas})
        random.shuffle(nodes)  # else all processes would ask the same node
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
        connection = await self._connect(address)
        try:
            (rows,) = await connection.ask(("CLUSTER", "SLOTS"))
        finally:
            connection.close()
        if isinstance(rows, Exception):
            raise rows
        return list(rows)

    def _take(self, asked: Address, rows: list[Any]) -> None:
        before = self._masters
        replicas: set[Address] = set()
        for first, last, master, *others in rows:
            address = _address(asked, master)
            for slot in range(int(first), int(last) + 1):
                self.learn(slot, address)
            replicas.update(_address(asked, replica) for replica in others)
        self._replicas = replicas
        # Also drops a master whose slots have all moved away.
        self._masters = list(dict.fromkeys(self._nodes[slot] for slot in sorted(self._nodes)))
        if self._masters != before:
            names = [f"{host}:{port}" for host, port in self._masters]
            Logger.info("cache cluster map", masters=names)


def _address(asked: Address, node: list[Any]) -> Address:
    """An entry of CLUSTER SLOTS; a node that does not know its own name is the one we asked."""
    host, port = node[0], int(node[1])
    return (host if host and host != "?" else asked[0], port)

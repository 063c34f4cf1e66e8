"""The client of a Redis Cluster: each command goes to the node that serves its slot.

MOVED, ASK, TRYAGAIN, CLUSTERDOWN and a node that cannot be reached mean that a command was not
executed: it is sent again, to the node that the reply or a new map names, until the time-out. A
command that was sent and got no reply has an unknown outcome, as with one server: it is repeated
once if it may be. A slot's commands go to a node only after the guard has verified the node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from base_server.service.core.errors import (
    ConnectionLostInFlight,
    OutcomeUnknown,
    ServiceUnavailable,
)
from base_server.service.redis_client.auto_pipeline import AutoPipeline, CallOptions
from base_server.service.redis_client.calls import Command, Effect, RedisCall, ResponseTimeout
from base_server.service.redis_client.client import RedisClient, fail, succeed
from base_server.service.redis_client.cluster_map import Address, ClusterMap
from base_server.service.redis_client.connection_pool import ConnectionPool
from base_server.service.redis_client.errors import NOT_SERVED_HERE, CacheCommandError
from base_server.service.redis_client.slots import slot_of

SCRIPT_GUARD = """
if #KEYS > 0
and type(redis.pcall('EXISTS', KEYS[1] .. ':moving', KEYS[1] .. ':moved')) == 'table' then
  return redis.error_reply('TRYAGAIN the slot of this script is being moved')
end
"""
"""Put before every script on a cluster. While a slot moves, a key that a script deleted or made
counts as one that has moved already, and the script would end with an error in its middle, half
done. Both nodes refuse a question for two keys that never exist for as long as the slot moves, so
the script ends before it has done anything."""

_ROUNDS_AT_ONCE = 3
"""After so many redirections the map itself is in motion: pause before the next."""
_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.2

Ask = Callable[[Sequence[Command], Effect], Awaitable[list[Any]]]


class NodeGuard(Protocol):
    """What must be done at a node before it gets commands of a slot (cache: the generation)."""

    def unverified(self, address: Address, slots: Iterable[int | None]) -> set[int]:
        """What of the node has to be verified before commands of ``slots`` may go there."""

    async def verify(self, address: Address, what: int, ask: Ask) -> Any:
        """Verify one of :meth:`unverified`, asking the node by ``ask``; returns its error reply
        if it refuses, else ``None``. Raises what ``ask`` raises."""


class ClusterClient:
    """The interface of :class:`base_server.service.redis_client.client.RedisClient`, over all
    nodes."""

    def __init__(
        self,
        cluster: ClusterMap,
        make_pool: Callable[[Address], ConnectionPool],
        guard: NodeGuard,
        options: CallOptions,
    ) -> None:
        self.timeout_s = options.timeout_s
        self._cluster = cluster
        self._make_pool = make_pool
        self._guard = guard
        self._options = options
        self._tasks = options.tasks
        self._pipelines: dict[Address, AutoPipeline] = {}

    @property
    def round_trips(self) -> int:
        """Calls sent so far, one for each node that a caller's commands went to."""
        return sum(pipeline.sent for pipeline in self._pipelines.values())

    @property
    def writes(self) -> int:
        return sum(pipeline.writes for pipeline in self._pipelines.values())

    @property
    def pools(self) -> list[ConnectionPool]:
        return [pipeline.pool for pipeline in self._pipelines.values()]

    async def run(
        self, commands: Sequence[Command], effect: Effect, wait_s: float = 0.0
    ) -> list[Any]:
        """See :meth:`base_server.service.redis_client.client.RedisClient.run`. Commands of several
        nodes go to all of them at once; those between MULTI and EXEC must be of one slot."""
        slots = [slot_of(command) for command in commands]
        parts = self._parts(slots)
        if len(parts) == 1:
            call = RedisCall(commands, effect, self._on_outcome, wait_s)
            self._send(call, slots)
            return await call.replies
        if commands[0][0] == "MULTI":
            raise CacheCommandError(
                "CROSSSLOT", "a transaction on a cluster has keys of one partition only"
            )
        calls = [
            RedisCall([commands[index] for index in part], effect, self._on_outcome, wait_s)
            for part in parts
        ]
        for call, part in zip(calls, parts, strict=True):
            self._send(call, [slots[index] for index in part])
        outcomes = await asyncio.gather(*(call.replies for call in calls), return_exceptions=True)
        replies: list[Any] = [None] * len(commands)
        for part, outcome in zip(parts, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                # Of a write it is OutcomeUnknown: commands that were not executed have a reply.
                raise outcome
            for index, reply in zip(part, outcome, strict=True):
                replies[index] = reply
        return replies

    @property
    def nodes(self) -> list[str]:
        """The masters, as ``host:port``."""
        return [f"{host}:{port}" for host, port in self._cluster.masters()]

    async def run_on(self, node: str, commands: Sequence[Command], effect: Effect) -> list[Any]:
        """:meth:`run` on one of :attr:`nodes`, for what concerns the node itself; not repeated."""
        host, _, port = node.rpartition(":")
        call = RedisCall(commands, effect, _succeed_or_fail)
        self._pipeline((host, int(port))).send(call)
        return await call.replies

    def _pipeline(self, address: Address) -> AutoPipeline:
        if address not in self._pipelines:
            self._pipelines[address] = AutoPipeline(self._make_pool(address), self._options)
        return self._pipelines[address]

    def _parts(self, slots: list[int | None]) -> list[list[int]]:
        """The indexes of the commands, by node. A command without keys goes with the others."""
        keyed = set(slots) - {None}
        if len({self._cluster.node_of(slot) for slot in keyed}) <= 1:
            return [list(range(len(slots)))]
        first = next(slot for slot in slots if slot is not None)
        by_node: dict[Address | None, list[int]] = {}
        for index, slot in enumerate(slots):
            node = self._cluster.node_of(first if slot is None else slot)
            by_node.setdefault(node, []).append(index)
        return list(by_node.values())

    def _send(self, call: RedisCall, slots: list[int | None]) -> None:
        """The fast path: at once to the node that the map names, if it is verified."""
        address = self._cluster.node_of(next((slot for slot in slots if slot is not None), None))
        if address is not None and not self._guard.unverified(address, slots):
            self._pipeline(address).send(call)
        else:
            reason = "no node of the cluster serves this slot"
            self._on_outcome(call, ServiceUnavailable("cache", reason))

    def _on_outcome(self, call: RedisCall, outcome: list[Any] | ServiceUnavailable) -> None:
        if isinstance(outcome, list) and not any(
            isinstance(reply, NOT_SERVED_HERE) for reply in outcome
        ):
            succeed(call, outcome)
        elif isinstance(outcome, ResponseTimeout) or (
            isinstance(outcome, ConnectionLostInFlight) and call.effect is Effect.ONCE
        ):
            fail(call, outcome)
        else:
            task = self._tasks.spawn(self._redirect(call, outcome), "cache cluster call")
            # A stop cancels the task: its caller still needs an outcome.
            task.add_done_callback(lambda _: _fail_unfinished(call))

    async def _redirect(self, call: RedisCall, outcome: list[Any] | ServiceUnavailable) -> None:
        """The slow path: send what was not executed again, until all is or the time is over.

        ``replies`` has a reply for every command; those of NOT_SERVED_HERE are still to be sent.
        """
        if isinstance(outcome, list):
            replies = outcome
        else:
            call.repeated = isinstance(outcome, ConnectionLostInFlight)
            replies = [_not_served(outcome.reason)] * len(call.commands)
        deadline_s = asyncio.get_running_loop().time() + self.timeout_s
        pause_s, rounds = _FIRST_PAUSE_S, 0
        while missing := _not_executed(call, replies):
            if asyncio.get_running_loop().time() >= deadline_s:
                break
            rounds += 1
            should_pause = await self._learn_from([replies[index] for index in missing])
            if should_pause or rounds > _ROUNDS_AT_ONCE:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            for address, asking, part in self._route(call, replies, missing):
                commands = [call.commands[index] for index in part]
                try:
                    new = await self._attempt(address, commands, call, asking=asking)
                except ServiceUnavailable as error:
                    if isinstance(error, OutcomeUnknown) and not _may_repeat(call, error):
                        fail(call, error)
                        return
                    new = [_not_served(error.reason)] * len(part)
                for index, reply in zip(part, new, strict=True):
                    replies[index] = reply
        if missing and call.repeated and call.effect is not Effect.READ:
            # The repeat was not executed, but the first may have been.
            fail(call, ConnectionLostInFlight("cache", str(replies[missing[0]])))
        else:
            succeed(call, replies)

    async def _learn_from(self, replies: list[Any]) -> bool:
        """Update the map by what the nodes replied; true when a pause is better than a hurry."""
        moved = [reply for reply in replies if isinstance(reply, MovedError) and reply.host]
        for reply in moved:
            self._cluster.learn(reply.slot_id, (reply.host, reply.port))
        if any(isinstance(reply, ClusterDownError) for reply in replies):
            await self._refresh()
        elif moved:
            # MOVED names the node of its slot: that is enough for this call, the rest can follow.
            self._tasks.spawn(self._refresh(), "cache cluster map")
        return any(isinstance(reply, ClusterDownError | TryAgainError) for reply in replies)

    async def _refresh(self) -> None:
        try:
            await self._cluster.refresh()
        except ServiceUnavailable:
            return  # callers go on with the map they have, until their time is over
        for gone in self._pipelines.keys() - set(self._cluster.masters()):
            self._pipelines[gone].pool.close_idle()

    def _route(
        self, call: RedisCall, replies: list[Any], missing: list[int]
    ) -> list[tuple[Address, bool, list[int]]]:
        """(node, whether with ASKING, indexes of its commands); slots without a node are left out.

        ASK is for the one command: its key has moved already, the slot not yet. A transaction
        cannot be split by keys, so it waits until the slot has moved.
        """
        routes: dict[tuple[Address, bool], list[int]] = {}
        slots = [slot_of(command) for command in call.commands]
        first = next((slot for slot in slots if slot is not None), None)
        for index in missing:
            reply = replies[index]
            slot = first if slots[index] is None else slots[index]
            asking = (
                isinstance(reply, AskError)
                and not isinstance(reply, MovedError)
                and not call.atomic
            )
            address = (reply.host, reply.port) if asking else self._cluster.node_of(slot)
            if address is not None:
                routes.setdefault((address, asking), []).append(index)
        return [(address, asking, part) for (address, asking), part in routes.items()]

    async def _attempt(
        self, address: Address, commands: list[Command], call: RedisCall, *, asking: bool
    ) -> list[Any]:
        """The replies of one node. Nothing is sent when the node cannot be verified."""
        if asking:
            flagged = [word for command in commands for word in (("ASKING",), command)]
            return (await self._send_to(address, flagged, call.effect, call.wait_s))[1::2]
        for what in self._guard.unverified(address, [slot_of(command) for command in commands]):
            if (refusal := await self._verify(address, what)) is not None:
                return [refusal] * len(commands)
        return await self._send_to(address, commands, call.effect, call.wait_s)

    async def _send_to(
        self, address: Address, commands: Sequence[Command], effect: Effect, wait_s: float = 0.0
    ) -> list[Any]:
        """To this node and no other; every failure is raised as it is."""
        call = RedisCall(commands, effect, RedisCall.complete, wait_s)
        self._pipeline(address).send(call)
        return await call.replies

    async def _verify(self, address: Address, what: int) -> Any:
        """Returns why the caller's commands may not be sent there now, else ``None``."""

        def ask(commands: Sequence[Command], effect: Effect) -> Awaitable[list[Any]]:
            return self._send_to(address, commands, effect)

        try:
            refusal = await self._guard.verify(address, what, ask)
        except ServiceUnavailable as error:
            # Its own outcome may be unknown: the caller's commands were not sent.
            return _not_served(error.reason)
        if refusal is None or isinstance(refusal, NOT_SERVED_HERE):
            return refusal
        return _not_served(str(refusal))


def _fail_unfinished(call: RedisCall) -> None:
    if not call.replies.done():
        fail(call, ResponseTimeout("cache", "the service was stopped"))


def _succeed_or_fail(call: RedisCall, outcome: list[Any] | ServiceUnavailable) -> None:
    if isinstance(outcome, list):
        succeed(call, outcome)
    else:
        fail(call, outcome)


def _not_executed(call: RedisCall, replies: list[Any]) -> list[int]:
    """The indexes of the commands that were not executed; of a transaction all or none."""
    missing = [index for index, reply in enumerate(replies) if isinstance(reply, NOT_SERVED_HERE)]
    return list(range(len(replies))) if missing and call.atomic else missing


def _may_repeat(call: RedisCall, error: OutcomeUnknown) -> bool:
    """Whether a call without a reply may be sent again: once, and not after a time-out."""
    if isinstance(error, ResponseTimeout):
        return False
    again = call.effect is not Effect.ONCE and not call.repeated
    call.repeated = True
    return again


def _not_served(reason: str) -> ClusterDownError:
    return ClusterDownError(reason, status_code="CLUSTERDOWN")


AnyClient = RedisClient | ClusterClient

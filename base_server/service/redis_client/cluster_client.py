"""The seam on a Redis Cluster: each command to the node that serves its slot, one pipeline a node.

MOVED, ASK, TRYAGAIN, CLUSTERDOWN and a node that cannot be reached mean that a command was not executed: it is
sent again, to whom the answer or a new map names, until the time-out. What was sent and not answered is
an unknown outcome as with one server: repeated once if it may be. A partition's commands go to a node only
after its epoch was compared with that node's run (:mod:`base_server.service.cache.generation`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from base_server.service.cache.generation import ADOPT_RUN, parse_info
from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.tasks import TaskRegistry
from base_server.service.redis_client.auto_pipeline import Pipeline
from base_server.service.redis_client.calls import Call, Command, Effect, Lost, Unanswered
from base_server.service.redis_client.client import fail, finish
from base_server.service.redis_client.cluster_map import Address, Cluster
from base_server.service.redis_client.connection_pool import Pool
from base_server.service.redis_client.redis_errors import CacheCommandError
from base_server.service.redis_client.slots import slot_of

SCRIPT_GUARD = """
if #KEYS > 0 and type(redis.pcall('EXISTS', KEYS[1] .. ':moving', KEYS[1] .. ':moved')) == 'table' then
  return redis.error_reply('TRYAGAIN the slot of this script is being moved')
end
"""
"""Put before every script on a cluster. While a slot moves, a key that a script deleted or made itself counts as one
that has gone already, and the script would be broken off in its middle; asking for two keys that never exist
is refused by both nodes for as long as the slot moves, so nothing of the script has been done then."""

_NOT_EXECUTED = (MovedError, AskError, TryAgainError, ClusterDownError)
_ROUNDS_AT_ONCE = 3
_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.2


class ClusterExchange:
    """The interface of :class:`base_server.service.redis_client.client.Exchange`, over all nodes."""

    def __init__(
        self,
        cluster: Cluster,
        make_pool: Callable[[Address], Pool],
        tasks: TaskRegistry,
        waits: TaskRegistry,
        timeout_s: float,
        *,
        gather: bool,
    ) -> None:
        """``make_pool`` gives connections to a node that greet it by ``cluster.run(address)``."""
        self.tasks = tasks
        self._cluster = cluster
        self._make_pool = make_pool
        self._waits = waits
        self._timeout_s = timeout_s
        self._gather = gather
        self._pipelines: dict[Address, Pipeline] = {}

    @property
    def round_trips(self) -> int:
        """Calls sent so far, one for each node that a caller's commands went to."""
        return sum(pipeline.sent for pipeline in self._pipelines.values())

    @property
    def writes(self) -> int:
        return sum(pipeline.writes for pipeline in self._pipelines.values())

    @property
    def pools(self) -> list[Pool]:
        return [pipeline.pool for pipeline in self._pipelines.values()]

    @property
    def pool(self) -> Pool:
        """Connections to any master."""
        address = self._cluster.owner(None)
        if address is None:
            raise ServiceUnavailable("cache", "no node of the cluster is known")
        return self._pipeline(address).pool

    async def run(
        self, commands: Sequence[Command], effect: Effect, wait_s: float = 0.0
    ) -> list[Any]:
        """See :meth:`base_server.service.redis_client.client.Exchange.run`. Commands of several nodes go to
        all of them at once; those between MULTI and EXEC must be of one slot."""
        slots = [slot_of(command) for command in commands]
        parts = self._parts(slots)
        if len(parts) == 1:
            call = Call(commands, effect, self._settle, wait_s)
            self._send(call, slots)
            return await call.answers
        if commands[0][0] == "MULTI":
            raise CacheCommandError(
                "CROSSSLOT", "a transaction on a cluster has keys of one partition only"
            )
        calls = [
            Call([commands[index] for index in part], effect, self._settle, wait_s)
            for part in parts
        ]
        for call, part in zip(calls, parts, strict=True):
            self._send(call, [slots[index] for index in part])
        outcomes = await asyncio.gather(*(call.answers for call in calls), return_exceptions=True)
        answers: list[Any] = [None] * len(commands)
        for part, outcome in zip(parts, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome  # of a write always OutcomeUnknown: what was not executed is an answer
            for index, answer in zip(part, outcome, strict=True):
                answers[index] = answer
        return answers

    @property
    def nodes(self) -> list[str]:
        """The masters, as ``host:port``."""
        return [f"{host}:{port}" for host, port in self._cluster.masters()]

    async def run_on(self, node: str, commands: Sequence[Command], effect: Effect) -> list[Any]:
        """:meth:`run` on one of :attr:`nodes`, for what each node tells or does by itself; never repeated."""
        host, _, port = node.rpartition(":")
        call = Call(commands, effect, _settle_at_once)
        self._pipeline((host, int(port))).send(call)
        return await call.answers

    def _pipeline(self, address: Address) -> Pipeline:
        if address not in self._pipelines:
            self._pipelines[address] = Pipeline(
                self._make_pool(address),
                self.tasks,
                self._waits,
                self._timeout_s,
                gather=self._gather,
            )
        return self._pipelines[address]

    def _parts(self, slots: list[int | None]) -> list[list[int]]:
        """The commands' numbers, those of one node together; commands without keys go where the others go."""
        keyed = set(slots) - {None}
        if len({self._cluster.owner(slot) for slot in keyed}) <= 1:
            return [list(range(len(slots)))]
        first = next(slot for slot in slots if slot is not None)
        by_owner: dict[Address | None, list[int]] = {}
        for index, slot in enumerate(slots):
            by_owner.setdefault(self._cluster.owner(first if slot is None else slot), []).append(
                index
            )
        return list(by_owner.values())

    def _send(self, call: Call, slots: list[int | None]) -> None:
        """Straight to the node, if the map knows one that is believed; else the long way round."""
        address = self._cluster.owner(next((slot for slot in slots if slot is not None), None))
        if address is not None and not self._unbelieved(address, slots):
            self._pipeline(address).send(call)
        else:
            self._settle(
                call, ServiceUnavailable("cache", "no node of the cluster serves this slot")
            )

    def _settle(self, call: Call, outcome: list[Any] | ServiceUnavailable) -> None:
        if isinstance(outcome, list) and not any(
            isinstance(answer, _NOT_EXECUTED) for answer in outcome
        ):
            finish(call, outcome)
        elif isinstance(outcome, Unanswered) or (
            isinstance(outcome, Lost) and call.effect is Effect.ONCE
        ):
            fail(call, outcome)
        else:
            task = self.tasks.spawn(self._follow(call, outcome), "cache cluster call")
            task.add_done_callback(lambda _: _leave(call))

    async def _follow(self, call: Call, outcome: list[Any] | ServiceUnavailable) -> None:
        """Send what was not executed again until all is, or the time is over."""
        if isinstance(outcome, list):
            answers = outcome
        else:
            call.repeated = isinstance(outcome, Lost)
            answers = [_unserved(outcome.reason)] * len(call.commands)
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        pause_s, rounds = _FIRST_PAUSE_S, 0
        while missing := _missing(call, answers):
            if asyncio.get_running_loop().time() >= deadline_s:
                break
            rounds += 1
            if (
                await self._look_up([answers[index] for index in missing])
                or rounds > _ROUNDS_AT_ONCE
            ):
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            for address, asking, part in self._aim(call, answers, missing):
                try:
                    news = await self._try(
                        address, [call.commands[index] for index in part], call, asking=asking
                    )
                except ServiceUnavailable as error:
                    if isinstance(error, Unanswered) or (
                        isinstance(error, Lost) and not _repeat(call)
                    ):
                        fail(call, error)
                        return
                    news = [_unserved(error.reason)] * len(part)
                for index, answer in zip(part, news, strict=True):
                    answers[index] = answer
        if missing and call.repeated and call.effect is not Effect.READ:
            fail(call, Lost("cache", str(answers[missing[0]])))
        else:
            finish(call, answers)

    async def _look_up(self, answers: list[Any]) -> bool:
        """Learn from the answers where to go; true when it is better to wait a little."""
        moved = [answer for answer in answers if isinstance(answer, MovedError) and answer.host]
        for answer in moved:
            self._cluster.learn(answer.slot_id, (answer.host, answer.port))
        if any(isinstance(answer, ClusterDownError) for answer in answers):
            await self._refresh()
        elif moved:
            self.tasks.spawn(self._refresh(), "cache cluster map")
        return any(isinstance(answer, ClusterDownError | TryAgainError) for answer in answers)

    async def _refresh(self) -> None:
        try:
            await self._cluster.refresh()
        except ServiceUnavailable:
            return  # the callers go on with the map they have, until their time is over
        for gone in self._pipelines.keys() - set(self._cluster.masters()):
            self._pipelines[gone].pool.drop_idle()

    def _aim(
        self, call: Call, answers: list[Any], missing: list[int]
    ) -> list[tuple[Address, bool, list[int]]]:
        """(node, whether with ASKING, numbers of the commands), what no node serves left out."""
        aims: dict[tuple[Address, bool], list[int]] = {}
        slots = [slot_of(command) for command in call.commands]
        keyed = next((slot for slot in slots if slot is not None), None)
        for index in missing:
            answer = answers[index]
            slot = keyed if slots[index] is None else slots[index]
            asking = (
                isinstance(answer, AskError)
                and not isinstance(answer, MovedError)
                and not call.atomic
            )
            address = (answer.host, answer.port) if asking else self._cluster.owner(slot)
            if address is not None:
                aims.setdefault((address, asking), []).append(index)
        return [(address, asking, part) for (address, asking), part in aims.items()]

    async def _try(
        self, address: Address, commands: list[Command], call: Call, *, asking: bool
    ) -> list[Any]:
        if asking:
            flagged = [word for command in commands for word in (("ASKING",), command)]
            return (await self._at(address, flagged, call.effect, call.wait_s))[1::2]
        for partition in self._unbelieved(address, [slot_of(command) for command in commands]):
            if (refusal := await self._adopt(address, partition)) is not None:
                return [refusal] * len(commands)
        return await self._at(address, commands, call.effect, call.wait_s)

    async def _at(
        self, address: Address, commands: list[Command], effect: Effect, wait_s: float = 0.0
    ) -> list[Any]:
        """At this node and at no other; raises Lost and Unanswered as they are."""
        call = Call(commands, effect, Call.finish, wait_s)
        self._pipeline(address).send(call)
        return await call.answers

    def _unbelieved(self, address: Address, slots: list[int | None]) -> set[int]:
        """Partitions whose epochs were not compared with the node's run yet."""
        partition_of = self._cluster.partition_of
        return {partition_of[slot] for slot in slots if slot in partition_of} - self._cluster.run(
            address
        ).adopted

    async def _adopt(self, address: Address, partition: int) -> Any:
        """Compare the partition's epoch with the node's run. Returns why that could not be done, else None."""
        run = self._cluster.run(address)
        try:
            (info,) = await self._at(address, [("INFO", "server")], Effect.READ)
            if isinstance(info, Exception):
                return _unserved(str(info))
            adopt = ("EVAL", ADOPT_RUN.source, 2, *run.keys(partition), parse_info(info)["run_id"])
            (answer,) = await self._at(address, [adopt], Effect.REPEATABLE)
        except ServiceUnavailable as error:
            return _unserved(
                error.reason
            )  # whatever became of it: the caller's commands were not sent
        if isinstance(answer, Exception):
            return answer if isinstance(answer, _NOT_EXECUTED) else _unserved(str(answer))
        run.adopted.add(partition)
        return None


def _leave(call: Call) -> None:
    """Also a call that the service's stop broke off owes its caller an outcome."""
    if not call.answers.done():
        fail(call, Unanswered("cache", "the service was stopped"))


def _settle_at_once(call: Call, outcome: list[Any] | ServiceUnavailable) -> None:
    if isinstance(outcome, list):
        finish(call, outcome)
    else:
        fail(call, outcome)


def _missing(call: Call, answers: list[Any]) -> list[int]:
    """The numbers of the commands that were not executed; of a transaction all or none."""
    missing = [index for index, answer in enumerate(answers) if isinstance(answer, _NOT_EXECUTED)]
    return list(range(len(answers))) if missing and call.atomic else missing


def _repeat(call: Call) -> bool:
    """Whether a call that was lost may be sent again; it may once."""
    again = call.effect is not Effect.ONCE and not call.repeated
    call.repeated = True
    return again


def _unserved(reason: str) -> ClusterDownError:
    return ClusterDownError(reason, status_code="CLUSTERDOWN")

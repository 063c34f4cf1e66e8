"""Keeps a number of worker processes alive: starts, restarts, replaces and ends them.

Two things run for each worker: :meth:`Supervisor._keep` restarts its process, and a rolling restart
replaces it. ``_Worker.changing`` makes sure that they never do so at the same time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import suppress
from typing import Any

from base_server.service.core.errors import StartError
from base_server.service.core.logger import Logger
from base_server.service.core.tasks import TaskRegistry

from .arguments import READY
from .heartbeats import SILENT_S, Heartbeats

_START_S = 120.0
_STEADY_S = 10.0
"""A worker that lived for this long is restarted without delay."""
_MAX_FAILED_STARTS = 5
_LOOK_INTERVAL_S = 2.0
_SILENT_LOOKS = 5
"""So many checks in a row must find a worker silent before it is killed: after a suspend of the
machine all heartbeats are old once."""
_AGAIN_S = 0.5
_CLOSE_S = 15.0
"""Time that a worker may need to end after its quiet and drain."""

Launch = Callable[[int], Awaitable[Process]]
"""Starts a process of worker 1 …, with pipes as its standard input and output."""


class Supervisor:
    """Keeps ``count`` workers. A worker is a number with one process, or two during its
    replacement.

    ``renew(number)`` is called after a worker died, before its next process is launched;
    ``forget(pid)`` when a process has ended; ``close_sockets`` when all are to end. ``drain_s``:
    how long they may take to drain.
    """

    def __init__(
        self,
        launch: Launch,
        count: int,
        heartbeats: Heartbeats,
        *,
        renew: Callable[[int], None],
        forget: Callable[[int], None],
        close_sockets: Callable[[], None],
        drain_s: float,
        longest_delay_s: float = 5.0,
    ) -> None:
        self._launch = launch
        self._heartbeats = heartbeats
        self._renew = renew
        self._forget = forget
        self._close_sockets = close_sockets
        self._patience_s = drain_s + _CLOSE_S
        self._longest_delay_s = longest_delay_s
        self._tasks = TaskRegistry()
        self._workers = [_Worker(number) for number in range(1, count + 1)]
        self._living: set[_Process] = set()
        self._announced = asyncio.Event()
        self._ending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hurried = asyncio.Event()
        self._roll_asked = asyncio.Event()

    def stop(self) -> None:
        """End all workers gracefully; a second call skips their drain."""
        if self._ending.done():
            self._hurried.set()
        else:
            self._ending.set_result(None)

    def roll(self) -> None:
        """Replace all workers, one after the other."""
        self._roll_asked.set()

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Start all, call ``on_ready``, keep them alive until :meth:`stop`, end them.

        Raises :class:`StartError` when the first start fails, or when no worker is left and none
        can be started.
        """
        self._spawn(self._bring_up(on_ready), "bring up workers")
        self._spawn(self._watch_silence(), "watch workers")
        self._spawn(self._roll_when_asked(), "rolling restarts")
        try:
            await self._ending
        finally:
            await self._tasks.drain(0)
            await self._end_all()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run ``work`` in the background; its failure ends the supervisor."""

        def ended(task: asyncio.Task[None]) -> None:
            if (
                not task.cancelled()
                and (error := task.exception()) is not None
                and not self._ending.done()
            ):
                self._ending.set_exception(error)

        self._tasks.spawn(work, name).add_done_callback(ended)

    async def _bring_up(self, on_ready: Callable[[], None]) -> None:
        """Start the first worker alone: it prepares the databases, and reports errors once."""
        for workers in (self._workers[:1], self._workers[1:]):
            for worker in workers:
                self._spawn(self._keep(worker), f"keep worker {worker.number}")
            for worker in workers:
                await worker.has_served.wait()
        self._announced.set()
        on_ready()

    async def _keep(self, worker: _Worker) -> None:
        """Start the worker's process, and restart it when it has died."""
        delay_s = 0.0
        failed_starts = 0
        while True:
            async with worker.changing:
                if (process := await self._start(worker)) is not None:
                    worker.process = process
            if process is not None and process.is_ready:
                failed_starts = 0
                worker.has_served.set()
                process = await self._until_dead(worker)
                delay_s = 0.0 if process.lived_s > _STEADY_S else delay_s
            else:
                failed_starts += 1
                if not self._announced.is_set() or (
                    failed_starts >= _MAX_FAILED_STARTS and not self._any_serves()
                ):
                    times = "once" if failed_starts == 1 else f"{failed_starts} times in a row"
                    raise StartError(
                        f"Worker {worker.number} ended at its start {times}, the last time with"
                        f" exit code {process and process.exit_code}, and no other worker serves:"
                        " see its output above."
                    )
            Logger.error(
                "worker died, starting it again",
                worker=worker.number,
                pid=process and process.pid,
                exit_code=process and process.exit_code,
                failed_starts=failed_starts,
                delay_s=delay_s,
            )
            try:
                self._renew(worker.number)
            except OSError as error:  # connections to the old sockets wait for the next process
                Logger.error("worker gets no new sockets", worker=worker.number, reason=str(error))
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s + 0.1, self._longest_delay_s)

    async def _until_dead(self, worker: _Worker) -> _Process:
        """Wait until the worker's process died without a successor, and return it."""
        while True:
            process = worker.process
            await process.ended.wait()
            # A rolling restart may have ended it: its successor is set before the lock is released.
            async with worker.changing:
                if worker.process is process:
                    return process

    async def _start(self, worker: _Worker) -> _Process | None:
        """A new process of the worker, ready or dead; None when the system cannot launch one."""
        try:
            process = _Process(worker.number, await self._launch(worker.number))
        except OSError as error:
            Logger.error("worker cannot be launched", worker=worker.number, reason=str(error))
            return None
        self._living.add(process)
        # Not in self._tasks, which are cancelled first: this one must see the process end.
        process.attending = asyncio.create_task(self._attend(process), name=f"attend {process.pid}")
        try:
            async with asyncio.timeout(_START_S):
                await process.ready_or_ended.wait()
        except TimeoutError:
            Logger.error("worker does not start, killing it", worker=worker.number, pid=process.pid)
            process.send(signal.SIGKILL)
        if not process.is_ready:
            await process.ended.wait()
        return process

    async def _attend(self, process: _Process) -> None:
        await process.attend()
        self._living.discard(process)
        self._heartbeats.remove(process.worker, process.pid)
        self._forget(process.pid)

    async def _roll_when_asked(self) -> None:
        await self._announced.wait()
        while True:
            await self._roll_asked.wait()
            self._roll_asked.clear()
            Logger.info("rolling restart begins", workers=len(self._workers))
            for worker in self._workers:
                if not await self._replace(worker):
                    Logger.error(
                        "rolling restart stopped: the new process does not start",
                        worker=worker.number,
                    )
                    break
            else:
                Logger.info("rolling restart done")

    async def _replace(self, worker: _Worker) -> bool:
        """Start a successor, then retire the old process and wait for its end.

        Returns false when the successor does not start: the old process goes on.
        """
        async with worker.changing:
            old, new = worker.process, await self._start(worker)
            if new is None or not new.is_ready:
                return False
            worker.process = new
        old.retire()
        await self._until_ended([old], self._patience_s)
        return True

    async def _watch_silence(self) -> None:
        """Kill a worker that hangs: its heartbeat gets old while this process goes on."""
        looks: Counter[int] = Counter()
        while True:
            await asyncio.sleep(_LOOK_INTERVAL_S)
            living = {process.pid: process for process in self._living}
            silent = {
                heartbeat.pid for heartbeat in self._heartbeats.all() if heartbeat.age_s > SILENT_S
            }
            looks = Counter({pid: looks[pid] + 1 for pid in silent & living.keys()})
            for pid, times in looks.items():
                if times >= _SILENT_LOOKS:
                    Logger.error("worker hangs, killing it", worker=living[pid].worker, pid=pid)
                    living[pid].send(signal.SIGKILL)

    async def _end_all(self) -> None:
        living = list(self._living)
        for process in living:
            if not process.is_retired:  # that one is on its way out already
                process.send(signal.SIGTERM)
        self._close_sockets()
        ended = asyncio.create_task(self._until_ended(living, self._patience_s))
        hurried = asyncio.create_task(self._hurried.wait())
        await asyncio.wait({ended, hurried}, return_when=asyncio.FIRST_COMPLETED)
        give_up_s = time.monotonic() + _CLOSE_S
        while not ended.done():
            # Repeated: two SIGTERMs that arrive together are one signal to a worker, and the second
            # one is what makes it skip its drain.
            for process in living:
                process.send(signal.SIGTERM)
            await asyncio.wait({ended}, timeout=_AGAIN_S)
            if time.monotonic() > give_up_s:
                await self._until_ended(living, 0)
        hurried.cancel()
        await asyncio.gather(ended, hurried, return_exceptions=True)

    async def _until_ended(self, processes: Collection[_Process], patience_s: float) -> None:
        """Wait for ``processes`` to end, and kill those that take longer."""
        attending = [process.attending for process in processes if process.attending is not None]
        if not attending:
            return
        _, late = await asyncio.wait(attending, timeout=patience_s)
        for process in processes:
            if process.attending in late:
                Logger.error(
                    "worker did not end in time, killing it", worker=process.worker, pid=process.pid
                )
                process.send(signal.SIGKILL)
        if late:
            await asyncio.wait(late)

    def _any_serves(self) -> bool:
        return any(process.is_ready and not process.is_retired for process in self._living)


class _Worker:
    """One of the workers: its number and its current process."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: _Process  # from the first start on
        self.changing = asyncio.Lock()
        self.has_served = asyncio.Event()


class _Process:
    """A worker's process, from its launch to its end."""

    def __init__(self, worker: int, process: Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("a worker is launched with pipes")
        self._input, self._output = process.stdin, process.stdout
        self.worker = worker
        self.pid = process.pid
        self.is_ready = False
        self.is_retired = False
        self.ready_or_ended = asyncio.Event()
        self.ended = asyncio.Event()
        self.lived_s = 0.0
        self.attending: asyncio.Task[None] | None = None
        self._process = process
        self._begun_s = time.monotonic()

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode

    async def attend(self) -> None:
        """Follow the process to its end; its output, except its address, goes to our own output."""
        while line := await self._next_line():
            if line.startswith(READY.encode()) and not self.is_ready:
                self.is_ready = True
                self.ready_or_ended.set()
            else:
                with suppress(OSError):  # our own output was closed
                    print(line.decode(errors="replace"), end="", flush=True)  # noqa: T201
        await self._process.wait()
        self.lived_s = time.monotonic() - self._begun_s
        self.is_ready = False
        self.ended.set()
        self.ready_or_ended.set()

    async def _next_line(self) -> bytes:
        while True:
            with suppress(ValueError):  # longer than asyncio's limit: the line is dropped
                return await self._output.readline()

    def retire(self) -> None:
        """Let the process retire: its successor serves. The end of its input is the signal."""
        self.is_retired = True
        self._input.close()

    def send(self, number: signal.Signals) -> None:
        # Not by Process.send_signal: it polls the child, and asyncio then misses the exit code.
        with suppress(ProcessLookupError):
            if self._process.returncode is None:
                os.kill(self.pid, number)

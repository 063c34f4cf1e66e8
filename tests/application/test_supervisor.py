"""The supervisor with small shell scripts as its workers: who is started, told, waited for and
given up.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from application.base_web_server.observability.readiness import Phase, Readiness
from application.base_web_server.workers import supervisor as supervisor_module
from application.base_web_server.workers.heartbeats import Heartbeat, Heartbeats
from application.base_web_server.workers.supervisor import Supervisor
from base_server.service.core.errors import StartError
from tests.waiting import PATIENCE_S, until

GOOD = 'echo "Ready at http://it"; exec cat'  # cat ends with its input, as a retired worker does
BAD = "exit 3"
STUBBORN = (
    'trap "echo no >&2" TERM; echo "Ready at http://it"; while :; do read line || sleep 0.01; done'
)


class Bench:
    """``events`` tells what the supervisor did; ``script`` is what the next process runs."""

    def __init__(self, folder: Path, count: int) -> None:
        self.heartbeats = Heartbeats(folder, count)
        self.script = GOOD
        self.refusals = 0
        self.events: list[str] = []
        self.processes: list[Process] = []
        self.forgotten: list[int] = []
        self.supervisor = Supervisor(
            self._launch,
            count,
            self.heartbeats,
            renew=lambda number: self.events.append(f"renew {number}"),
            forget=self.forgotten.append,
            close_sockets=lambda: self.events.append("close"),
            drain_s=0.0,
            longest_delay_s=0.2,
        )

    async def _launch(self, number: int) -> Process:
        self.events.append(f"launch {number}")
        if self.refusals:
            self.refusals -= 1
            raise BlockingIOError("the system has no process for us")
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", self.script, stdin=PIPE, stdout=PIPE
        )
        self.processes.append(process)
        return process

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Up when the block begins, ended when it is left; the task is the supervisor's run."""
        up = asyncio.Event()
        run = asyncio.create_task(self.supervisor.run(up.set))
        try:
            await asyncio.wait_for(up.wait(), PATIENCE_S)
            yield run
        finally:
            self.supervisor.stop()
            await asyncio.gather(run, return_exceptions=True)
        assert all(process.returncode is not None for process in self.processes)
        assert sorted(self.forgotten) == sorted(process.pid for process in self.processes)


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(supervisor_module, "_CLOSE_S", PATIENCE_S)
    return Bench(tmp_path, 3)


def ended(*processes: Process) -> Callable[[], bool]:
    return lambda: all(process.returncode is not None for process in processes)


async def test_the_first_worker_starts_alone_and_all_end_by_sigterm(bench: Bench) -> None:
    async with bench.running():
        assert bench.events == ["launch 1", "launch 2", "launch 3"]
    assert bench.events[3:] == ["close"]
    assert [process.returncode for process in bench.processes] == [-signal.SIGTERM] * 3


async def test_a_first_start_that_fails_ends_everything_at_once(bench: Bench) -> None:
    bench.script = BAD
    with pytest.raises(
        StartError, match="Worker 1 ended at its start once, the last time with exit code 3"
    ):
        await bench.supervisor.run(lambda: pytest.fail("it was never ready"))
    assert bench.events == ["launch 1", "close"]


async def test_a_dead_worker_gets_new_sockets_and_a_new_process(bench: Bench) -> None:
    async with bench.running():
        bench.processes[1].kill()
        await until(lambda: bench.events[3:] == ["renew 2", "launch 2"])
        await until(lambda: len(bench.processes) == 4)
        assert ended(bench.processes[1])()
        assert not ended(bench.processes[3])()


async def test_pauses_grow_for_a_worker_that_dies_young_and_not_for_one_that_lived(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_STEADY_S", PATIENCE_S)

    async def kill_worker_2() -> None:
        worker, launched = bench.supervisor._workers[1], len(bench.processes)
        await until(lambda: worker.process.is_ready)
        os.kill(worker.process.pid, signal.SIGKILL)
        await until(lambda: len(bench.processes) > launched)

    async with bench.running():
        with structlog.testing.capture_logs() as logs:
            for _ in range(4):
                await kill_worker_2()
            monkeypatch.setattr(supervisor_module, "_STEADY_S", 0.0)
            await kill_worker_2()
    assert [entry["delay_s"] for entry in logs if "delay_s" in entry] == [0.0, 0.1, 0.2, 0.2, 0.0]


async def test_it_goes_on_trying_while_another_serves_and_gives_up_when_none_does(
    bench: Bench,
) -> None:
    async with bench.running() as run:
        bench.script = BAD
        bench.processes[0].kill()
        bench.processes[1].kill()
        await until(lambda: bench.events.count("launch 1") > 8)
        assert not run.done()
        bench.processes[2].kill()
        with pytest.raises(
            StartError, match="in a row, the last time with exit code 3, and no other worker serves"
        ):
            await asyncio.wait_for(run, PATIENCE_S)


async def test_a_worker_that_does_not_get_ready_is_killed_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench.running():
        with monkeypatch.context() as impatient:
            impatient.setattr(supervisor_module, "_START_S", 0.1)
            bench.script = "exec cat"
            bench.processes[1].kill()
            await until(lambda: len(bench.processes) > 4)
        assert bench.processes[3].returncode == -signal.SIGKILL
        bench.script = GOOD
        await until(lambda: bench.supervisor._workers[1].process.is_ready)


async def test_failed_starts_count_in_a_row(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 1)
    async with bench.running() as run:
        starts = tmp_path / "starts"  # four that fail, one that serves, and so on
        bench.script = f"echo >> {starts}; [ $(($(wc -l < {starts}) % 5)) = 0 ] || exit 3; {GOOD}"
        bench.processes[0].kill()
        await until(lambda: len(bench.processes) == 6 and bench.supervisor._any_serves())
        bench.processes[5].kill()
        await until(
            lambda: run.done() or (len(bench.processes) == 11 and bench.supervisor._any_serves())
        )
        assert not run.done()


async def test_a_system_that_gives_no_process_for_a_while_ends_nobody(bench: Bench) -> None:
    async with bench.running() as run:
        bench.refusals = 2
        bench.processes[1].kill()
        await until(lambda: len(bench.processes) == 4)
        bench.refusals = 1
        bench.supervisor.roll()
        await until(lambda: bench.refusals == 0)
        bench.processes[0].kill()
        await until(lambda: len(bench.processes) == 5)
        assert not run.done()


async def test_a_rolling_restart_replaces_one_after_the_other_the_new_one_first(
    bench: Bench,
) -> None:
    async with bench.running():
        before = list(bench.processes)
        bench.supervisor.roll()
        await until(ended(*before))
        assert bench.events[3:] == ["launch 1", "launch 2", "launch 3"], "nobody died"
        assert [process.returncode for process in before] == [0, 0, 0], (
            "told by the end of their input"
        )
        assert not ended(*bench.processes[3:])()
        # The supervisor still looks after those that came.
        bench.processes[3].kill()
        await until(lambda: bench.events[6:] == ["renew 1", "launch 1"])


async def test_a_rolling_restart_waits_for_the_end_of_each_that_it_replaced(bench: Bench) -> None:
    bench.script = 'echo "Ready at http://it"; while read line; do :; done; sleep 0.2'
    async with bench.running():
        before = list(bench.processes)
        bench.script = GOOD
        bench.supervisor.roll()
        await until(lambda: "launch 2" in bench.events[3:])
        assert ended(before[0])()
        await until(ended(*before))


async def test_who_is_replaced_already_is_not_hurried_by_a_stop(
    bench: Bench, tmp_path: Path
) -> None:
    may_end = tmp_path / "may end"
    bench.script = (
        'trap "exit 7" TERM; echo "Ready at http://it"; while read line; do :; done; '
        f'while [ ! -e "{may_end}" ]; do sleep 0.01; done'
    )
    async with bench.running():
        bench.script = GOOD
        bench.supervisor.roll()
        await until(lambda: any(process.is_retired for process in bench.supervisor._living))
        bench.supervisor.stop()
        await until(lambda: "close" in bench.events)
        may_end.touch()
        await until(ended(bench.processes[0]))
    assert [process.returncode == 7 for process in bench.processes[:3]] == [False, True, True]


async def test_a_rolling_restart_stops_at_a_process_that_does_not_start(bench: Bench) -> None:
    async with bench.running():
        bench.script = BAD
        bench.supervisor.roll()
        await until(lambda: len(bench.processes) == 4)
        await until(ended(bench.processes[3]))
        bench.script = GOOD
        bench.processes[2].kill()
        await until(lambda: bench.events[3:] == ["launch 1", "renew 3", "launch 3"])
        assert not ended(*bench.processes[:2])()


async def test_a_worker_that_dies_while_it_is_replaced_is_replaced_once(bench: Bench) -> None:
    async with bench.running():
        bench.script = f"sleep 0.3; {GOOD}"
        bench.supervisor.roll()
        await until(lambda: len(bench.processes) == 4)
        bench.processes[0].kill()
        await until(ended(*bench.processes[:3]))
        assert bench.events[3:] == ["launch 1", "launch 2", "launch 3"]


async def test_who_does_not_end_is_killed_and_a_second_stop_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_CLOSE_S", 0.3)
    bench = Bench(tmp_path, 3)
    bench.script = STUBBORN
    async with bench.running() as run:
        bench.supervisor.stop()
        bench.supervisor.stop()
        await asyncio.wait_for(run, PATIENCE_S)
    assert [process.returncode for process in bench.processes] == [-signal.SIGKILL] * 3


async def test_a_second_stop_arrives_even_when_it_comes_with_the_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_AGAIN_S", 0.02)
    # The first SIGTERM is heard late, so that the second falls together with it.
    bench.script = (
        'trap "" TERM; echo "Ready at http://it"; sleep 0.1; n=0; '
        "trap 'n=$((n+1)); [ $n -lt 2 ] || exit 0' TERM; while :; do sleep 0.01; done"
    )
    async with bench.running() as run:
        bench.supervisor.stop()
        bench.supervisor.stop()
        await asyncio.wait_for(run, PATIENCE_S)
    assert [process.returncode for process in bench.processes] == [0] * 3


async def test_a_worker_without_heartbeats_is_killed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_LOOK_INTERVAL_S", 0.02)
    async with bench.running():
        hanging = bench.processes[0]
        silent = tmp_path / f"1-{hanging.pid}.json"
        silent.write_text(json.dumps({"phase": "ready", "checks": []}))
        os.utime(silent, (0, time.monotonic() - 100))
        await until(ended(hanging))
        await until(lambda: bench.events[3:] == ["renew 1", "launch 1"])
        assert not silent.exists(), "who ended says nothing any more"
        assert not ended(*bench.processes[1:3])()


async def test_a_silence_that_ends_kills_nobody(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_LOOK_INTERVAL_S", 0.02)
    looks = 0

    def heard_at_every_fifth_look() -> list[Heartbeat]:
        nonlocal looks
        looks += 1
        return [
            Heartbeat(
                1, bench.processes[0].pid, 100.0 if looks % 5 else 0.0, Readiness(Phase.READY, ())
            )
        ]

    async with bench.running():
        monkeypatch.setattr(bench.heartbeats, "all", heard_at_every_fifth_look)
        await until(lambda: looks > 20)
        assert not ended(bench.processes[0])()


async def test_a_worker_that_printed_an_endless_line_is_started_again(bench: Bench) -> None:
    bench.script = f"head -c 200000 /dev/zero | tr '\\0' x; echo; {GOOD}"
    async with bench.running():
        bench.processes[0].kill()
        await until(lambda: len(bench.processes) == 4)


async def test_what_a_worker_prints_is_passed_on(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    bench.script = 'echo before; echo "Ready at http://it"; echo after; exec cat'
    printed: list[str] = []

    def all_printed() -> bool:
        printed.extend(capfd.readouterr().out.split())
        return sorted(printed) == ["after"] * 3 + ["before"] * 3

    async with bench.running():
        await until(all_printed)


def test_a_heartbeat_of_this_process_is_its_own(tmp_path: Path) -> None:
    heartbeats = Heartbeats(tmp_path, 2)
    heartbeats.write(2, Readiness(Phase.READY, ()))
    assert heartbeats.processes() == {2: os.getpid()}
    heartbeats.remove(2, os.getpid())
    assert heartbeats.all() == []

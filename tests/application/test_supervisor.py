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


class SupervisorHarness:
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
async def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SupervisorHarness:
    monkeypatch.setattr(supervisor_module, "_CLOSE_S", PATIENCE_S)
    return SupervisorHarness(tmp_path, 3)


def ended(*processes: Process) -> Callable[[], bool]:
    return lambda: all(process.returncode is not None for process in processes)


async def test_the_first_worker_starts_alone_and_all_end_by_sigterm(
    harness: SupervisorHarness,
) -> None:
    async with harness.running():
        assert harness.events == ["launch 1", "launch 2", "launch 3"]
    assert harness.events[3:] == ["close"]
    assert [process.returncode for process in harness.processes] == [-signal.SIGTERM] * 3


async def test_a_first_start_that_fails_ends_everything_at_once(harness: SupervisorHarness) -> None:
    harness.script = BAD
    with pytest.raises(
        StartError, match="Worker 1 ended at its start once, the last time with exit code 3"
    ):
        await harness.supervisor.run(lambda: pytest.fail("it was never ready"))
    assert harness.events == ["launch 1", "close"]


async def test_a_dead_worker_gets_new_sockets_and_a_new_process(harness: SupervisorHarness) -> None:
    async with harness.running():
        harness.processes[1].kill()
        await until(lambda: harness.events[3:] == ["renew 2", "launch 2"])
        await until(lambda: len(harness.processes) == 4)
        assert ended(harness.processes[1])()
        assert not ended(harness.processes[3])()


async def test_restart_pauses_grow_only_for_a_worker_that_dies_young(
    harness: SupervisorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pauses grow for a worker that dies young and not for one that lived."""
    monkeypatch.setattr(supervisor_module, "_STEADY_S", PATIENCE_S)

    async def kill_worker_2() -> None:
        worker, launched = harness.supervisor._workers[1], len(harness.processes)
        await until(lambda: worker.process.is_ready)
        os.kill(worker.process.pid, signal.SIGKILL)
        await until(lambda: len(harness.processes) > launched)

    async with harness.running():
        with structlog.testing.capture_logs() as logs:
            for _ in range(4):
                await kill_worker_2()
            monkeypatch.setattr(supervisor_module, "_STEADY_S", 0.0)
            await kill_worker_2()
    assert [entry["delay_s"] for entry in logs if "delay_s" in entry] == [0.0, 0.1, 0.2, 0.2, 0.0]


async def test_supervisor_retries_while_another_worker_serves(
    harness: SupervisorHarness,
) -> None:
    """It goes on trying while another serves and gives up when none does."""
    async with harness.running() as run:
        harness.script = BAD
        harness.processes[0].kill()
        harness.processes[1].kill()
        await until(lambda: harness.events.count("launch 1") > 8)
        assert not run.done()
        harness.processes[2].kill()
        with pytest.raises(
            StartError, match="in a row, the last time with exit code 3, and no other worker serves"
        ):
            await asyncio.wait_for(run, PATIENCE_S)


async def test_a_worker_that_does_not_get_ready_is_killed_and_tried_again(
    harness: SupervisorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with harness.running():
        with monkeypatch.context() as impatient:
            impatient.setattr(supervisor_module, "_START_S", 0.1)
            harness.script = "exec cat"
            harness.processes[1].kill()
            await until(lambda: len(harness.processes) > 4)
        assert harness.processes[3].returncode == -signal.SIGKILL
        harness.script = GOOD
        await until(lambda: harness.supervisor._workers[1].process.is_ready)


async def test_failed_starts_count_in_a_row(tmp_path: Path) -> None:
    harness = SupervisorHarness(tmp_path, 1)
    async with harness.running() as run:
        starts = tmp_path / "starts"  # four that fail, one that serves, and so on
        harness.script = f"echo >> {starts}; [ $(($(wc -l < {starts}) % 5)) = 0 ] || exit 3; {GOOD}"
        harness.processes[0].kill()
        await until(lambda: len(harness.processes) == 6 and harness.supervisor._any_serves())
        harness.processes[5].kill()
        await until(
            lambda: (
                run.done() or (len(harness.processes) == 11 and harness.supervisor._any_serves())
            )
        )
        assert not run.done()


async def test_a_system_that_gives_no_process_for_a_while_ends_nobody(
    harness: SupervisorHarness,
) -> None:
    async with harness.running() as run:
        harness.refusals = 2
        harness.processes[1].kill()
        await until(lambda: len(harness.processes) == 4)
        harness.refusals = 1
        harness.supervisor.roll()
        await until(lambda: harness.refusals == 0)
        harness.processes[0].kill()
        await until(lambda: len(harness.processes) == 5)
        assert not run.done()


async def test_a_rolling_restart_replaces_one_after_the_other_the_new_one_first(
    harness: SupervisorHarness,
) -> None:
    async with harness.running():
        before = list(harness.processes)
        harness.supervisor.roll()
        await until(ended(*before))
        assert harness.events[3:] == ["launch 1", "launch 2", "launch 3"], "nobody died"
        assert [process.returncode for process in before] == [0, 0, 0], (
            "told by the end of their input"
        )
        assert not ended(*harness.processes[3:])()
        # The supervisor still looks after those that came.
        harness.processes[3].kill()
        await until(lambda: harness.events[6:] == ["renew 1", "launch 1"])


async def test_a_rolling_restart_waits_for_the_end_of_each_that_it_replaced(
    harness: SupervisorHarness,
) -> None:
    harness.script = 'echo "Ready at http://it"; while read line; do :; done; sleep 0.2'
    async with harness.running():
        before = list(harness.processes)
        harness.script = GOOD
        harness.supervisor.roll()
        await until(lambda: "launch 2" in harness.events[3:])
        assert ended(before[0])()
        await until(ended(*before))


async def test_who_is_replaced_already_is_not_hurried_by_a_stop(
    harness: SupervisorHarness, tmp_path: Path
) -> None:
    may_end = tmp_path / "may end"
    harness.script = (
        'trap "exit 7" TERM; echo "Ready at http://it"; while read line; do :; done; '
        f'while [ ! -e "{may_end}" ]; do sleep 0.01; done'
    )
    async with harness.running():
        harness.script = GOOD
        harness.supervisor.roll()
        await until(lambda: any(process.is_retired for process in harness.supervisor._living))
        harness.supervisor.stop()
        await until(lambda: "close" in harness.events)
        may_end.touch()
        await until(ended(harness.processes[0]))
    assert [process.returncode == 7 for process in harness.processes[:3]] == [False, True, True]


async def test_a_rolling_restart_stops_at_a_process_that_does_not_start(
    harness: SupervisorHarness,
) -> None:
    async with harness.running():
        harness.script = BAD
        harness.supervisor.roll()
        await until(lambda: len(harness.processes) == 4)
        await until(ended(harness.processes[3]))
        harness.script = GOOD
        harness.processes[2].kill()
        await until(lambda: harness.events[3:] == ["launch 1", "renew 3", "launch 3"])
        assert not ended(*harness.processes[:2])()


async def test_a_worker_that_dies_while_it_is_replaced_is_replaced_once(
    harness: SupervisorHarness,
) -> None:
    async with harness.running():
        harness.script = f"sleep 0.3; {GOOD}"
        harness.supervisor.roll()
        await until(lambda: len(harness.processes) == 4)
        harness.processes[0].kill()
        await until(ended(*harness.processes[:3]))
        assert harness.events[3:] == ["launch 1", "launch 2", "launch 3"]


async def test_who_does_not_end_is_killed_and_a_second_stop_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_CLOSE_S", 0.3)
    harness = SupervisorHarness(tmp_path, 3)
    harness.script = STUBBORN
    async with harness.running() as run:
        harness.supervisor.stop()
        harness.supervisor.stop()
        await asyncio.wait_for(run, PATIENCE_S)
    assert [process.returncode for process in harness.processes] == [-signal.SIGKILL] * 3


async def test_a_second_stop_arrives_even_when_it_comes_with_the_first(
    harness: SupervisorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_AGAIN_S", 0.02)
    # The first SIGTERM is heard late, so that the second falls together with it.
    harness.script = (
        'trap "" TERM; echo "Ready at http://it"; sleep 0.1; n=0; '
        "trap 'n=$((n+1)); [ $n -lt 2 ] || exit 0' TERM; while :; do sleep 0.01; done"
    )
    async with harness.running() as run:
        harness.supervisor.stop()
        harness.supervisor.stop()
        await asyncio.wait_for(run, PATIENCE_S)
    assert [process.returncode for process in harness.processes] == [0] * 3


async def test_a_worker_without_heartbeats_is_killed(
    harness: SupervisorHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_LOOK_INTERVAL_S", 0.02)
    async with harness.running():
        hanging = harness.processes[0]
        silent = tmp_path / f"1-{hanging.pid}.json"
        silent.write_text(json.dumps({"phase": "ready", "checks": []}))
        os.utime(silent, (0, time.monotonic() - 100))
        await until(ended(hanging))
        await until(lambda: harness.events[3:] == ["renew 1", "launch 1"])
        assert not silent.exists(), "who ended says nothing any more"
        assert not ended(*harness.processes[1:3])()


async def test_a_silence_that_ends_kills_nobody(
    harness: SupervisorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_LOOK_INTERVAL_S", 0.02)
    looks = 0

    def heard_at_every_fifth_look() -> list[Heartbeat]:
        nonlocal looks
        looks += 1
        return [
            Heartbeat(
                1, harness.processes[0].pid, 100.0 if looks % 5 else 0.0, Readiness(Phase.READY, ())
            )
        ]

    async with harness.running():
        monkeypatch.setattr(harness.heartbeats, "all", heard_at_every_fifth_look)
        await until(lambda: looks > 20)
        assert not ended(harness.processes[0])()


async def test_a_worker_that_printed_an_endless_line_is_started_again(
    harness: SupervisorHarness,
) -> None:
    harness.script = f"head -c 200000 /dev/zero | tr '\\0' x; echo; {GOOD}"
    async with harness.running():
        harness.processes[0].kill()
        await until(lambda: len(harness.processes) == 4)


async def test_what_a_worker_prints_is_passed_on(
    harness: SupervisorHarness, capfd: pytest.CaptureFixture[str]
) -> None:
    harness.script = 'echo before; echo "Ready at http://it"; echo after; exec cat'
    printed: list[str] = []

    def all_printed() -> bool:
        printed.extend(capfd.readouterr().out.split())
        return sorted(printed) == ["after"] * 3 + ["before"] * 3

    async with harness.running():
        await until(all_printed)


def test_a_heartbeat_of_this_process_is_its_own(tmp_path: Path) -> None:
    heartbeats = Heartbeats(tmp_path, 2)
    heartbeats.write(2, Readiness(Phase.READY, ()))
    assert heartbeats.processes() == {2: os.getpid()}
    heartbeats.remove(2, os.getpid())
    assert heartbeats.all() == []

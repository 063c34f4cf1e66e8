"""Processes under measurement: started, asked for their CPU time and memory, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.server_process import ROOT

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Child:
    """A server that prints ``Ready at URL`` when it serves; ``url`` is that address."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        folder: Path = ROOT,
    ) -> None:
        self.name = name
        begun_s = time.monotonic()
        with log.open("a", encoding="utf-8") as stream:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=dict(environment),
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("Ready at "):
            self.end()
            raise SystemExit(f"{name} does not start: {log.read_text(encoding='utf-8')[-3000:]}")
        self.url = line.split()[-1]
        self.start_s = time.monotonic() - begun_s

    def cpu_s(self) -> float:
        """Seconds of CPU so far, of its children too."""
        return sum(map(cpu_s, family(self.pid)))

    def rss_mib(self) -> float:
        return sum(map(rss_bytes, family(self.pid))) / 2**20

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    folder: Path = ROOT,
) -> Iterator[Child]:
    """A child, started in ``folder``, that is ended with the block."""
    child = Child(name, command, environment, log, folder)
    try:
        yield child
    finally:
        child.end()


def family(pid: int) -> list[int]:
    """``pid`` and its living descendants."""
    found = [pid]
    for member in found:
        for task in Path(f"/proc/{member}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def cpu_s(pid: int) -> float:
    """User and system time of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE

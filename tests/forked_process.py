"""Processes of ours without the seconds of CPU that importing everything takes: forked from one
that has it imported.

The process forks before it has read its configuration or opened anything, then runs ``python -m
MODULE`` as the interpreter does. Tests of a start itself, of memory or of a terminal take a fresh
interpreter.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

from tests.quick_passwords import use_quick_hashes

_IMPORTED = (
    "application.base_web_server.lifecycle",
    "application.base_web_server.serving",
    "application.base_web_server.config.warnings",
    "application.manage",
    "base_server.service.cache.embedded",
    "base_server.service.llm.chat_memory",
    "base_server.service.llm.models",
    "base_server.service.llm.integrations",
    "aiomysql",
    "uvloop",
)


class ForkedProcess:
    """What of :class:`subprocess.Popen` the tests use. ``arguments``: module and its arguments.

    Without ``log`` stderr goes where stdout goes."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        log: Path | None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(_IMPORTED))
        read, write = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_run,
            args=(list(arguments), str(folder), dict(environment), write, log and str(log)),
            daemon=True,
        )
        self._process.start()
        write.close()
        self.stdout: IO[str] = os.fdopen(os.dup(read.fileno()), "r", encoding="utf-8")
        read.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout_s: float | None = None) -> int:
        self._process.join(timeout_s)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout_s or 0.0)
        return code


def _run(
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    stdout: Connection,
    log: str | None,
) -> None:
    """In the new process."""
    os.dup2(stdout.fileno(), 1)
    stdout.close()
    if log is None:
        os.dup2(1, 2)
    else:
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(file, 2)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = arguments
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for the life of the process
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    use_quick_hashes()
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)

"""Servers of our own under measurement."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager

from benchmarks.bench import Bench
from benchmarks.processes import Child, running


def our_server(
    bench: Bench, name: str, ai: str, **changes: object
) -> AbstractContextManager[Child]:
    """A server with databases of its own, answered for by ``ai`` (subjects/ours.py); ``changes`` as
    in Backends."""
    environment = bench.backends.environment(name, **changes)
    bench.backends.apply(environment)
    command = [sys.executable, "-m", "benchmarks.subjects.ours", ai]
    return running(name, command, environment, bench.folder / f"{name}.log")


def shipped_server(
    bench: Bench, name: str, *arguments: str, **changes: object
) -> AbstractContextManager[Child]:
    """The same as its users start it, with command line ``arguments``; the demo answers."""
    environment = bench.backends.environment(name, LLMCONFIG__DEMO_WORD_DELAY_S=0, **changes)
    bench.backends.apply(environment)
    command = [sys.executable, "-m", "application.base_web_server", "--env", "DEBUG", *arguments]
    return running(name, command, environment, bench.folder / f"{name}.log")

"""The whole command line of a worker process, which its supervisor writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from ..config.loading import Environment

READY = "Ready at "
"""How the line begins that a worker prints when it serves; its address follows."""
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Read by prometheus_client at import: counts go to files in this folder, a set per process."""


@dataclass(frozen=True)
class WorkerArguments:
    """Worker ``number`` of ``count`` serves on inherited descriptors, ``sockets`` by the key of
    their port.

    ``app`` is the flag --app; the worker reads ``netConfig.app`` itself. ``heartbeats`` is the
    folder of :class:`Heartbeats`. ``cache_socket``: where the supervisor's embedded Valkey listens.
    """

    env: Environment
    config: str | None
    app: str | None
    number: int
    count: int
    heartbeats: str
    sockets: Mapping[str, Sequence[int]]
    cache_socket: str | None

    def command(self) -> list[str]:
        # -P: modules come from the supervisor's path (group._import_path), not the current folder.
        return [
            sys.executable,
            "-P",
            "-m",
            f"{__package__}.worker",
            json.dumps(asdict(self)),
        ]

    @classmethod
    def read(cls, argument: str) -> Self:
        return cls(**json.loads(argument))

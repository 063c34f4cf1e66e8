"""What a supervisor tells a worker process: its whole command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from ..config.loading import Environment

READY = "Ready at "
"""The line with which a worker says on its standard output that it serves begins so; its address follows."""
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that prometheus_client reads when it is imported: counts go to files there, one set a process."""


@dataclass(frozen=True)
class WorkerOrder:
    """Worker ``number`` of ``count`` serves on inherited descriptors, ``sockets`` by the key of their port.

    ``app``: what the flag --app named; ``netConfig.app`` the worker reads itself.
    ``board``: the folder of the WorkerBoard. ``cache_socket``: where the supervisor's embedded Valkey listens.
    """

    env: Environment
    config: str | None
    app: str | None
    number: int
    count: int
    board: str
    sockets: Mapping[str, Sequence[int]]
    cache_socket: str | None

    def command(self) -> list[str]:
        # -P: its modules are those of the supervisor's path (see workers._import_path), not of the working directory.
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

"""The run epoch: nothing that a server forgot when it died is taken for the truth.

Each partition has a key ``epoch``, an integer of at least 1, and beside it ``epoch_run``, the run id of
the server that it was made in. Whoever first connects to another run of the server (empty, old or
whole) raises the epoch of every partition, before that connection serves anything; what was cached in
an older epoch is then not believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AskError, ClusterDownError, ResponseError, TryAgainError

from base_server.service.cache.keyspace import Keyspace
from base_server.service.core.errors import StartError
from base_server.service.core.logger import Logger
from base_server.service.redis_client.script import ScriptFolder

ADOPT_RUN = ScriptFolder(Path(__file__).parent / "lua")["adopt_run"]


class RunEpoch:
    """What this process knows of one server's run.

    ``run_id`` is the run that was last adopted (``""`` before the first connection), ``adopted`` the partitions
    whose epochs were compared with it. On a cluster there is one for each node; a partition that moved to
    another node, or whose replica was promoted, so begins a new epoch, as after a restart.
    """

    def __init__(
        self, keyspace: Keyspace, served: Callable[[], Iterable[int]] | None = None
    ) -> None:
        """``served`` names the partitions of a cluster's node; without it the server has all."""
        self._keyspace = keyspace
        self._served = served
        self.run_id = ""
        self.adopted: set[int] = set()

    def keys(self, partition: int) -> list[str]:
        """The epoch and the run that it was made in."""
        return [self._keyspace.key("epoch", partition), self._keyspace.key("epoch_run", partition)]

    async def on_connect(self, connection: AbstractConnection) -> None:
        """Adopt the run at the other end of a new connection, if it is not the one that is known."""
        info = parse_info(await _ask(connection, "INFO", "server"))
        run_id = info["run_id"]
        if run_id == self.run_id:
            return
        require_flags(info["redis_version"])
        partitions = list(
            self._served() if self._served else range(self._keyspace.partitions.count)
        )
        await connection.send_packed_command(
            connection.pack_commands(
                [("EVAL", ADOPT_RUN.source, 2, *self.keys(p), run_id) for p in partitions]
            )
        )
        epochs: dict[int, int] = {}
        failures: list[ResponseError] = []
        for partition in partitions:
            try:
                epochs[partition] = await connection.read_response()
            except _NOT_SERVED as error:
                if self._served is None:
                    failures.append(error)
            except ResponseError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        if run_id != self.run_id:  # another connection may have been greeted meanwhile
            highest = max(epochs.values(), default=0)
            Logger.info(
                "cache server run adopted", run_id=run_id, before=self.run_id, highest_epoch=highest
            )
        self.run_id = run_id
        self.adopted = set(epochs)


_OLDEST = 7
_NOT_SERVED = (AskError, TryAgainError, ClusterDownError)
"""A partition that this node of a cluster does not have, or not whole: it is adopted where its commands go next."""


def require_flags(redis_version: str) -> None:
    """Raise StartError for a server that does not know a script's flags (``allow-oom``); Valkey says 7.2."""
    if int(redis_version.partition(".")[0]) < _OLDEST:
        raise StartError(
            f"Redis 7.0 or newer (or Valkey) is needed, the server says {redis_version}: update it."
        )


def parse_info(text: str) -> dict[str, str]:
    """The ``name:value`` lines of an INFO answer."""
    return dict(
        line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#")
    )


async def _ask(connection: AbstractConnection, *command: str) -> str:
    await connection.send_command(*command)
    answer: str = await connection.read_response()
    return answer

"""The run epoch: nothing that a server forgot when it died is taken for the truth.

Each partition has a key ``epoch``, an integer of at least 1, and beside it ``epoch_run``, the run id of
the server that it was made in. Whoever first connects to another run of the server (empty, old or
whole) raises the epoch of every partition, before that connection serves anything; what was cached in
an older epoch is then not believed.
"""

from __future__ import annotations

from pathlib import Path

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from service.cache.keyspace import Keyspace
from service.cache.script import ScriptFolder
from service.core.logger import Logger

_SCRIPTS = ScriptFolder(Path(__file__).parent / "lua")


class RunEpoch:
    """``run_id`` is the server run that this process last adopted (``""`` before the first connection)."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self.run_id = ""

    def keys(self, partition: int) -> list[str]:
        """The epoch and the run that it was made in."""
        return [self._keyspace.key("epoch", partition), self._keyspace.key("epoch_run", partition)]

    async def on_connect(self, connection: AbstractConnection) -> None:
        """Adopt the run at the other end of a new connection, if it is not the one that is known."""
        run_id = parse_info(await _ask(connection, "INFO", "server"))["run_id"]
        if run_id == self.run_id:
            return
        script = _SCRIPTS["adopt_run"]
        partitions = range(self._keyspace.partitions.count)
        await connection.send_packed_command(
            connection.pack_commands([("EVAL", script.source, 2, *self.keys(p), run_id) for p in partitions])
        )
        answers = []
        for _ in partitions:
            try:
                answers.append(await connection.read_response())
            except ResponseError as error:
                answers.append(error)
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        Logger.info("cache server run adopted", run_id=run_id, before=self.run_id, highest_epoch=max(answers))
        self.run_id = run_id


def parse_info(text: str) -> dict[str, str]:
    """The ``name:value`` lines of an INFO answer."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))


async def _ask(connection: AbstractConnection, *command: str) -> str:
    await connection.send_command(*command)
    answer: str = await connection.read_response()
    return answer

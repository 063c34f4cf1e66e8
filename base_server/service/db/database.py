"""The port that every backend implements: one database, called by procedure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from base_server.service.db.scripts import DatabaseScript
from base_server.service.db.values import Row

Selection = Callable[[Mapping[str, str]], Sequence[DatabaseScript]]
"""Returns the scripts to run for a given ledger; refuses by raising."""
SERVICE = "database"
"""The name under which failures are reported (``ServiceUnavailable.service``)."""


class Database(Protocol):
    """One database on one server.

    Calls raise ``DataRefused`` when the data itself cannot be stored, ``ServiceUnavailable`` when
    the database cannot serve now and executed nothing (``NotDeployed``: it has no such procedure),
    ``OutcomeUnknown`` when the call was sent and not answered.
    """

    @property
    def label(self) -> str:
        """A readable name for logs and errors, without secrets."""

    async def call(self, procedure: str, params: Sequence[Any]) -> list[Row]:
        """Call one procedure; the rows of its last result set. Ends within twice the configured
        time-out."""

    async def ping(self) -> None:
        """Ask the server whether it answers and the database is not frozen; raises
        ``ServiceUnavailable``."""

    async def facts(self) -> dict[str, str]:
        """version, the settings that ``durability.judge`` reads, and a server's clock (``clock_s``,
        Unix); raises ``ServiceUnavailable``."""

    async def applied(self) -> dict[str, str]:
        """The ledger: checksum by script name; empty where nothing was ever applied."""

    async def apply(self, select: Selection) -> None:
        """Run in order what ``select`` returns for the ledger, and write it into the ledger; a
        script without text is only written.

        Creates the database and the ledger if missing. Two that apply at once wait for each other,
        and ``select`` gets the ledger as the other one left it: an older version that waited for a
        newer one notices.
        """

    async def freeze(self) -> None:
        """Let no procedure read or write here any more, whichever process calls it; when this
        returns, none is under way. Callers get ``ServiceUnavailable``. May be called twice; a copy
        of a frozen database is frozen too."""

    async def unfreeze(self) -> None:
        """Undo :meth:`freeze`."""

    async def close(self) -> None:
        """Close all connections."""

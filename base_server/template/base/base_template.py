"""A feature of the server: a protocol table and a lifecycle."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from base_server.template.base.endpoint import Protocol
from base_server.template.base.readiness import ReadinessCheck


class BaseTemplate:
    """Subclass it, list your protocols, register it with ``TemplateContext.add_template``.

    The lifecycle is called in the order start, quiet, drain, stop; each at most once. When the server is
    told to hurry, what is left of quiet and drain is cancelled.
    """

    kept_ids: Collection[int] = ()
    """Protocol ids that it will have later: no other template may take them."""

    def protocols(self) -> Sequence[Protocol]:
        """The protocol table; the same rows every time."""
        return ()

    async def start(self) -> None:
        """Called before the server is ready, after all services run. May raise ``StartError``."""

    async def quiet(self) -> None:
        """The server is about to stop: begin no new background work. Requests still arrive."""

    async def drain(self, timeout_s: float) -> None:
        """Finish what runs, or after ``timeout_s`` hand it back. Requests still arrive."""

    async def stop(self) -> None:
        """The server stops: end what is left. No request arrives any more; services still run."""

    async def readiness(self) -> Sequence[ReadinessCheck]:
        """What ``/readyz`` should know of this template. Must answer soon and never raise for an outage."""
        return ()

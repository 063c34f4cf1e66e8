"""A feature of the server: an endpoint table and a lifecycle."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

from base_server.service.core.renamed import warn_renamed
from base_server.template.base.endpoint import Endpoint
from base_server.template.base.readiness import ReadinessCheck


def _call_protocols(template: BaseTemplate) -> Sequence[Endpoint]:
    return template.protocols()


class BaseTemplate:
    """Subclass it, list your endpoints, register it with ``TemplateContext.add_template``.

        The lifecycle is called in the order start, quiet, drain, stop; each at most once. When the
    server is hurried, quiet and drain are cancelled.
    """

    kept_ids: Collection[int] = ()
    """Protocol ids reserved for later: no other template may use them."""

    def endpoints(self) -> Sequence[Endpoint]:
        """The endpoint table; the same rows every time."""
        return ()

    def protocols(self) -> Sequence[Endpoint]:
        """The old name of :meth:`endpoints`, for one version."""
        warn_renamed(f"{type(self).__name__}.protocols()", "endpoints()")
        methods = (vars(base).get("endpoints") for base in type(self).__mro__)
        table = next(method for method in methods if method not in {None, _call_protocols})
        return cast(Sequence[Endpoint], table(self))

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "protocols" in vars(cls) and "endpoints" not in vars(cls):
            warn_renamed(f"{cls.__name__}.protocols()", "endpoints()")
            cls.endpoints = _call_protocols  # type: ignore[assignment,method-assign]

    async def start(self) -> None:
        """Called before the server is ready, after all services run. May raise ``StartError``."""

    async def quiet(self) -> None:
        """The server is about to stop: start no background work. Requests still arrive."""

    async def drain(self, timeout_s: float) -> None:
        """Finish running work, or hand it over after ``timeout_s``. Requests still arrive."""

    async def stop(self) -> None:
        """End all remaining work. No request arrives any more; services still run."""

    async def readiness(self) -> Sequence[ReadinessCheck]:
        """Findings for ``/readyz``. Must return soon and not raise on an outage."""
        return ()

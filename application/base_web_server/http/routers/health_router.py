"""For operators: /livez, /readyz, /metrics."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from aiohttp import web

from ...observability.metrics import Metrics


class HealthReporter(Protocol):
    """What ``/readyz`` needs: one process's HealthMonitor, or what all workers of a server say."""

    async def report(self, *, verbose: bool) -> tuple[bool, dict[str, Any]]:
        """Whether the server is ready, and the answer's body."""
        ...


def add_health_routes(app: web.Application, health: HealthReporter, metrics: Metrics) -> None:
    async def livez(request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def readyz(request: web.Request) -> web.Response:
        ready, body = await health.report(verbose="verbose" in request.query)
        return web.json_response(body, status=200 if ready else 503)

    async def show_metrics(request: web.Request) -> web.Response:
        (ready, said), queues = await asyncio.gather(
            health.report(verbose=False), metrics.read_queues()
        )
        body = metrics.render(ready=ready, queues=queues, degraded=said["degraded"])
        return web.Response(body=body, headers={"Content-Type": Metrics.content_type})

    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", show_metrics)

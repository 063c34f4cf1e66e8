"""For operators: /livez, /readyz, /metrics."""

from __future__ import annotations

from aiohttp import web

from application.base_web_server.health import HealthMonitor
from application.base_web_server.metrics import Metrics


def add_health_routes(app: web.Application, health: HealthMonitor, metrics: Metrics) -> None:
    async def livez(request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def readyz(request: web.Request) -> web.Response:
        readiness = await health.readiness()
        body = readiness.to_json(verbose="verbose" in request.query)
        return web.json_response(body, status=200 if readiness.ready else 503)

    async def show_metrics(request: web.Request) -> web.Response:
        body = await metrics.render(ready=(await health.readiness()).ready)
        return web.Response(body=body, headers={"Content-Type": Metrics.content_type})

    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", show_metrics)

"""CORS: which pages of other origins may call the server. Tokens are never in cookies."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web
from aiohttp.typedefs import Handler

_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, X-Request-ID, Last-Event-ID",
    "Access-Control-Expose-Headers": "X-Request-ID, Retry-After",
    "Access-Control-Max-Age": "600",
}


def add_cors(app: web.Application, origins: Sequence[str]) -> None:
    """Let pages of ``origins`` (``*``: all) call ``app``. Without origins nothing is added."""
    if not origins:
        return

    def allowed(request: web.BaseRequest) -> str | None:
        origin = request.headers.get("Origin")
        return origin if origin and (origin in origins or "*" in origins) else None

    @web.middleware
    async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
        if (
            request.method == "OPTIONS"
            and allowed(request)
            and "Access-Control-Request-Method" in request.headers
        ):
            return web.Response(status=204, headers=_PREFLIGHT)
        return await handler(request)

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.add("Vary", "Origin")
        if origin := allowed(request):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers.setdefault(
                "Access-Control-Expose-Headers", _PREFLIGHT["Access-Control-Expose-Headers"]
            )

    app.middlewares.insert(0, preflight)
    app.on_response_prepare.append(add_headers)

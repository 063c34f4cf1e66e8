"""The API's description, and a page to browse it that loads nothing from other hosts."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from base_server.template.base.template_context import TemplateContext

from ..openapi import describe_api

API_BROWSER = Path(__file__).resolve().parents[1] / "api_browser"
_CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # the arrows in Swagger UI's style sheet
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


def add_docs_routes(app: web.Application, context: TemplateContext) -> None:
    """``/openapi.json`` of the endpoints that ``context`` has now, and ``/docs``."""
    described = describe_api(context.endpoints())
    assets = {file.name: file for file in API_BROWSER.rglob("*") if file.suffix in _TYPES}

    async def openapi(request: web.Request) -> web.Response:
        return web.json_response(described)

    async def show(request: web.Request) -> web.FileResponse:
        file = assets.get(request.match_info.get("name", "index.html"))
        if file is None:
            raise web.HTTPNotFound
        headers = {
            "Content-Type": f"{_TYPES[file.suffix]}; charset=utf-8",
            "Content-Security-Policy": _CSP,
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",  # asked for again, answered 304
        }
        return web.FileResponse(file, headers=headers)

    app.router.add_get("/openapi.json", openapi)
    app.router.add_get("/docs", show)
    app.router.add_get("/docs/{name}", show)

"""For people: the start page with its assets."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

STATIC = Path(__file__).resolve().parents[1] / "static"
_CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def add_page_routes(app: web.Application) -> None:
    pages = {file.name: file.read_bytes() for file in STATIC.iterdir()}

    def respond(name: str) -> web.Response:
        return web.Response(
            body=pages[name],
            content_type=_TYPES[Path(name).suffix],
            charset="utf-8",
            headers={"Content-Security-Policy": _CSP, "Referrer-Policy": "no-referrer"},
        )

    async def start_page(request: web.Request) -> web.Response:
        return respond("index.html")

    async def asset(request: web.Request) -> web.Response:
        if request.match_info["name"] not in pages:
            raise web.HTTPNotFound
        return respond(request.match_info["name"])

    app.router.add_get("/", start_page)
    app.router.add_get("/static/{name}", asset)

"""For people: the chat page with its assets."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from aiohttp import ETag, web

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
        # Text becomes HTML only through the templates of lit-html and what DOMPurify let pass.
        "require-trusted-types-for 'script'",
        "trusted-types lit-html dompurify",
    )
)
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Asset:
    """A file that is part of the page. It is compressed when the first client asks for it."""

    body: bytes
    content_type: str

    @cached_property
    def etag(self) -> str:
        return sha256(self.body).hexdigest()[:32]

    @cached_property
    def compressed(self) -> bytes:
        return gzip.compress(self.body, mtime=0)

    def respond(self, request: web.Request) -> web.Response:
        """The file, or 304. Clients revalidate every time, so an update is visible at once."""
        headers = {
            "Cache-Control": "no-cache",
            "Content-Security-Policy": _CSP,
            "Referrer-Policy": "no-referrer",
            "Vary": "Accept-Encoding",
        }
        if any(tag.value == self.etag for tag in request.if_none_match or ()):
            response = web.Response(status=304, headers=headers)
        else:
            takes_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
            if takes_gzip:
                headers["Content-Encoding"] = "gzip"
            body = self.compressed if takes_gzip else self.body
            response = web.Response(
                body=body, content_type=self.content_type, charset="utf-8", headers=headers
            )
        response.etag = ETag(self.etag, is_weak=True)
        return response


def add_page_routes(app: web.Application) -> None:
    assets = {
        file.relative_to(STATIC).as_posix(): Asset(file.read_bytes(), _TYPES[file.suffix])
        for file in STATIC.rglob("*")
        if file.suffix in _TYPES
    }

    async def chat_page(request: web.Request) -> web.Response:
        return assets["index.html"].respond(request)

    async def asset(request: web.Request) -> web.Response:
        if (found := assets.get(request.match_info["path"])) is None:
            raise web.HTTPNotFound
        return found.respond(request)

    app.router.add_get("/", chat_page)
    app.router.add_get("/static/{path:.+}", asset)

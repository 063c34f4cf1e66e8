"""The API browser is served whole, from here, under a policy that lets nothing else in."""

from __future__ import annotations

import re
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from application.base_web_server.http.middlewares import make_error_middleware
from application.base_web_server.http.routers.docs_router import API_BROWSER, add_docs_routes
from base_server.template.base.template_context import TemplateContext
from base_server.template.base.template_service import TemplateService


async def client_of_docs() -> TestClient[web.Request, web.Application]:
    service = TemplateService(None)  # type: ignore[arg-type] - no protocol is called
    app = web.Application(middlewares=[make_error_middleware(service)])
    add_docs_routes(app, TemplateContext())
    client = TestClient(TestServer(app))
    await client.start_server()
    return client


async def test_the_page_and_all_that_it_names_come_from_here() -> None:
    client = await client_of_docs()
    async with client.get("/docs") as answer:
        page = await answer.text()
        policy = answer.headers["Content-Security-Policy"]
        assert answer.content_type == "text/html"
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
    assert not re.search(
        r"<script(?! src=)|<style| on\w+=| style=|//", page.replace("<!doctype", "")
    ), page
    named = set(re.findall(r'(?:src|href)="/docs/([^"]+)"', page))
    assert named == {"swagger-ui.css", "swagger-ui-bundle.js", "start.js"}
    for name in named:
        async with client.get(f"/docs/{name}", headers={"Accept-Encoding": "identity"}) as answer:
            assert answer.status == 200
            assert answer.content_type in ("text/css", "text/javascript")
            body = await answer.text()
            assert "sourceMappingURL" not in body
            etag = answer.headers["ETag"]
        async with client.get(f"/docs/{name}", headers={"If-None-Match": etag}) as answer:
            assert answer.status == 304
    await client.close()


async def test_nothing_else_of_the_folder_or_beside_it_is_served() -> None:
    client = await client_of_docs()
    for name in ("LICENSE", "README.md", "swagger-ui", "..%2fapp.py", "nothing.js"):
        async with client.get(f"/docs/{name}") as answer:
            assert (answer.status, (await answer.json())["errorCode"]) == (404, 1003), name
    await client.close()


def test_the_licence_of_what_is_shipped_is_shipped() -> None:
    folder: Path = API_BROWSER / "swagger-ui"
    assert "Apache License" in (folder / "LICENSE").read_text(encoding="utf-8")
    assert (folder / "NOTICE").exists()
    assert (folder / "swagger-ui-bundle.js.LICENSE.txt").exists()

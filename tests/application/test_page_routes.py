"""The chat page is served whole, from here, under a policy that lets nothing else in."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from application.base_web_server.http.middlewares import make_error_middleware
from application.base_web_server.http.routers.page_router import STATIC, add_page_routes
from base_server.template.base.template_service import TemplateService

VENDOR = STATIC / "vendor"
SERVED = sorted(
    file for file in STATIC.rglob("*") if file.suffix in {".js", ".mjs", ".css", ".svg"}
)
OURS = [file for file in SERVED if VENDOR not in file.parents]

Client = TestClient[web.Request, web.Application]


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    service = TemplateService(None)  # type: ignore[arg-type] - no protocol is called
    app = web.Application(middlewares=[make_error_middleware(service)])
    add_page_routes(app)
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_the_page_runs_nothing_that_is_not_a_file_of_this_server(client: Client) -> None:
    async with client.get("/") as answer:
        page = await answer.text()
        policy = answer.headers["Content-Security-Policy"]
        assert answer.content_type == "text/html"
    assert "unsafe" not in policy
    assert policy.startswith(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'"
    )
    assert "require-trusted-types-for 'script'" in policy
    assert not re.search(
        r"<script(?![^>]* src=)|<style| on\w+=| style=|//", page.replace("<!doctype", "")
    ), page
    named = re.findall(r'(?:src|href)="static/([^"]+)"', page)
    assert "main.js" in named
    assert all((STATIC / name).exists() for name in named)


async def test_every_file_is_served_once_and_then_only_if_it_has_changed(client: Client) -> None:
    kinds = {
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".css": "text/css",
        ".svg": "image/svg+xml",
    }
    for file in SERVED:
        address = f"/static/{file.relative_to(STATIC).as_posix()}"
        for encoding in ("identity", "gzip"):
            async with client.get(address, headers={"Accept-Encoding": encoding}) as answer:
                assert (answer.status, answer.content_type) == (200, kinds[file.suffix]), address
                assert await answer.read() == file.read_bytes()
                assert answer.headers.get("Content-Encoding") == (
                    None if encoding == "identity" else "gzip"
                )
                assert "Content-Security-Policy" in answer.headers
                etag = answer.headers["ETag"]
        async with client.get(address, headers={"If-None-Match": etag}) as answer:
            assert (answer.status, await answer.read()) == (304, b"")


async def test_nothing_else_of_the_folder_or_beside_it_is_served(client: Client) -> None:
    for name in (
        "vendor/README.md",
        "vendor/dompurify/LICENSE",
        "views",
        "",
        "..%2fapp.py",
        "../app.py",
        "nothing.js",
    ):
        async with client.get(f"/static/{name}") as answer:
            assert (answer.status, (await answer.json())["errorCode"]) == (404, 1003), name


@pytest.mark.parametrize("file", OURS, ids=lambda file: str(file.relative_to(STATIC)))
def test_imports_lead_to_files(file: Path) -> None:
    for name in re.findall(r'(?:from|import) ?\(?"(\.[^"]+)"', file.read_text(encoding="utf-8")):
        assert (file.parent / name).resolve().is_file(), name


def test_vendored_files_are_those_of_their_packages() -> None:
    """The table of vendor/README.md lists every file with its hash in its npm package."""
    rows = re.findall(
        r"^\| (\S+) \| (\S+) (\S+) \|.*`([0-9a-f]{64})` \|$",
        (VENDOR / "README.md").read_text(),
        re.MULTILINE,
    )
    listed = {name: digest for name, _, _, digest in rows}
    present = {
        # The one changed import (vendor/README.md).
        file.relative_to(VENDOR).as_posix(): sha256(
            file.read_bytes().replace(
                b'"../get-east-asian-width/index.js"', b'"get-east-asian-width"'
            )
        ).hexdigest()
        for file in VENDOR.rglob("*")
        if file.is_file() and file.name not in {"README.md", "LICENSE"}
    }
    assert listed == present
    for folder in {name.split("/")[0] for name in listed}:
        assert (VENDOR / folder / "LICENSE").exists()

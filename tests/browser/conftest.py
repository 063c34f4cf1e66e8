"""One Chromium, one provider and one server for the tests of this folder, and visitors who are
checked at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.browser.browser_harness import (
    Player,
    Provider,
    Visitor,
    running_chromium,
    running_provider,
)
from tests.server_process import ServerProcess, running_server

Visit = Callable[..., Visitor]


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="package")
def provider() -> Iterator[Provider]:
    with running_provider() as running:
        yield running


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Iterator[ServerProcess]:
    """LOCAL as shipped, with the stub as provider: GPT4O asks it, DEMO works without."""
    with running_server(
        tmp_path_factory.mktemp("page") / "data", **provider_settings(provider)
    ) as running:
        yield running


@pytest.fixture
def player(server: ServerProcess) -> Player:
    return Player(server)


@pytest.fixture
def visit(chromium: Browser, server: ServerProcess) -> Iterator[Visit]:
    """``visit(player=…, **options of the browser context)``: a :class:`Visitor`."""
    visitors: list[Visitor] = []

    def new(**options: Any) -> Visitor:
        visitors.append(Visitor(chromium, options.pop("server", server), **options))
        return visitors[-1]

    yield new
    for visitor in visitors:
        visitor.context.close()
        visitor.check()


def provider_settings(provider: Provider) -> dict[str, str]:
    return {
        "OPENAI_API_KEY": "of the test",
        "BASE_SERVER__LLMCONFIG__PROVIDERS__OPENAI__BASE_URL": provider.base_url,
    }

"""Parts of the application in a host's own aiohttp app, and what happens to requests whose client
leaves.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from application.base_web_server.__main__ import main
from application.base_web_server.config.loading import load_settings
from application.base_web_server.host_app import register_host_templates
from application.base_web_server.http.listener import HttpListener
from application.base_web_server.http.middlewares import (
    make_error_middleware,
    request_id_middleware,
)
from application.base_web_server.http.peer import PeerFinder
from application.base_web_server.http.routers.protocol_router import add_protocol_routes
from base_server.service.core.errors import StartError
from base_server.template.base.base_template import BaseTemplate
from base_server.template.base.client_session import ClientSession
from base_server.template.base.endpoint import Endpoint
from base_server.template.base.envelope import Request, Response
from base_server.template.base.session_info import SessionInfo
from base_server.template.base.template_context import TemplateContext
from base_server.template.base.template_service import TemplateService
from tests.waiting import until


class MarketTemplate(BaseTemplate):
    """A host's template; its purchase takes as long as the test wants."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.sold: list[str] = []
        self.peers: list[str] = []

    def endpoints(self) -> Sequence[Endpoint]:
        return [Endpoint(7001, "/market/buy", Request, Response, self.on_buy_req)]

    async def on_buy_req(self, client_session: ClientSession, request: Request) -> Response:
        self.begun.set()
        await self.go_on.wait()
        self.sold.append(client_session.session.account_id)
        self.peers.append(client_session.peer)
        return Response()


class HostSessions:
    async def find(self, token: str) -> SessionInfo | None:
        return SessionInfo("host-player", 9, 1) if token == "host-token" else None


LOGGED_IN = b'{"accessToken": "host-token"}'


@pytest.fixture
def market() -> MarketTemplate:
    return MarketTemplate()


@pytest.fixture
async def host(market: MarketTemplate) -> AsyncIterator[HttpListener]:
    context = TemplateContext()
    context.add_template("market", market)
    service = TemplateService(HostSessions())
    app = web.Application(middlewares=[request_id_middleware, make_error_middleware(service)])
    add_protocol_routes(app, context, service, PeerFinder(["127.0.0.0/8"]))

    async def own_page(request: web.Request) -> web.Response:
        return web.Response(text="the host's own")

    app.router.add_get("/own", own_page)
    listener = HttpListener(app, "127.0.0.1", 0, key="port")
    await listener.open()
    yield listener
    await listener.close()


async def test_a_hosts_template_and_pages_live_in_its_own_app(
    host: HttpListener, market: MarketTemplate
) -> None:
    market.go_on.set()
    body = json.dumps({"accessToken": "host-token", "sequence": 4})
    async with aiohttp.ClientSession() as http:
        for path in ("/market/buy", "/api/protocol/7001"):
            async with http.post(
                host.url + path, data=body, headers={"X-Forwarded-For": "192.0.2.7"}
            ) as answer:
                assert await answer.json() == {"errorCode": 0, "sequence": 4}
        async with http.get(host.url + "/own") as answer:
            assert await answer.text() == "the host's own"
    assert market.sold == ["host-player"] * 2
    assert market.peers == ["192.0.2.7"] * 2


@pytest.fixture
async def small(market: MarketTemplate) -> AsyncIterator[HttpListener]:
    """A host that takes small bodies only, and looks at each before our routes do if it is asked
    to.
    """
    market.go_on.set()
    context = TemplateContext()
    context.add_template("market", market)

    @web.middleware
    async def reader(request: web.Request, handler: Handler) -> web.StreamResponse:
        if "Look" in request.headers:
            await request.read()
        return await handler(request)

    app = web.Application(client_max_size=len(LOGGED_IN), middlewares=[reader])
    add_protocol_routes(app, context, TemplateService(HostSessions()))
    listener = HttpListener(app, "127.0.0.1", 0, key="port")
    await listener.open()
    yield listener
    await listener.close()


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for byte in body:
        yield bytes([byte])
        await asyncio.sleep(0)


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_body_counts_by_its_length_however_it_comes(
    small: HttpListener, at_once: bool
) -> None:
    async with aiohttp.ClientSession() as http:
        for body, status in ((LOGGED_IN, 200), (LOGGED_IN + b" ", 413)):
            data = body if at_once else _pieces(body)
            async with http.post(small.url + "/market/buy", data=data) as answer:
                told = await answer.json()
                assert (answer.status, told["errorCode"]) == (status, 0 if status == 200 else 1002)


async def test_a_body_that_the_host_has_read_is_there_for_our_routes(small: HttpListener) -> None:
    headers = {"Look": "yes"}
    async with aiohttp.request(
        "POST", small.url + "/market/buy", data=LOGGED_IN, headers=headers
    ) as answer:
        assert (await answer.json())["errorCode"] == 0


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=UTF_8", 200),
        ('text/plain; charset="us-ascii"', 200),
        ("application/json; charset=utf-16", 400),
        ("application/json;Charset=latin-1", 400),
    ],
)
async def test_a_body_says_in_which_encoding_it_is(
    small: HttpListener, content_type: str, status: int
) -> None:
    headers = {"Content-Type": content_type}
    async with aiohttp.request(
        "POST", small.url + "/market/buy", data=LOGGED_IN, headers=headers
    ) as answer:
        assert answer.status == status


async def test_a_request_whose_client_leaves_is_finished(
    host: HttpListener, market: MarketTemplate
) -> None:
    address = host.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(address[0], int(address[1]))
    body = b'{"accessToken": "host-token"}'
    writer.write(
        b"POST /market/buy HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    await market.begun.wait()
    writer.transport.abort()
    server = host._runner.server
    assert server is not None
    await until(lambda: all(connection.transport is None for connection in server.connections))
    market.go_on.set()
    await until(lambda: market.sold == ["host-player"])


async def test_a_listener_waits_for_requests_under_way(market: MarketTemplate) -> None:
    context = TemplateContext()
    context.add_template("market", market)
    app = web.Application()
    add_protocol_routes(app, context, TemplateService(HostSessions()))
    listener = HttpListener(app, "127.0.0.1", 0, key="port")
    await listener.open()
    async with aiohttp.ClientSession() as http:
        asking = asyncio.create_task(
            http.post(listener.url + "/market/buy", data=b'{"accessToken": "host-token"}')
        )
        await market.begun.wait()
        closing = asyncio.create_task(listener.close())
        market.go_on.set()
        assert (await asking).status == 200
        await closing
        await listener.close()


@pytest.mark.parametrize(
    ("host", "port"), [("127.0.0.1", None), ("192.0.2.1", 0), ("no.such.host.invalid", 0)]
)
async def test_a_door_that_cannot_open_says_why(host: str, port: int | None) -> None:
    open_one = HttpListener(web.Application(), "127.0.0.1", 0, key="port")
    await open_one.open()
    taken = int(open_one.url.rpartition(":")[2])
    with pytest.raises(StartError, match="Cannot listen"):
        await HttpListener(
            web.Application(), host, taken if port is None else port, key="admin_port"
        ).open()
    await open_one.close()


FORWARDED = {
    "nobody trusted": ((), "10.0.0.1", "198.51.100.1", "10.0.0.1"),
    "one proxy": (("10.0.0.0/8",), "10.0.0.1", "198.51.100.1", "198.51.100.1"),
    "two proxies": (("10.0.0.0/8",), "10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1"),
    "a client that lies": (
        ("10.0.0.0/8",),
        "10.0.0.1",
        "203.0.113.9, 198.51.100.1",
        "198.51.100.1",
    ),
    "not from a proxy": (("10.0.0.0/8",), "198.51.100.1", "203.0.113.9", "198.51.100.1"),
    "nonsense": (("10.0.0.0/8",), "10.0.0.1", "<script>", "10.0.0.1"),
    "no header": (("10.0.0.0/8",), "10.0.0.1", "", "10.0.0.1"),
}


@pytest.mark.parametrize(
    ("trusted", "remote", "header", "peer"), FORWARDED.values(), ids=FORWARDED.keys()
)
def test_forwarded_addresses_are_believed_from_trusted_proxies(
    trusted: Sequence[str], remote: str, header: str, peer: str
) -> None:
    headers = {"X-Forwarded-For": header} if header else {}
    request = _request(remote, headers)
    assert PeerFinder(trusted).find(request) == peer


def _request(remote: str, headers: dict[str, str]) -> web.Request:
    from aiohttp.test_utils import make_mocked_request  # noqa: PLC0415

    return make_mocked_request("POST", "/", headers=headers).clone(remote=remote)


def register_market(context: TemplateContext) -> None:
    context.add_template("market", MarketTemplate())


async def register_later(context: TemplateContext) -> None:
    """Would never be awaited."""


def test_app_registers_the_hosts_templates_with_its_context() -> None:
    """An app registers the hosts templates with the context that it is given."""
    context = TemplateContext()
    register_host_templates(context, f"{__name__}:register_market")
    assert context.find_by_path("/market/buy") is not None
    assert not TemplateContext.templates(), "not with the one of the process"


@pytest.mark.parametrize(
    ("app", "why"),
    [
        (
            "no_such_game.chat:register",
            "no_such_game.chat cannot be imported: No module named 'no_such_game'",
        ),
        (f"{__name__}:registrieren", "has no ordinary function 'registrieren'"),
        (f"{__name__}:LOGGED_IN", "has no ordinary function 'LOGGED_IN'"),
        (f"{__name__}:register_later", "has no ordinary function 'register_later'"),
    ],
    ids=["no module", "no function", "not callable", "async"],
)
def test_an_app_that_cannot_be_found_is_refused_with_its_key(app: str, why: str) -> None:
    with pytest.raises(StartError, match=re.escape(why)) as refused:
        register_host_templates(TemplateContext(), app)
    assert f"netConfig.app (or --app) '{app}'" in str(refused.value)


@pytest.mark.parametrize(
    ("app", "why"),
    [
        ("game.chat", "must be module:function"),
        ("game.chat:", "must be module:function"),
        (".chat:register", "must be module:function"),
        ("game chat:register", "must be module:function"),
        ("__main__:register", "__main__ is another module in each process"),
    ],
)
def test_app_that_names_no_function_is_refused_by_the_configuration(
    app: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An app that names no function is refused when the configuration is read."""
    with pytest.raises(StartError, match=why):
        load_settings("LOCAL", environ={"BASE_SERVER__NETCONFIG__APP": app})
    with pytest.raises(SystemExit):
        main(["--app", app])
    assert why in capsys.readouterr().err

"""The game's app: its own pages and routes, the chat's routes, and services and templates over its
life.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web
from base_server.application.base_web_server.http.middlewares import (
    make_error_middleware,
    request_id_middleware,
)
from base_server.application.base_web_server.http.routers.protocol_router import add_protocol_routes
from template.market.market_template import MarketTemplate

from base_server.service.service_container import ServiceContainer, ServiceSettings
from base_server.template.base.template_context import TemplateContext
from base_server.template.base.template_service import Call, TemplateService
from base_server.template.base.template_type import TemplateType
from base_server.template.chat.chat_template_impl import create_chat_template
from base_server.template.chat.settings import ChatSettings
from game_server.sessions import GameSessions
from game_server.template_types import GameTemplateType

_DRAIN_S = 10.0


class Game:
    """Services, templates and sessions of one process. Making it connects to nothing.

    Raises ``StartError`` when two templates want one protocol id or path.
    """

    def __init__(self, data_dir: Path, market_protocol: int) -> None:
        self.container = ServiceContainer(
            ServiceSettings(app_id="game", env="LOCAL", data_dir=data_dir)
        )
        self.context = TemplateContext()
        self.context.add_template(
            TemplateType.CHAT, create_chat_template(self.container, ChatSettings())
        )
        self.context.add_template(
            GameTemplateType.MARKET, MarketTemplate(self.context, market_protocol)
        )
        self.service = TemplateService(GameSessions())

    async def life(self, app: web.Application) -> AsyncIterator[None]:
        """``cleanup_ctx``: services, then templates; left backwards."""
        async with AsyncExitStack() as running:
            await self.container.start()
            running.push_async_callback(self.container.stop)
            for template in self.context.templates().values():
                await template.start()
                running.push_async_callback(template.stop)
            yield

    async def wind_down(self, app: web.Application) -> None:
        """``on_shutdown``: no new replies, then those that run come to their end."""
        for template in self.context.templates().values():
            await template.quiet()
            await template.drain(_DRAIN_S)

    async def dispatch(self, request: web.Request) -> web.Response:
        """The game's own wire: ``{"protocol": 6001, "token": …, "body": {…}}`` to the same
        handlers.
        """
        message = await request.json()
        protocol = self.context.find_by_protocol(message["protocol"])
        if protocol is None:
            raise web.HTTPNotFound
        body = json.dumps(message.get("body", {})).encode()
        answer = await self.service.handle(protocol, Call(body, bearer=message.get("token")))
        return web.json_response({"protocol": protocol.id, "body": json.loads(answer.body)})


def build_game(data_dir: Path, market_protocol: int = 8001) -> web.Application:
    """The whole app."""
    game = Game(data_dir, market_protocol)
    app = web.Application(middlewares=[request_id_middleware, make_error_middleware(game.service)])
    app.cleanup_ctx.append(game.life)
    app.on_shutdown.append(game.wind_down)
    app.router.add_get("/", _front_page)
    app.router.add_post("/game/rpc", game.dispatch)
    add_protocol_routes(app, game.context, game.service)
    return app


async def _front_page(request: web.Request) -> web.Response:
    return web.Response(text="the game")

"""The market: what a game's own template looks like. It uses the documented services and the chat
template.
"""

from __future__ import annotations

from collections.abc import Sequence

from base_server.service.cache.cache_service import CacheService
from base_server.template.base.base_template import BaseTemplate
from base_server.template.base.client_session import ClientSession
from base_server.template.base.endpoint import Endpoint
from base_server.template.base.envelope import Request, Response
from base_server.template.base.error_response import error_to_response
from base_server.template.base.errors import NotAllowedInState
from base_server.template.base.field_types import Identifier
from base_server.template.base.template_context import TemplateContext
from base_server.template.base.template_type import TemplateType
from base_server.template.chat.chat_template_impl import ChatTemplateImpl
from base_server.template.chat.common.chat_serialize import ChatRoomCreateRequest

_BUY = """
local left = redis.call('DECR', KEYS[1])
if left < 0 then redis.call('INCR', KEYS[1]) end
return left
"""


class BuyRequest(Request):
    item: Identifier


class BuyResponse(Response):
    """``left``: how many are still for sale."""

    item: str = ""
    left: int = 0


class AskSellerRequest(Request):
    item: Identifier


class AskSellerResponse(Response):
    room_id: str = ""


class MarketTemplate(BaseTemplate):
    """``first_id`` is the first of the market's two protocol ids."""

    def __init__(self, context: TemplateContext, first_id: int = 8001) -> None:
        self._context = context
        self._first_id = first_id

    def endpoints(self) -> Sequence[Endpoint]:
        buy, ask = self._first_id, self._first_id + 1
        return (
            Endpoint(
                buy,
                "/api/market/buy",
                BuyRequest,
                BuyResponse,
                self.on_market_buy_req,
                summary="Buy",
            ),
            Endpoint(
                ask,
                "/api/market/ask",
                AskSellerRequest,
                AskSellerResponse,
                self.on_market_ask_req,
                summary="Ask",
            ),
        )

    async def start(self) -> None:
        async with CacheService.get_client() as redis:
            await redis.set_string("stock:sword", 3)

    @error_to_response(BuyResponse)
    async def on_market_buy_req(
        self, client_session: ClientSession, request: BuyRequest
    ) -> BuyResponse:
        """Take one from the stock."""
        async with CacheService.get_client() as redis:
            left = int(await redis.eval_script(_BUY, [f"stock:{request.item}"]))
        if left < 0:
            raise NotAllowedInState(f"{request.item} is sold out")
        return BuyResponse(item=request.item, left=left)

    @error_to_response(AskSellerResponse)
    async def on_market_ask_req(
        self, client_session: ClientSession, request: AskSellerRequest
    ) -> AskSellerResponse:
        """Open a chat room about an item: another template's handler, called directly."""
        chat = self._context.get_template(TemplateType.CHAT)
        assert isinstance(chat, ChatTemplateImpl)
        made = await chat.on_chat_room_create_req(
            client_session,
            ChatRoomCreateRequest(ai_persona="DEMO", title=f"About the {request.item}"),
        )
        response = AskSellerResponse(errorCode=made.errorCode, error=made.error)
        if made.room is not None:
            response.room_id = made.room.room_id
        return response

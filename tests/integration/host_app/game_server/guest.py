"""``python -m game_server.guest``: the other way round, the market as a guest of the shipped server."""

from __future__ import annotations

import sys

from template.market.market_template import MarketTemplate

from application.base_web_server.__main__ import main
from game_server.template_types import GameTemplateType
from template.base.template_context import TemplateContext

if __name__ == "__main__":
    # The process's one context is there before the server: what is registered now is served with the rest.
    TemplateContext.add_template(GameTemplateType.MARKET, MarketTemplate(TemplateContext.get_instance()))
    sys.exit(main())

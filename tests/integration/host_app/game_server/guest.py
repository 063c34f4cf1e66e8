"""The other way round, the market as a guest of the shipped server: ``python -m
application.base_web_server --app game_server.guest:register`` with any number of workers, or
``python -m game_server.guest`` with one.
"""

from __future__ import annotations

import sys

from base_server.application.base_web_server.__main__ import main
from template.market.market_template import MarketTemplate

from base_server.template.base.template_context import TemplateContext
from game_server.template_types import GameTemplateType


def register(context: TemplateContext) -> None:
    """Called in every server process, before services and templates start."""
    context.add_template(GameTemplateType.MARKET, MarketTemplate(context))


if __name__ == "__main__":
    # The process's one context is there before the server: what is registered now is served with
    # the rest.
    register(TemplateContext.get_instance())
    sys.exit(main())

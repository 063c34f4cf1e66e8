"""The names of the game's own templates. Any text will do; the shipped ones are in
``TemplateType``.
"""

from __future__ import annotations

from enum import StrEnum


class GameTemplateType(StrEnum):
    MARKET = "market"

"""The result of a ``doctor`` check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Level(Enum):
    GOOD = auto()
    DOUBTFUL = auto()
    BAD = auto()


@dataclass(frozen=True)
class Finding:
    """``fix`` is empty when there is nothing to do."""

    what: str
    level: Level
    text: str
    fix: str = ""

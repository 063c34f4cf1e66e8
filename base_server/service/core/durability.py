"""What an acknowledgement is worth, in a sentence that an operator understands."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Durability:
    """Of one server: ``settings`` as it told them; ``safe``: what it acknowledged survives its
    death."""

    server: str
    safe: bool
    sentence: str
    settings: dict[str, str]

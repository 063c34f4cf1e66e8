"""Durability level: what survives once a server has acknowledged a write."""

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

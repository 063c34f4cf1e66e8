"""Durability level: what survives once a server has acknowledged a write."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Durability:
    """Of one server. ``settings``: as it reports them; ``safe``: acknowledged writes survive its
    crash."""

    server: str
    safe: bool
    sentence: str
    settings: dict[str, str]

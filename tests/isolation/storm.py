"""The storm: callers whose requests are cut at random moments, and the detector that reads every
answer.

What belongs to a caller carries its nonce; an answer with the nonce of another is what must not be.
"""

from __future__ import annotations

import asyncio
import random
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

_NONCE = re.compile(r"nonce-[0-9a-f]{32}")


def new_nonce() -> str:
    return f"nonce-{uuid.uuid4().hex}"


@dataclass
class Caller:
    """Somebody with a nonce. ``request`` makes the next one: path, body, headers."""

    nonce: str
    request: Callable[[random.Random], tuple[str, dict[str, Any]]]
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """``own``: answers with the caller's nonce in them; ``foreign``: what was asked and the nonces
    of others."""

    answered: int = 0
    cut: int = 0
    own: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    foreign: list[tuple[str, str]] = field(default_factory=list)


async def storm(
    base_url: str, callers: list[Caller], requests: int, *, longest_s: float, seed: int
) -> Outcome:
    """``requests`` requests by 24 at a time, four of five cut within ``longest_s``; what came
    back."""
    outcome, chance = Outcome(), random.Random(seed)
    numbers = iter(range(requests))

    async def one(http: aiohttp.ClientSession, caller: Caller, patient: bool) -> None:
        path, body = caller.request(chance)
        try:
            async with asyncio.timeout(None if patient else chance.uniform(0, longest_s)):
                async with http.post(base_url + path, json=body, headers=caller.headers) as answer:
                    text = await answer.text()
        except (TimeoutError, aiohttp.ClientConnectionError):
            outcome.cut += 1
            return
        outcome.answered += 1
        outcome.statuses[answer.status] = outcome.statuses.get(answer.status, 0) + 1
        found = set(_NONCE.findall(text))
        outcome.own += caller.nonce in found
        outcome.foreign += [(path, nonce) for nonce in found - {caller.nonce}]

    async def worker(http: aiohttp.ClientSession) -> None:
        for number in numbers:
            await one(http, chance.choice(callers), patient=number % 5 == 0)

    async with aiohttp.ClientSession() as http:
        await asyncio.gather(*(worker(http) for _ in range(24)))
    return outcome

"""An AI provider that counts what it served, notices others' texts, and misbehaves on command."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.openai_stub import OpenAIStub, Reply, texts_of
from tests.players import NONCE, Findings

_QUICK_S = 0.002
"""Before each word."""


class CountingProvider(OpenAIStub):
    """``served``: questions that it began to answer, by text. ``misbehave``: how often it fails, hangs or is cut."""

    def __init__(self) -> None:
        super().__init__(delay_s=_QUICK_S)
        self.served: Counter[str] = Counter()
        self.foreign: list[str] = []
        self.misbehave = 0.0
        self._random = random.Random(0)
        self.responder = self._reply

    def _reply(self, body: dict[str, Any]) -> Reply:
        self.requests.clear()
        texts = texts_of(body)
        if len({name for text in texts for name in NONCE.findall(text)}) > 1:
            self.foreign.append(" | ".join(texts))
        if self._random.random() < self.misbehave:
            kind = self._random.choice(["refuse", "overload", "cut", "reset", "hang", "garbage"])
            if kind in ("refuse", "overload"):
                return Reply(status=429 if kind == "refuse" else 503, headers={"Retry-After": "0"})
            self.served[texts[-1]] += 1
            if kind == "hang":
                return Reply(["a ", "beginning "], hang=True)
            if kind == "garbage":
                return Reply(raw="data: {not json\n\n")
            return Reply(["half of ", "it "], cut="reset" if kind == "reset" else "mid_json")
        self.served[texts[-1]] += 1
        return self._echo(body)

    @contextmanager
    def speaking(self, chance: random.Random) -> Iterator[None]:
        """Now and then slowly, so that faults meet replies half said."""
        self._delay_s = chance.choice([_QUICK_S, _QUICK_S, 0.3])
        try:
            yield
        finally:
            self._delay_s = _QUICK_S

    def check(self, findings: Findings) -> None:
        """Nobody paid twice, and no conversation had another's text in it."""
        for text, times in self.served.items():
            findings.expect(times == 1, "duplicated", f"the provider answered {times} times: {text!r}")
        for text in self.foreign:
            findings.add("foreign", f"asked with {text!r}")
        self.served.clear()
        self.foreign.clear()

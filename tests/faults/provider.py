"""An AI provider that counts what it was asked, notices others' texts, and misbehaves on
command."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.load_clients import NONCE, Findings
from tests.openai_stub import OpenAIStub, Reply, texts_of

_QUICK_S = 0.002
"""Before each word."""
_HALF_SAID = ("a beginning ", "half of it ")
"""What a provider that misbehaves says of a reply."""


class CountingProvider(OpenAIStub):
    """Counts by question (:func:`marker_of`), over its whole life.

    ``asked``: requests that came, refused ones included. ``served``: questions that it began to
    answer. ``misbehave``: how often it fails, hangs or is cut."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(port, delay_s=_QUICK_S)
        self.asked: Counter[str] = Counter()
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
        question = marker_of(
            [str(m["content"]) for m in body["messages"] if m["role"] == "user"][-1]
        )
        self.asked[question] += 1
        if self._random.random() < self.misbehave:
            kind = self._random.choice(["refuse", "overload", "cut", "reset", "hang", "garbage"])
            if kind in ("refuse", "overload"):
                return Reply(status=429 if kind == "refuse" else 503, headers={"Retry-After": "0"})
            self.served[question] += 1
            if kind == "hang":
                return Reply(["a ", "beginning "], hang=True)
            if kind == "garbage":
                return Reply(raw="data: {not json\n\n")
            return Reply(["half of ", "it "], cut="reset" if kind == "reset" else "mid_json")
        self.served[question] += 1
        words = full_reply(question).split(" ")
        return Reply(
            [word if i == 0 else f" {word}" for i, word in enumerate(words)], delay_s=self._delay_s
        )

    @contextmanager
    def speaking(self, chance: random.Random) -> Iterator[None]:
        """Now and then slowly, so that faults meet replies half said."""
        with self.pausing(chance.choice([_QUICK_S, _QUICK_S, 0.3])):
            yield

    @contextmanager
    def pausing(self, delay_s: float) -> Iterator[None]:
        """So long before each of a reply's words."""
        self._delay_s = delay_s
        try:
            yield
        finally:
            self._delay_s = _QUICK_S

    def check(self, findings: Findings) -> None:
        """No question was served twice, and no conversation had another's text in it."""
        for question, times in self.served.items():
            findings.expect(
                times == 1, "duplicated", f"the provider answered {times} times: {question!r}"
            )
        for text in self.foreign:
            findings.add("foreign", f"asked with {text!r}")
        self.foreign.clear()


def marker_of(question: str) -> str:
    """The last nonce in a question, else all of its text: a prompt may join questions that have no
    reply."""
    markers = [found[0] for found in NONCE.finditer(question)]
    return markers[-1] if markers else question


def full_reply(question: str) -> str:
    """All that the provider says to a question."""
    return f"stub: well then, about {marker_of(question)}"


def is_beginning_of_reply(text: str, question: str) -> bool:
    return any(whole.startswith(text) for whole in (full_reply(question), *_HALF_SAID))

"""Counts the replies of providers: how many, how they end, how fast they begin, what they cost."""

from __future__ import annotations

import time
from typing import Self

from base_server.service.core.instruments import Counter, Gauge, Histogram
from base_server.service.llm.conversation import ReplyChunk, ReplyEnd, ReplyItem, ReplyStart
from base_server.service.llm.llm_errors import AITimeout, AIUnavailable

CALLS = Counter(
    "ai_calls", "Providers asked, a fallback for itself; persona is whose.", ("persona",)
)
REPLIES = Counter(
    "ai_replies",
    "Replies by their end: stop, length, cut (its reader left or it was stopped), unavailable,"
    " timeout, not_called (no capacity, no model).",
    ("persona", "outcome"),
)
FIRST_TOKEN_SECONDS = Histogram(
    "ai_first_token_seconds",
    "From the first question to a provider to the reply's first text.",
    ("persona",),
)
TOKENS = Counter(
    "ai_tokens",
    "Tokens by kind, prompt or completion; estimated where the provider said nothing.",
    ("persona", "kind"),
)
RUNNING = Gauge("ai_running", "AI calls that run, of at most llmConfig.max_concurrent_requests.")
WAITING = Gauge("ai_waiting", "AI calls that wait to run.")


class CallMeter:
    """Of one reply: show it every item; counted when its block is left, however."""

    def __init__(self, persona: str) -> None:
        self._persona = persona
        self._asked_s = 0.0
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._spoke = False
        self._outcome = "cut"
        self._is_counted = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, AITimeout):
            self._outcome = "timeout"
        elif isinstance(error, AIUnavailable):
            self._outcome = "unavailable" if error.called else "not_called"
        if not self._is_counted:
            return
        REPLIES.add(self._persona, self._outcome)
        TOKENS.add(self._persona, "prompt", amount=self._prompt_tokens)
        TOKENS.add(self._persona, "completion", amount=self._completion_tokens)

    def forget(self) -> None:
        """It is no reply of this process: another one asks, or nobody."""
        self._is_counted = False

    def note(self, item: ReplyItem) -> None:
        """Take an item of the stream into account."""
        if isinstance(item, ReplyChunk):
            self._completion_tokens += item.tokens
            if not self._spoke:
                self._spoke = True
                FIRST_TOKEN_SECONDS.observe(time.monotonic() - self._asked_s, self._persona)
        elif isinstance(item, ReplyStart):
            CALLS.add(self._persona)
            self._asked_s = self._asked_s or time.monotonic()
            self._prompt_tokens = item.prompt_tokens
        elif isinstance(item, ReplyEnd):
            self._prompt_tokens, self._completion_tokens = (
                item.prompt_tokens,
                item.completion_tokens,
            )
            self._outcome = item.finish_reason

"""Every way a reply can fail.

Texts are for the log: they never hold user text, keys or a provider's prose."""

from __future__ import annotations

from collections.abc import Sequence

from base_server.service.core.errors import ServiceError


class AIUnavailable(ServiceError):
    """No reply, or none to its end.

    ``called`` is false when the provider was not asked at all (no capacity, service stopped);
    ``retry_after_s`` is when asking again makes sense, if that is known.
    """

    def __init__(
        self, reason: str, *, called: bool = True, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.called = called
        self.retry_after_s = retry_after_s


class ReplyWithheld(AIUnavailable):
    """The provider's content filter or the model itself refused; no fallback is asked instead."""

    def __init__(self) -> None:
        super().__init__("the provider withheld the reply")


class ConversationTooLong(AIUnavailable):
    """The provider refused the prompt as longer than the model's context, with half of the history
    too."""

    def __init__(self) -> None:
        super().__init__(
            "the conversation is too long for the model, with half of its history too: set"
            " context_tokens of the model to its context size, or lower"
            " llmConfig.history_max_tokens"
        )


class AITimeout(ServiceError):
    """The provider was too slow: ``phase`` is ``connect``, ``first token``, ``next token`` or
    ``reply``."""

    def __init__(self, phase: str, limit_s: float) -> None:
        super().__init__(f"{phase}: nothing after {limit_s:g} s")
        self.phase = phase
        self.limit_s = limit_s


class UnknownPersona(ServiceError):
    """``known`` lists the names that exist."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"unknown ai_persona: known are {', '.join(known)}")
        self.name = name
        self.known = list(known)

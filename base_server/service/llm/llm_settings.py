"""``llmConfig``: personas, the providers that answer for them, and the limits of a reply."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, JsonValue, SecretStr, StringConstraints, model_validator

from base_server.service.core.settings import Settings, TtlSeconds

DEMO_PROVIDER = "demo"
OPENAI_URL = "https://api.openai.com/v1"

Name = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
FinishReasonName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)
]
Seconds = Annotated[float, Field(gt=0, le=3600)]

# Options that have a setting of their own, or that the rules of a call decide.
_OWN_OPTIONS = frozenset(
    {
        "model",
        "model_name",
        "model_provider",
        "api_key",
        "base_url",
        "temperature",
        "max_tokens",
        "timeout",
    }
    | {
        "max_retries",
        "streaming",
        "stream_usage",
        "stream_chunk_timeout",
        "http_async_client",
        "callbacks",
        "verbose",
    }
)


def _is_http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    url = urlsplit(value)
    if not url.hostname or url.port == 0:  # asking for a port that is none raises ValueError too
        raise ValueError("must name a host, and a port if it is not the usual one")
    return value.rstrip("/")


def _has_no_setting_of_its_own(options: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    if own := sorted(_OWN_OPTIONS & set(options)):
        raise ValueError(f"not here, there is a setting or a rule for it: {', '.join(own)}")
    return options


ContextTokens = Annotated[int, Field(ge=256, le=100_000_000)]
Options = Annotated[Mapping[str, JsonValue], AfterValidator(_has_no_setting_of_its_own)]


class ProviderSettings(Settings):
    """A provider of models, and its time limits."""

    integration: Name = "openai"
    """What speaks to it: `openai` for every server with OpenAI's chat completions protocol,
    self-hosted ones too; or another provider of LangChain's `init_chat_model`, such as `anthropic`
    or `ollama`, with its package installed."""
    base_url: Annotated[str, AfterValidator(_is_http_url)] | None = None
    """Address of its API, for `openai` up to and with `/v1`; null is the integration's own."""
    api_key: SecretStr | None = None
    """Its key; for the provider named `openai` the variable `OPENAI_API_KEY` is read too."""
    key_required: bool = True
    """False for servers without keys, and for integrations that find their credentials
    themselves."""
    options: Options = Field(default_factory=dict)
    """More arguments for the integration's chat model (a region, a project).

    Printed as they are: no secrets."""
    connect_timeout_s: Seconds = 5.0
    """Longest wait for a connection."""
    first_token_timeout_s: Seconds = 45.0
    """Longest wait for a reply's first token, retries included."""
    idle_timeout_s: Seconds = 30.0
    """Longest silence between two tokens."""
    timeout_s: Seconds = 180.0
    """A whole reply, retries included."""
    max_retries: int = Field(default=2, ge=0, le=5)
    """Only for calls that the provider certainly did not serve (``failures.may_retry``)."""
    context_tokens: ContextTokens | None = None
    """Context size of its models in tokens, prompt and reply together; null is unknown.

    A model may have its own."""
    whole_reasons: tuple[FinishReasonName, ...] = ()
    """More finish reasons, in any case, that mean a whole reply.

    Known are `stop`, `eos`, `eos_token`, `end_turn`, `stop_sequence`, `complete`, `completed`,
    `finished`, `done`; an unknown one ends the reply with 1020."""
    require_finish_reason: bool = False
    """Whether a stream that ends with `[DONE]` but without a finish reason is a failed reply
    (1020), not a whole one."""


class ModelSettings(Settings):
    """A model of a provider."""

    provider: Name
    """Name of an entry of `providers`, or `demo`."""
    model: str = Field(default="demo", min_length=1, max_length=200)
    """Name of the model, as its provider knows it."""
    options: Options = Field(default_factory=dict)
    """More arguments for this model, beside and above those of its provider."""
    context_tokens: ContextTokens | None = None
    """Its context size in tokens, prompt and reply together: history is left out until both fit;
    null is that of its provider. Counted cautiously, so that Korean, Chinese, Japanese and program
    code fit too."""


class PersonaSettings(ModelSettings):
    """A model with its instructions."""

    fallbacks: tuple[ModelSettings, ...] = ()
    """Asked in this order when the model before failed without any text."""
    title: str = ""
    """Name for people."""
    description: str = ""
    """One line for people, for a list to choose from."""
    system_prompt: str = ""
    """First message of every conversation."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Passed to the model; null leaves it to the provider."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest reply in tokens; null leaves it to the provider."""


_SHIPPED_PERSONAS = {
    "GPT4O": PersonaSettings(
        provider="openai",
        model="gpt-4o",
        title="GPT-4o",
        description="General assistant.",
        system_prompt="You are a helpful assistant. Answer in the language of the user.",
    ),
    "DEMO": PersonaSettings(
        provider=DEMO_PROVIDER,
        title="Demo",
        description="Answers offline with a few prepared replies; needs no key.",
    ),
}


class LlmSettings(Settings):
    """The whole section. Persona names are unique without regard to case."""

    default_persona: Name = "GPT4O"
    """Answers where a room names none."""
    personas: Mapping[Name, PersonaSettings] = Field(
        default_factory=lambda: MappingProxyType(_SHIPPED_PERSONAS)
    )
    """The personas by name."""
    providers: Mapping[Name, ProviderSettings] = Field(
        default_factory=lambda: MappingProxyType({"openai": ProviderSettings(base_url=OPENAI_URL)})
    )
    """The providers by name."""
    demo_without_key: bool = False
    """Answer with ``demo`` where a provider has no key, outside LOCAL too."""
    demo_word_delay_s: float = Field(default=0.0, ge=0, le=1)
    """Pause before each word of a `demo` reply, for people to see it stream; shortened for long
    replies."""

    max_concurrent_requests: int = Field(default=64, ge=1)
    """Calls of providers at once, in this process."""
    max_waiting_requests: int = Field(default=256, ge=0)
    """Calls that may wait to run; one more is refused with 1020 (503)."""
    wait_timeout_s: Seconds = 20.0
    """How long a call may wait to run, when ``max_concurrent_requests`` others do."""

    max_conversation_length: int = Field(default=20, ge=0, le=1000)
    """Earlier messages given to the model, and kept for a session of its own."""
    history_max_tokens: int = Field(default=8000, ge=0)
    """Budget of those messages (estimated); system prompt and question come on top.

    See `context_tokens` too."""
    conversation_ttl_s: TtlSeconds = 3600
    """Seconds that a session's own history is kept (rooms keep theirs by themselves)."""
    max_reply_chars: int = Field(default=100_000, ge=1)
    """A longer reply is cut there with finish_reason ``length``."""

    def context_tokens_of(self, model: ModelSettings) -> int | None:
        """The model's context size: its own, else its provider's, None when it is unknown."""
        if model.context_tokens is not None or model.provider == DEMO_PROVIDER:
            return model.context_tokens
        return self.providers[model.provider].context_tokens

    @model_validator(mode="after")
    def _names_fit_together(self) -> Self:
        if len({name.casefold() for name in self.personas}) != len(self.personas):
            raise ValueError("personas: two names differ only in case")
        if self.default_persona not in self.personas:
            raise ValueError(
                f"default_persona: not one of personas ({', '.join(sorted(self.personas))})"
            )
        for name, persona in self.personas.items():
            for where, chosen in (
                ("", persona),
                *((f".fallbacks.{n}", f) for n, f in enumerate(persona.fallbacks)),
            ):
                if chosen.provider != DEMO_PROVIDER and chosen.provider not in self.providers:
                    known = ", ".join([*sorted(self.providers), DEMO_PROVIDER])
                    raise ValueError(
                        f"personas.{name}{where}.provider: not one of providers ({known})"
                    )
                context_tokens = self.context_tokens_of(chosen)
                if (
                    persona.max_tokens is not None
                    and context_tokens
                    and persona.max_tokens >= context_tokens
                ):
                    raise ValueError(
                        f"personas.{name}.max_tokens: leaves nothing of the context_tokens of"
                        f" {chosen.model} ({context_tokens}) for the question"
                    )
        return self

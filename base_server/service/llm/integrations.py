"""A LangChain chat model for each configured choice.

Importing this module imports LangChain: only in a thread."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import anyio
import openai
from langchain.chat_models import init_chat_model
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import SecretStr, ValidationError

from base_server.service.core.errors import StartError
from base_server.service.llm.call_permit import obtain_permit
from base_server.service.llm.llm_settings import PersonaSettings, ProviderSettings
from base_server.service.llm.model_stream import ModelTraits, fold_reason
from base_server.service.llm.personas import Choice
from base_server.service.llm.response_events import ResponseEvents

_KEYLESS = SecretStr("none")  # the OpenAI SDK wants some key
_SAY_WHY = frozenset({"anthropic", "ollama"})  # of the others it is not known


class HttpClients:
    """The HTTP client of each provider that speaks OpenAI's protocol, made when it is first asked
    for.

    LangChain's own default is shared by every event loop of the process and cannot be closed.
    """

    def __init__(self, max_reply_chars: int) -> None:
        # Imports what the first request would import in the server's event loop.
        anyio.run(anyio.sleep, 0)
        self._hooks: list[Callable[..., Any]] = [ResponseEvents(max_reply_chars)]
        self._clients: dict[str, openai.DefaultAsyncHttpxClient] = {}

    def of(self, name: str, provider: ProviderSettings) -> openai.DefaultAsyncHttpxClient:
        if name not in self._clients:
            self._clients[name] = openai.DefaultAsyncHttpxClient(
                timeout=_timeout(provider),
                event_hooks={"request": [obtain_permit], "response": self._hooks},
            )
        return self._clients[name]

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()


def build_model(
    choice: Choice, provider: ProviderSettings, persona: PersonaSettings, clients: HttpClients
) -> tuple[BaseChatModel, ModelTraits]:
    """The model of ``choice``. Raises StartError for a missing package or a refused argument.

    Read time-outs and retries are ProviderCall's, so the SDKs' own are switched off.
    """
    _silence_serializer()
    with _as_start_error(choice.provider_name, provider):
        build = _openai if provider.integration == "openai" else _other
        model = build(choice, provider, persona, clients)
    speaks_openai = isinstance(model, BaseChatOpenAI)
    says_why = speaks_openai or provider.integration in _SAY_WHY
    return model, ModelTraits(
        says_why=says_why,
        usage_adds_up=not speaks_openai,
        whole_reasons=frozenset(map(fold_reason, provider.whole_reasons)),
        done_is_whole=not provider.require_finish_reason,
        obtains_permit=build is _openai,
    )


def _silence_serializer() -> None:
    """SDKs keep what came, of any type, and LangChain dumps it as declared: pydantic warns of each
    value.

    The warning holds the model's text, and the interpreter keeps one entry for each text, without
    end."""
    warnings.filterwarnings(
        "ignore", "Pydantic serializer warnings", UserWarning, r"pydantic\.main\Z"
    )


def _openai(
    choice: Choice, provider: ProviderSettings, persona: PersonaSettings, clients: HttpClients
) -> BaseChatModel:
    _refuse_unknown(ChatOpenAI, choice.options)
    arguments: dict[str, Any] = {
        "model": choice.model,
        "base_url": choice.base_url,
        "api_key": choice.api_key or _KEYLESS,
        "temperature": persona.temperature,
        "max_completion_tokens": persona.max_tokens,
        "use_responses_api": False,
        "openai_proxy": "",
    }
    return ChatOpenAI(**arguments | _openai_rules(choice, provider, clients) | dict(choice.options))


def _other(
    choice: Choice, provider: ProviderSettings, persona: PersonaSettings, clients: HttpClients
) -> BaseChatModel:
    standard = {
        "api_key": choice.api_key and choice.api_key.get_secret_value(),
        "base_url": choice.base_url,
        "temperature": persona.temperature,
        "max_tokens": persona.max_tokens,
    }
    given = {name: value for name, value in standard.items() if value is not None} | dict(
        choice.options
    )

    def build(**more: Any) -> BaseChatModel:
        return init_chat_model(choice.model, model_provider=provider.integration, **given | more)

    kind = type(build())  # only LangChain knows which class it is
    _refuse_unknown(kind, given)
    if issubclass(kind, BaseChatOpenAI):
        return build(**_openai_rules(choice, provider, clients))
    # Google's SDK counts attempts, and takes 0 for its own default.
    retries = {"max_retries": 1 if provider.integration.startswith("google") else 0}
    return build(**retries) if "max_retries" in _parameters(kind) else build()


def _openai_rules(
    choice: Choice, provider: ProviderSettings, clients: HttpClients
) -> dict[str, Any]:
    return {
        "http_async_client": clients.of(choice.provider_name, provider),
        "timeout": _timeout(provider),
        "max_retries": 0,
        "stream_usage": True,
        "stream_chunk_timeout": None,
    }


def _timeout(provider: ProviderSettings) -> openai.Timeout:
    return openai.Timeout(None, connect=provider.connect_timeout_s)


def _refuse_unknown(kind: type[BaseChatModel], given: Mapping[str, Any]) -> None:
    # Most integrations drop what they do not know without a word.
    if unknown := sorted(set(given) - _parameters(kind)):
        raise ValueError(f"{kind.__name__} does not know {', '.join(unknown)}")


def _parameters(kind: type[BaseChatModel]) -> set[str]:
    aliases = {field.alias for field in kind.model_fields.values() if field.alias}
    return aliases | set(kind.model_fields)


@contextmanager
def _as_start_error(name: str, provider: ProviderSettings) -> Iterator[None]:
    where = f"llmConfig.providers.{name} ({provider.integration})"
    try:
        yield
    except ImportError as error:
        package = re.search(r"pip install ([\w-]+)", str(error))
        raise StartError(
            f"{where} needs a package: pip install {package[1] if package else error.name}."
        ) from error
    except ValidationError as error:
        # Without the input, which may be a key.
        named = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
        )
        raise StartError(f"{where}: {' '.join(named.split())}.") from None
    except Exception as error:  # a third party's constructor: anything
        raise StartError(
            f"{where}: {type(error).__name__}: {' '.join(str(error).split())[:300]}."
        ) from error

"""One LangChain chat model per persona. Importing this module imports LangChain: only ever in a thread."""

from __future__ import annotations

from collections.abc import Sequence

import openai
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from service.llm.conversation import Turn
from service.llm.demo import DemoChatModel
from service.llm.llm_settings import LlmSettings, ProviderSettings
from service.llm.open_responses import note_response
from service.llm.personas import Persona, Personas
from service.llm.prompt import build_prompt
from service.llm.provider_call import CallLimits, ProviderCall

_DEMO_LIMITS = ProviderSettings()


class ModelSet:
    """All models of a service, and the HTTP client of each provider. ``close`` ends what still runs."""

    def __init__(self, settings: LlmSettings, personas: Personas) -> None:
        self._settings = settings
        self._http: dict[str, openai.DefaultAsyncHttpxClient] = {}
        self._models = {persona.name: (persona, self._model(persona)) for persona in personas.all()}

    def call(self, persona_name: str, history: Sequence[Turn], question: str) -> ProviderCall:
        """A call ready to be streamed; nothing is sent yet."""
        persona, model = self._models[persona_name]
        messages: list[BaseMessage] = build_prompt(
            persona.settings.system_prompt,
            history,
            question,
            max_messages=self._settings.max_conversation_length,
            max_tokens=self._settings.history_max_tokens,
        )
        limits = CallLimits.of(persona.provider or _DEMO_LIMITS, self._settings.max_reply_chars)
        return ProviderCall(model, messages, limits, persona=persona.name, model_name=persona.model)

    async def close(self) -> None:
        """Close the providers' connections."""
        for client in self._http.values():
            await client.aclose()

    def _model(self, persona: Persona) -> BaseChatModel:
        if persona.provider is None or persona.api_key is None:
            return DemoChatModel()
        return self._openai(persona, persona.provider, persona.api_key)

    def _openai(self, persona: Persona, provider: ProviderSettings, api_key: SecretStr) -> ChatOpenAI:
        # A client of our own: LangChain's default one is shared by every event loop of the process
        # and cannot be closed. Read time-outs, retries and chunk time-outs are ProviderCall's.
        timeout = openai.Timeout(None, connect=provider.connect_timeout_s)
        if persona.provider_name not in self._http:
            self._http[persona.provider_name] = openai.DefaultAsyncHttpxClient(
                timeout=timeout, event_hooks={"response": [note_response]}
            )
        return ChatOpenAI(
            model=persona.settings.model,
            base_url=provider.base_url,
            api_key=api_key,
            temperature=persona.settings.temperature,
            max_completion_tokens=persona.settings.max_tokens,
            http_async_client=self._http[persona.provider_name],
            timeout=timeout,
            max_retries=0,
            stream_usage=True,
            stream_chunk_timeout=None,
            use_responses_api=False,
            openai_proxy="",
        )

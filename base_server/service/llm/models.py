"""The models of all personas, and replies of the first one that answers.

Importing this module imports LangChain."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from langchain_core.language_models.chat_models import BaseChatModel

from base_server.service.core.logger import Logger
from base_server.service.llm.call_permit import CallPermit
from base_server.service.llm.conversation import HistoryMessage, ReplyChunk, ReplyItem
from base_server.service.llm.demo import DemoChatModel
from base_server.service.llm.llm_errors import AITimeout, AIUnavailable, ReplyWithheld
from base_server.service.llm.llm_settings import LlmSettings, ProviderSettings
from base_server.service.llm.model_stream import ModelTraits
from base_server.service.llm.personas import Choice, Persona, Personas
from base_server.service.llm.prompt import build_prompt
from base_server.service.llm.provider_call import CallLimits, CallTarget, ProviderCall

if TYPE_CHECKING:
    from base_server.service.llm.integrations import HttpClients

_DEMO_TRAITS = ModelTraits(says_why=True, usage_adds_up=False, joins_neighbours=False)


class ModelSet:
    """Made once, in a thread. Raises StartError for a model that cannot be built."""

    def __init__(self, settings: LlmSettings, personas: Personas) -> None:
        self._settings = settings
        self._clients: HttpClients | None = None
        self._running: set[ProviderCall] = set()
        self._personas = {
            persona.name: (persona, [self._target(persona, choice) for choice in persona.choices])
            for persona in personas.all()
        }

    async def stream(
        self,
        persona_name: str,
        history: Sequence[HistoryMessage],
        question: str,
        permit: CallPermit,
    ) -> AsyncGenerator[ReplyItem, None]:
        """The reply of the persona's model; of the next fallback when one failed without any text.

        A fallback has the time of its own provider. Raises what the last one raised, or the permit.
        """
        persona, targets = self._personas[persona_name]
        for number, target in enumerate(targets, start=1):
            spoke = False
            prompt = build_prompt(
                persona.settings.system_prompt,
                history,
                question,
                max_messages=self._settings.max_conversation_length,
                max_tokens=self._settings.history_max_tokens,
                context_tokens=target.prompt_tokens,
                joins=target.traits.joins_neighbours,
            )
            call = ProviderCall(target, prompt, permit)
            self._running.add(call)
            try:
                async with aclosing(call.stream()) as items:
                    async for item in items:
                        spoke = spoke or isinstance(item, ReplyChunk)
                        yield item
                return
            except (AIUnavailable, AITimeout) as error:
                if (
                    spoke
                    or number == len(targets)
                    or isinstance(error, ReplyWithheld)
                    or permit.failure is error
                ):
                    raise
                Logger.warn(
                    "ai fallback", persona=persona_name, failed=target.model_name, reason=str(error)
                )
            finally:
                self._running.discard(call)

    async def close(self) -> None:
        """End the calls that still run, and close the providers' connections."""
        for call in self._running:
            call.abort()
        if self._clients is not None:
            await self._clients.close()

    def _target(self, persona: Persona, choice: Choice) -> CallTarget:
        model: BaseChatModel
        if choice.provider is None:
            model, traits = (
                DemoChatModel(word_delay_s=self._settings.demo_word_delay_s),
                _DEMO_TRAITS,
            )
        else:
            # Thirty megabytes, which a server of demos does without.
            from base_server.service.llm.integrations import (  # noqa: PLC0415
                HttpClients,
                build_model,
            )

            self._clients = self._clients or HttpClients(self._settings.max_reply_chars)
            model, traits = build_model(choice, choice.provider, persona.settings, self._clients)
        limits = CallLimits.of(
            choice.provider or ProviderSettings(), self._settings.max_reply_chars
        )
        prompt_tokens = _prompt_capacity(choice.context_tokens, persona.settings.max_tokens)
        return CallTarget(
            model,
            traits,
            limits,
            persona.name,
            choice.provider_name,
            choice.model,
            choice.address,
            prompt_tokens,
        )


def _prompt_capacity(context_tokens: int | None, reply_tokens: int | None) -> int | None:
    """What a model's context leaves for the prompt; a reply without a bound of its own gets a
    quarter."""
    if context_tokens is None:
        return None
    return context_tokens - (reply_tokens or context_tokens // 4)

"""The offline demo model: streams prepared replies word by word, and says that it is a demo."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from base_server.service.llm.conversation import estimate_tokens
from base_server.service.llm.demo_replies import demo_reply
from base_server.service.llm.llm_settings import DEMO_PROVIDER
from base_server.service.llm.prompt import count_tokens

_WORDS = re.compile(r"\s*\S+|\s+$")
_LONGEST_REPLY_S = 3.0
_WORDS_AT_ONCE = 32
_METADATA = {"finish_reason": "stop", "model_name": DEMO_PROVIDER}


class DemoChatModel(BaseChatModel):
    """A LangChain chat model without a network. ``word_delay_s`` as in the settings."""

    word_delay_s: float = 0.0

    @property
    def _llm_type(self) -> str:
        return DEMO_PROVIDER

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        reply = demo_reply(_questions(messages))
        message = AIMessage(
            reply, response_metadata=_METADATA, usage_metadata=_usage(messages, reply)
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        reply = demo_reply(_questions(messages))
        words = _WORDS.findall(reply)
        delay_s = min(self.word_delay_s, _LONGEST_REPLY_S / len(words))
        for number, word in enumerate(words):
            if delay_s or number % _WORDS_AT_ONCE == 0:
                await asyncio.sleep(
                    delay_s
                )  # without a delay too: a long reply leaves room for others
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        end = AIMessageChunk(content="", usage_metadata=_usage(messages, reply))
        yield ChatGenerationChunk(message=end, generation_info=_METADATA)


def _questions(messages: list[BaseMessage]) -> list[str]:
    return [message.text for message in messages if isinstance(message, HumanMessage)]


def _usage(messages: list[BaseMessage], reply: str) -> UsageMetadata:
    asked, answered = count_tokens(messages), estimate_tokens(reply)
    return UsageMetadata(input_tokens=asked, output_tokens=answered, total_tokens=asked + answered)

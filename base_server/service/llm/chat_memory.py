"""A session's conversation as LangChain sees it. Importing this module imports LangChain's core."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage

from base_server.service.llm.conversation import HistoryMessage, as_history_message
from base_server.service.llm.histories import Histories
from base_server.service.llm.prompt import as_messages


class SessionChatHistory(BaseChatMessageHistory):
    """The asynchronous methods read and write the store.

    ``messages`` is what this object last loaded or wrote. The synchronous methods change it at once
    and the store in the background, in order; the service's next reply waits for them. They need a
    running event loop. Only user, AI and system messages with text are taken (ValueError
    otherwise)."""

    def __init__(self, histories: Histories, session_id: str) -> None:
        super().__init__()
        self._histories = histories
        self._session_id = session_id
        self._snapshot: list[BaseMessage] = []

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        return list(self._snapshot)

    async def aget_messages(self) -> list[BaseMessage]:
        history = await self._histories.read(self._session_id)
        self._snapshot = as_messages(history.messages)
        return self.messages

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        added = _to_history(messages)
        await self._histories.append(self._session_id, added)
        self._snapshot += as_messages(added)

    async def aclear(self) -> None:
        await self._histories.replace(self._session_id, [])
        self._snapshot = []

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        added = _to_history(messages)
        self._histories.write_later(
            self._session_id, lambda: self._histories.append(self._session_id, added)
        )
        self._snapshot += as_messages(added)

    def clear(self) -> None:
        self._histories.write_later(
            self._session_id, lambda: self._histories.replace(self._session_id, [])
        )
        self._snapshot = []


def _to_history(messages: Sequence[BaseMessage]) -> list[HistoryMessage]:
    return [as_history_message(message) for message in messages]

"""A reply in the making: what the AI has said, and how it gets to Redis while it is being said.

Who reads along gets the first piece at once and later ones at most every ``delta_interval_s`` or ``delta_bytes``; a
reply that nobody reads is only noted down every ``checkpoint_interval_s``, so that its process may die. A piece costs
no task and no wait: a timer begins a write, one at a time, and each takes all that has come until then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from base_server.service.core.errors import ServiceError
from base_server.service.core.tasks import TaskRegistry
from base_server.service.llm.conversation import ReplyChunk, ReplyStart
from base_server.template.chat.domain.message_format import to_json
from base_server.template.chat.domain.metrics import FIRST_TEXT_SECONDS
from base_server.template.chat.replies.slot import ReplySlot
from base_server.template.chat.replies.slots import ReplySlots, SlotLost, StreamBehind
from base_server.template.chat.settings import ChatSettings

_RETRY_S = 0.2


class ReplyBuffer:
    """``on_stored`` is called after each piece of text that Redis has, ``on_lost`` when the turn is another's.

    Times are of the loop's clock: this process's wall clock may differ from Redis'."""

    def __init__(
        self,
        turn: ReplySlot,
        claim_id: str,
        turns: ReplySlots,
        settings: ChatSettings,
        tasks: TaskRegistry,
        *,
        watched: bool,
        on_stored: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._turn = turn
        self._claim_id = claim_id
        self._turns = turns
        self._settings = settings
        self._tasks = tasks
        self._watched = watched
        self._on_stored = on_stored
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._accepted_s = self._started_s = time.monotonic()
        self._asked: ReplyStart | None = None
        self._is_called = False
        self._completion_tokens = 0
        self._pieces: list[str] = []
        self._unsent: list[str] = []
        self._unsent_bytes = 0
        self.stored_bytes = 0
        self._text_at = float("-inf")
        self._renewed_at = self._loop.time()
        self._is_open = False
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def unsent(self) -> str:
        """What Redis certainly or possibly lacks: it begins at ``stored_bytes``."""
        return "".join(self._unsent)

    def facts(self) -> dict[str, Any]:
        """How long it has taken, and model and estimated usage once somebody was asked."""
        facts: dict[str, Any] = {"latency_ms": round((time.monotonic() - self._started_s) * 1000)}
        return facts | self._usage()

    def open(self) -> None:
        """The turn has come: renew its lease from now on, the first one, a short one, before it is over."""
        self._is_open = True
        settings = self._settings
        self._renewed_at = (
            self._loop.time() - settings.reply_lease_s / 3 + settings.ready_lease_ms / 2000
        )
        self._schedule()

    def begin(self) -> None:
        """The turn was claimed just now, with a whole lease: the provider is called."""
        self._is_called = True
        self._started_s = time.monotonic()
        self._renewed_at = self._loop.time()

    def watch(self) -> None:
        """Somebody reads along."""
        if not self._watched:
            self._watched = True
            self._schedule()

    def ask(self, start: ReplyStart) -> None:
        self._asked = start

    def add(self, chunk: ReplyChunk) -> None:
        if not self._pieces:
            FIRST_TEXT_SECONDS.observe(time.monotonic() - self._accepted_s)
        self._completion_tokens += chunk.tokens
        self._pieces.append(chunk.text)
        self._unsent.append(chunk.text)
        before = self._unsent_bytes
        self._unsent_bytes += len(chunk.text.encode())
        if before == 0 or self._unsent_bytes >= self._settings.delta_bytes > before:
            self._schedule()

    async def close(self) -> None:
        """Write nothing more, once the write under way has ended."""
        self._is_open = False
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            await asyncio.wait({self._writing})

    def _schedule(self) -> None:
        """Set the timer to when the next write is due."""
        if not self._is_open or self._writing is not None:
            return
        settings = self._settings
        due = self._renewed_at + settings.reply_lease_s / 3
        if self._unsent_bytes:
            if not self._watched:
                due = min(due, self._renewed_at + settings.checkpoint_interval_s)
            elif self._unsent_bytes >= settings.delta_bytes:
                due = 0.0
            else:
                due = min(due, self._text_at + settings.delta_interval_s)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._begin_write)

    def _begin_write(self) -> None:
        self._timer = None
        self._writing = self._tasks.spawn(self._write(), f"write reply {self._turn.reply_id}")

    async def _write(self) -> None:
        text, self._unsent, self._unsent_bytes = self.unsent, [], 0
        now = self._loop.time()
        retry = False
        try:
            watched = await self._turns.append(
                self._turn,
                self._claim_id,
                self.stored_bytes,
                text,
                self._usage_json(),
                is_called=self._is_called,
            )
        except SlotLost:
            self._is_open = False
            if self._is_called:
                self._on_lost()
            return
        except StreamBehind as behind:
            # An older Redis came back: it gets the text from where it stands.
            self.stored_bytes = behind.length
            self._unsent = [self.text.encode()[behind.length :].decode()]
        except ServiceError:
            # Appended or not: what is there already is not written again.
            self._unsent.insert(0, text)
            retry = True
        else:
            self.stored_bytes += len(text.encode())
            self._renewed_at = now
            self._watched = self._watched or watched
            if text:
                self._text_at = now
                self._on_stored()
        finally:
            self._writing = None
            self._unsent_bytes = len(self.unsent.encode())
        if retry and self._is_open:
            self._timer = self._loop.call_later(_RETRY_S, self._begin_write)
        else:
            self._schedule()

    def _usage(self) -> dict[str, Any]:
        if self._asked is None or not self._is_called:
            return {}
        prompt, completion = self._asked.prompt_tokens, self._completion_tokens
        tokens = {"prompt": prompt, "completion": completion, "total": prompt + completion}
        return {"model": self._asked.model, "tokens": tokens}

    def _usage_json(self) -> str:
        """The usage as JSON members; '' before somebody was asked."""
        return to_json(self._usage())[1:-1]

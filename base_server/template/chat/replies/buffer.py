"""The text of a running reply on its way to Redis.

Readers get the first piece at once and later ones every ``delta_interval_s``, or sooner after
``delta_bytes``. A reply without readers is written every ``checkpoint_interval_s`` only, so that
its text survives its process. A piece costs no task and no wait: a timer begins a write, one at a
time, and each write takes everything that has arrived until then."""

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
from base_server.template.chat.replies.slot import ReplySlot, SlotLost, StreamBehind
from base_server.template.chat.replies.slots import ReplySlots
from base_server.template.chat.settings import ChatSettings

_RETRY_S = 0.2


class ReplyBuffer:
    """``on_stored`` is called after each write of text, ``on_lost`` when the slot belongs to
    somebody else.

    Times are of the loop's clock: this process' wall clock may differ from that of Redis."""

    def __init__(
        self,
        slot: ReplySlot,
        claim_id: str,
        slots: ReplySlots,
        settings: ChatSettings,
        tasks: TaskRegistry,
        *,
        is_watched: bool,
        on_stored: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.slot = slot
        self.claim_id = claim_id
        self._slots = slots
        self._settings = settings
        self._tasks = tasks
        self._is_watched = is_watched
        self._on_stored = on_stored
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._accepted_s = self._started_s = time.monotonic()
        self._call: ReplyStart | None = None
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
        """What Redis lacks, or may lack: it begins at ``stored_bytes``."""
        return "".join(self._unsent)

    def metadata(self) -> dict[str, Any]:
        """The time since the call, or since the question; model and estimated usage once the
        provider is called."""
        latency_ms = round((time.monotonic() - self._started_s) * 1000)
        return {"latency_ms": latency_ms, **self._usage()}

    def open(self) -> None:
        """The slot is granted: renew its lease from now on.

        The first one is short, and is renewed at its half."""
        self._is_open = True
        settings = self._settings
        self._renewed_at = (
            self._loop.time() - settings.reply_lease_s / 3 + settings.ready_lease_ms / 2000
        )
        self._schedule()

    def begin(self) -> None:
        """The slot was claimed just now, with a whole lease: the provider is called."""
        self._is_called = True
        self._started_s = time.monotonic()
        self._renewed_at = self._loop.time()

    def watch(self) -> None:
        """Somebody reads the text: write it more often."""
        if not self._is_watched:
            self._is_watched = True
            self._schedule()

    def note_call(self, call: ReplyStart) -> None:
        """A provider is asked, or a fallback after it: the usage of a reply that is cut off is
        estimated from this."""
        self._call = call

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
        """Write nothing more.

        Returns after the write in flight, whose text is then known to be stored or not."""
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
            if not self._is_watched:
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
        self._writing = self._tasks.spawn(self._write(), f"write reply {self.slot.reply_id}")

    async def _write(self) -> None:
        text, self._unsent, self._unsent_bytes = self.unsent, [], 0
        now = self._loop.time()
        retry = False
        try:
            is_watched = await self._slots.append(
                self.slot,
                self.claim_id,
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
            # An older Redis came back: write again from where its stream ends.
            self.stored_bytes = behind.length
            self._unsent = [self.text.encode()[behind.length :].decode()]
        except ServiceError:
            # Race: the answer is lost, the text may be stored. The script skips what the stream has
            # already.
            self._unsent.insert(0, text)
            retry = True
        else:
            self.stored_bytes += len(text.encode())
            self._renewed_at = now
            self._is_watched = self._is_watched or is_watched
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
        if self._call is None or not self._is_called:
            return {}
        prompt, completion = self._call.prompt_tokens, self._completion_tokens
        tokens = {"prompt": prompt, "completion": completion, "total": prompt + completion}
        return {"model": self._call.model, "tokens": tokens}

    def _usage_json(self) -> str:
        """The usage as JSON members; '' before the provider is called."""
        return to_json(self._usage())[1:-1]

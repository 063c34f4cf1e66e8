"""Reading a reply from any offset, in any process, while it runs and after it has ended.

A reader holds no connection and no text: a signal wakes it, then it reads from Redis what follows
its own offset. So a slow reader delays nobody, and nothing is queued for it. After its end a reply
is a slice of the stored message."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from base_server.service.core.errors import ServiceUnavailable
from base_server.template.base.errors import InvalidRequest, MessageNotFound
from base_server.template.chat.common.chat_model import ChatMessage
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.message_format import read_message
from base_server.template.chat.replies.calls import Final, Progress
from base_server.template.chat.replies.repository import ReplyRepository
from base_server.template.chat.replies.runner import ChatReplies
from base_server.template.chat.replies.signals import ReplySignal, ReplySignals
from base_server.template.chat.replies.slot import ReplyRef
from base_server.template.chat.replies.slots import BEYOND, ReplySlots
from base_server.template.chat.settings import ChatSettings

# Seconds after which a missed signal does no more harm. Most readers wait while nothing happens; a
# caller of send waits for an end that is near.
_LOOK_AGAIN_S = 15.0
_LOOK_FOR_END_S = 1.0
_RETRY_S = 0.5
_PIECE_CHARS = 16_384


@dataclass(frozen=True)
class Piece:
    """Text of a reply; ``offset``: bytes of UTF-8 of the reply up to and including it."""

    offset: int
    text: str


class Reading:
    """One reader of one reply, a subscriber of its signals.

    ``offset``: bytes of the text that it has."""

    # Thousands of them wait: no dictionary, no Event (its queue alone takes 0.7 KiB).
    __slots__ = ("_is_signalled", "_waiting", "is_closed", "offset", "ref")

    def __init__(self, ref: ReplyRef, offset: int) -> None:
        self.ref = ref
        self.offset = offset
        self.is_closed = False
        self._is_signalled = False
        self._waiting: asyncio.Future[None] | None = None

    def __call__(self, signal: ReplySignal | None) -> None:
        self._is_signalled = True
        self._wake()

    def close(self) -> None:
        self.is_closed = True
        self(None)

    async def wait(self, timeout_s: float) -> None:
        """Return after a signal, or after ``timeout_s``."""
        if not self._is_signalled:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            timer = loop.call_later(timeout_s, self._wake)
            try:
                await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        self._is_signalled = False

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class ReplyReaders:
    """The readers of this process."""

    def __init__(
        self,
        repository: ReplyRepository,
        slots: ReplySlots,
        replies: ChatReplies,
        signals: ReplySignals,
        settings: ChatSettings,
        *,
        check_interval_s: float = _LOOK_AGAIN_S,
    ) -> None:
        self.check_interval_s = check_interval_s
        self._repository = repository
        self._slots = slots
        self._replies = replies
        self._signals = signals
        self._settings = settings
        self._readings: set[Reading] = set()

    def __len__(self) -> int:
        return len(self._readings)

    async def begin(self, caller: Caller, room_id: str, reply_id: str, offset: int) -> Reading:
        """A reading from ``offset``.

        Raises RoomNotFound, MessageNotFound, NotAllowedInState for a message that is no reply, and
        InvalidRequest for an offset that no event of this reply had."""
        is_here = self._replies.watch(reply_id)
        message = await self._repository.attach(
            caller, room_id, reply_id, "" if is_here else "text"
        )
        ref = ReplyRef(caller, room_id, reply_id, message.seq or 0)
        found = await self._slots.read(ref, offset) if message.is_streaming else None
        if isinstance(found, Progress):
            if offset > found.length:
                raise _bad_offset()
            for end, text in found.deltas[:1]:
                text_after(text, end, offset)
        elif not message.is_streaming:
            text_after(message.content, len(message.content.encode()), offset)
        return Reading(ref, offset)

    async def pieces(self, reading: Reading) -> AsyncGenerator[Piece | ChatMessage, None]:
        """The text that follows the reading's offset, as it arrives, then the final message.

        Ends without it when this process stops: the client resumes elsewhere. Raises
        MessageNotFound when the reply was deleted, and ServiceUnavailable when Redis is away for
        too long."""
        self._readings.add(reading)
        try:
            with self._signals.subscribe(reading.ref.reply_id, reading):
                while not reading.is_closed:
                    found = await self._read(reading.ref, reading.offset)
                    if isinstance(found, ChatMessage):
                        total = len(found.content.encode())
                        for piece in _in_pieces(
                            text_after(found.content, total, reading.offset), reading.offset
                        ):
                            reading.offset = piece.offset
                            yield piece
                        yield found
                        return
                    for end, text in found.deltas:
                        missing = text_after(text, end, reading.offset)
                        reading.offset = end
                        yield Piece(end, missing)
                    if not found.deltas:
                        await reading.wait(self.check_interval_s)
        finally:
            self._readings.discard(reading)

    async def final(self, ref: ReplyRef) -> str:
        """The list entry of a reply of another process, once it has ended; '' when it was
        deleted."""
        reading = Reading(ref, 0)
        deadline_s = (
            time.monotonic() + self._settings.reply_deadline_s + self._settings.reply_lease_s
        )
        with self._signals.subscribe(ref.reply_id, reading):
            try:
                await self._repository.attach(ref.caller, ref.room_id, ref.reply_id, "end")
            except MessageNotFound:
                return ""
            while True:
                found = await self._slots.read(ref, BEYOND)
                if isinstance(found, Final):
                    return found.message
                if found is None or time.monotonic() > deadline_s:
                    raise ServiceUnavailable(
                        "cache", "the reply's end was not seen, send the same again"
                    )
                await reading.wait(_LOOK_FOR_END_S)

    def close(self, *, include_local: bool) -> None:
        """End the readings of replies of other processes, and with ``include_local`` of this one
        too."""
        for reading in tuple(self._readings):
            if include_local or not self._replies.runs_here(reading.ref.reply_id):
                reading.close()

    async def _read(self, ref: ReplyRef, offset: int) -> Progress | ChatMessage:
        """Repeated while Redis is away, up to a lease: by then the reply has ended."""
        give_up_s = time.monotonic() + self._settings.reply_lease_s
        while True:
            try:
                return await self._read_once(ref, offset)
            except ServiceUnavailable:
                if time.monotonic() > give_up_s:
                    raise
                await asyncio.sleep(_RETRY_S)

    async def _read_once(self, ref: ReplyRef, offset: int) -> Progress | ChatMessage:
        found = await self._slots.read(ref, offset)
        if isinstance(found, Progress):
            return found
        if found is None:
            message = await self._repository.attach(ref.caller, ref.room_id, ref.reply_id, "text")
            return Progress(offset, ()) if message.is_streaming else message
        if not found.message:
            raise MessageNotFound("the reply was deleted")
        return read_message(found.message, found.state)


def text_after(text: str, end: int, offset: int) -> str:
    """The part of ``text``, which ends at byte ``end`` of its reply, that follows byte ``offset``.

    Raises InvalidRequest for an offset inside a character or after the end (the last event's id is
    the end plus 1)."""
    encoded = text.encode()
    start = offset - (end - len(encoded))
    if start <= 0:
        return text
    if start > len(encoded) + 1 or (start < len(encoded) and encoded[start] & 0xC0 == 0x80):
        raise _bad_offset()
    return encoded[start:].decode()


def _in_pieces(text: str, offset: int) -> list[Piece]:
    pieces = []
    for start in range(0, len(text), _PIECE_CHARS):
        part = text[start : start + _PIECE_CHARS]
        offset += len(part.encode())
        pieces.append(Piece(offset, part))
    return pieces


def _bad_offset() -> InvalidRequest:
    return InvalidRequest.of("last_event_id", "is not the id of an event of this reply")

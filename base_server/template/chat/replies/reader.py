"""Reading a reply along, from any offset, in any process, while it runs and after it has ended.

A reader holds no connection and no text: news wake it, then it reads from Redis what lies behind its own offset, so a
slow one holds up nobody and nothing piles up for it. What has ended is a slice of the stored message.
"""

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
from base_server.template.chat.replies.repository import ReplyRepository
from base_server.template.chat.replies.runner import ChatReplies
from base_server.template.chat.replies.signals import ReplySignal, ReplySignals
from base_server.template.chat.replies.slot import ReplyRef
from base_server.template.chat.replies.slots import BEYOND, Final, Progress, ReplySlots
from base_server.template.chat.settings import ChatSettings

# Who missed its news looks again after so long: readers often wait for nothing, callers of send for an end.
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
    """One reader of one reply. ``offset``: what it has. It is told of news and of the end of this process."""

    # Thousands of them wait: no dictionary, no Event (its queue alone takes 0.7 KiB).
    __slots__ = ("_has_news", "_waiting", "is_closed", "offset", "place")

    def __init__(self, place: ReplyRef, offset: int) -> None:
        self.place = place
        self.offset = offset
        self.is_closed = False
        self._has_news = False
        self._waiting: asyncio.Future[None] | None = None

    def __call__(self, news: ReplySignal | None) -> None:
        self._has_news = True
        self._wake()

    def close(self) -> None:
        self.is_closed = True
        self(None)

    async def wait(self, timeout_s: float) -> None:
        """Until there are news, or ``timeout_s``."""
        if not self._has_news:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            timer = loop.call_later(timeout_s, self._wake)
            try:
                await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        self._has_news = False

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class ReplyReaders:
    """All who read replies in this process."""

    def __init__(
        self,
        store: ReplyRepository,
        turns: ReplySlots,
        replies: ChatReplies,
        news: ReplySignals,
        settings: ChatSettings,
    ) -> None:
        self._store = store
        self._turns = turns
        self._replies = replies
        self._news = news
        self._settings = settings
        self._readings: set[Reading] = set()

    def __len__(self) -> int:
        return len(self._readings)

    async def begin(self, caller: Caller, room_id: str, reply_id: str, offset: int) -> Reading:
        """A reading from ``offset``. Raises RoomNotFound, MessageNotFound, NotAllowedInState for what is no reply, and
        InvalidRequest for an offset that no event of this reply had."""
        is_here = self._replies.watch(reply_id)
        message = await self._store.attach(caller, room_id, reply_id, "" if is_here else "text")
        place = ReplyRef(caller, room_id, reply_id, message.seq or 0)
        found = await self._turns.read(place, offset) if message.is_streaming else None
        if isinstance(found, Progress):
            if offset > found.length:
                raise _bad_offset()
            for end, text in found.deltas[:1]:
                rest_of(text, end, offset)
        elif not message.is_streaming:
            rest_of(message.content, len(message.content.encode()), offset)
        return Reading(place, offset)

    async def pieces(self, reading: Reading) -> AsyncGenerator[Piece | ChatMessage, None]:
        """The text behind the reading's offset as it comes, then the final message.

        Ends without it when this process stops: to be resumed elsewhere. Raises MessageNotFound when the reply was
        deleted, and ServiceUnavailable when Redis is away for too long."""
        self._readings.add(reading)
        try:
            with self._news.heard_by(reading.place.reply_id, reading):
                while not reading.is_closed:
                    found = await self._read(reading.place, reading.offset)
                    if isinstance(found, ChatMessage):
                        total = len(found.content.encode())
                        for piece in _in_pieces(
                            rest_of(found.content, total, reading.offset), reading.offset
                        ):
                            reading.offset = piece.offset
                            yield piece
                        yield found
                        return
                    for end, text in found.deltas:
                        rest = rest_of(text, end, reading.offset)
                        reading.offset = end
                        yield Piece(end, rest)
                    if not found.deltas:
                        await reading.wait(_LOOK_AGAIN_S)
        finally:
            self._readings.discard(reading)

    async def final(self, place: ReplyRef) -> str:
        """The list entry of a reply that runs in another process, once it has ended; '' when it was deleted."""
        reading = Reading(place, 0)
        deadline_s = (
            time.monotonic() + self._settings.reply_deadline_s + self._settings.reply_lease_s
        )
        with self._news.heard_by(place.reply_id, reading):
            try:
                await self._store.attach(place.caller, place.room_id, place.reply_id, "end")
            except MessageNotFound:
                return ""
            while True:
                found = await self._turns.read(place, BEYOND)
                if isinstance(found, Final):
                    return found.entry
                if found is None or time.monotonic() > deadline_s:
                    raise ServiceUnavailable(
                        "cache", "the reply's end was not seen, send the same again"
                    )
                await reading.wait(_LOOK_FOR_END_S)

    def close(self, *, those_here: bool) -> None:
        """End the readings, of replies that run in other processes only unless ``those_here``."""
        for reading in tuple(self._readings):
            if those_here or not self._replies.runs_here(reading.place.reply_id):
                reading.close()

    async def _read(self, place: ReplyRef, offset: int) -> Progress | ChatMessage:
        """However long Redis is away, up to a lease: by then the reply has ended."""
        give_up = time.monotonic() + self._settings.reply_lease_s
        while True:
            try:
                return await self._read_once(place, offset)
            except ServiceUnavailable:
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(_RETRY_S)

    async def _read_once(self, place: ReplyRef, offset: int) -> Progress | ChatMessage:
        found = await self._turns.read(place, offset)
        if isinstance(found, Progress):
            return found
        if found is None:
            message = await self._store.attach(place.caller, place.room_id, place.reply_id, "text")
            return Progress(offset, ()) if message.is_streaming else message
        if not found.entry:
            raise MessageNotFound("the reply was deleted")
        return read_message(found.entry, found.state)


def rest_of(text: str, end: int, offset: int) -> str:
    """The part of ``text``, which ends at byte ``end`` of its reply, behind byte ``offset``.

    Raises InvalidRequest for an offset inside a character or behind the end (whose event's id is the end plus 1)."""
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

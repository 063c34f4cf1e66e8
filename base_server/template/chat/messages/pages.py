"""Pages of a room's messages: the window in Redis first, what is older from MySQL by key.

Page 1 and a cursor's page are filled across window and MySQL. The numbers of further pages count
what can be seen as far as the window reaches; below it a page is a range of seq, without what was
deleted. ``has_more`` is exact: it asks whether a visible message exists below.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from base_server.service.core.errors import ServiceUnavailable
from base_server.template.base.errors import InvalidRequest, RoomNotFound
from base_server.template.chat.cache.script_runner import ScriptRunner
from base_server.template.chat.cache.scripts import Damaged
from base_server.template.chat.common.chat_model import ChatMessage
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.message_format import (
    from_json,
    is_running,
    iso,
    message_prefix,
    stored_row,
    to_json,
    wire_message,
    wire_messages,
)
from base_server.template.chat.domain.states import GONE
from base_server.template.chat.messages.calls import ReadMessages

_MAX_REPAIRS = 3
_WHOLE_WINDOW = 1_000_000


@dataclass(frozen=True)
class MessagePage:
    """Oldest first. ``texts`` are JSON as it goes to the client; ``next_cursor`` None: nothing
    visible is older."""

    texts: list[str]
    next_cursor: str | None
    stale: bool = False

    @property
    def json(self) -> str:
        return f"[{','.join(self.texts)}]"

    def messages(self) -> list[ChatMessage]:
        return [ChatMessage(**from_json(text)) for text in self.texts]


@dataclass(frozen=True)
class _Slice:
    """A slice of the window: messages oldest first; ``below``: is a visible message under ``low``
    ('1', '0', '?').

    ``missing``: of the newer messages that were to be left out, those that the window does not
    have.
    """

    first_seq: int
    low: int
    missing: int
    below: str
    texts: list[str]


class ChatReader(ScriptRunner):
    """Reads for the room's owner. Raises RoomNotFound, and ServiceUnavailable when MySQL is needed
    and away."""

    async def page(self, caller: Caller, room_id: str, page: int, limit: int) -> MessagePage:
        """Page ``page`` (1 is the newest); from MySQL, marked stale, when Redis is away.

        Where messages older than the window were deleted, a page behind the first may be short, or
        begin with what the first was filled with; none is left out.
        """
        try:
            part = await self._slice(caller, room_id, None, limit, (page - 1) * limit)
        except ServiceUnavailable as outage:
            if outage.service != "cache":
                raise
            return await self._stale_page(caller, room_id, page, limit)
        if page == 1 or len(part.texts) == limit or part.below == "0":
            return await self._filled(caller, room_id, part, part.first_seq, limit)
        high = part.first_seq - 1 - part.missing
        return await self._page_below(
            caller, room_id, high - limit + len(part.texts) + 1, high, part.texts
        )

    async def before(self, caller: Caller, room_id: str, cursor: str, limit: int) -> MessagePage:
        """The ``limit`` visible messages before ``cursor``; a cursor of another room is an invalid
        request."""
        seq = read_cursor(room_id, cursor)
        part = await self._slice(caller, room_id, seq - 1, limit)
        return await self._filled(caller, room_id, part, min(seq, part.first_seq), limit)

    async def before_time(
        self, caller: Caller, room_id: str, before: datetime, limit: int
    ) -> MessagePage:
        """The ``limit`` visible messages strictly earlier than ``before`` (naive: this server's
        local time)."""
        before = _whole_ms(before)
        part = await self._slice(caller, room_id, None, _WHOLE_WINDOW)
        text = iso(before)
        earlier = [item for item in part.texts if message_prefix(item).timestamp < text]
        if len(earlier) > limit:
            kept = earlier[-limit:]
            return MessagePage(kept, make_cursor(room_id, message_prefix(kept[0]).seq))
        below = part.first_seq
        if not earlier and part.first_seq > 1:
            rows = await self._database.call_shard_procedure(
                caller.shard_id, "fp_chat_seq_before", (room_id, before)
            )
            if not rows:
                return MessagePage([], None)
            below = min(part.first_seq, int(rows[0]["seq"]) + 1)
        return await self._filled(
            caller,
            room_id,
            _Slice(part.first_seq, part.first_seq, 0, part.below, earlier),
            below,
            limit,
        )

    async def _filled(
        self, caller: Caller, room_id: str, part: _Slice, below: int, limit: int
    ) -> MessagePage:
        """``part`` completed with older rows up to ``limit``; ``below``: the seq under which MySQL
        is asked."""
        texts = part.texts
        if len(texts) < limit and (part.below != "0" or below < part.first_seq):
            rows: list[str] = []
            async for text in self._older(caller, room_id, below, limit - len(texts) + 1):
                rows.append(text)
                if len(rows) > limit - len(texts):
                    break
            more = len(rows) > limit - len(texts)
            kept = rows[: limit - len(texts)]
            texts = kept[::-1] + texts
            cursor = make_cursor(room_id, message_prefix(texts[0]).seq) if more and texts else None
        else:
            cursor = await self._is_more(caller, room_id, part)
        return MessagePage(texts, cursor)

    async def _page_below(
        self, caller: Caller, room_id: str, low: int, high: int, newer: list[str]
    ) -> MessagePage:
        """Seqs ``low``..``high`` from MySQL, before ``newer``."""
        rows: list[str] = []
        more = False
        async for text in self._older(caller, room_id, high + 1, high - low + 2):
            if message_prefix(text).seq < low:
                more = True
                break
            rows.append(text)
        return MessagePage(rows[::-1] + newer, make_cursor(room_id, low) if more else None)

    async def _stale_page(self, caller: Caller, room_id: str, page: int, limit: int) -> MessagePage:
        """Without Redis: what MySQL has, for a room that MySQL knows as the owner's."""
        rooms = await self._database.call_shard_procedure(
            caller.shard_id, "fp_chat_room_get", (room_id,)
        )
        if not rooms or rooms[0]["deleted"] or int(rooms[0]["account_db_key"]) != caller.db_key:
            raise RoomNotFound
        high = int(rooms[0]["last_seq"]) - (page - 1) * limit
        if high < 1:
            return MessagePage([], None, stale=True)
        low = max(1, high - limit + 1)
        rows = await self._database.call_shard_procedure(
            caller.shard_id, "fp_chat_messages_get", (room_id, high + 1, limit + 1)
        )
        if page == 1 and rows:
            low = min(low, int(rows[:limit][-1]["seq"]))
        page_rows = [row for row in rows if int(row["seq"]) >= low]
        texts = [wire_message(stored_row(room_id, row), "SENT") for row in reversed(page_rows)]
        more = make_cursor(room_id, low) if len(page_rows) < len(rows) else None
        return MessagePage(texts, more, stale=True)

    async def _slice(
        self, caller: Caller, room_id: str, highest_seq: int | None, count: int, skip: int = 0
    ) -> _Slice:
        self.check_room_id(caller, room_id)
        keys = self._keys.partition(caller.partition)
        room = keys.room(room_id)
        call = ReadMessages(
            caller=caller,
            room=room,
            partition=keys,
            message_states=keys.message_state(""),
            highest_seq=highest_seq,
            count=count,
            skip=skip,
        )
        for _ in range(_MAX_REPAIRS):
            found = await self._call(call, caller, room_id)
            if isinstance(found, Damaged):
                await self._discard(room.messages)
                continue
            texts = wire_messages(found.messages, found.state_codes)
            if found.state_codes.strip("S"):
                await self._put_running_text(caller, room_id, texts)
            return _Slice(found.first_seq, found.low, found.missing, found.below, texts)
        raise ServiceUnavailable(
            "cache", "messages of the room could not be decoded after every load"
        )

    async def _is_more(self, caller: Caller, room_id: str, part: _Slice) -> str | None:
        """The cursor below ``part``, or None when nothing visible is older."""
        more = part.below == "1"
        if part.below == "?":
            async for _ in self._older(caller, room_id, min(part.low, part.first_seq), 1):
                more = True
                break
        return make_cursor(room_id, part.low) if more else None

    async def _older(
        self, caller: Caller, room_id: str, before_seq: int, batch: int
    ) -> AsyncIterator[str]:
        """Visible messages of MySQL below ``before_seq``, newest first.

        A delete that is not in MySQL yet shows in the message's state, which is read after the
        rows.
        """
        keys = self._keys.partition(caller.partition)
        while before_seq > 1:
            rows = await self._database.call_shard_procedure(
                caller.shard_id, "fp_chat_messages_get", (room_id, before_seq, batch)
            )
            if not rows:
                return
            states = await self._cache.execute_many(
                [("GET", keys.message_state(row["message_id"])) for row in rows]
            )
            for row, state in zip(rows, states, strict=True):
                if state is None or not state.startswith(GONE):
                    yield wire_message(stored_row(room_id, row), "SENT")
            if len(rows) < batch:
                return
            before_seq = int(rows[-1]["seq"])

    async def _put_running_text(self, caller: Caller, room_id: str, texts: list[str]) -> None:
        """A running reply shows what its stream holds so far."""
        for place, text in enumerate(texts):
            if is_running(text):
                fields = from_json(text)
                room = self._keys.room(room_id, caller.partition)
                key = room.reply_stream(fields["message_id"])
                fields["content"] = reply_text(await self._cache.execute("XRANGE", key, "-", "+"))
                texts[place] = to_json(fields)


def reply_text(entries: Sequence[Any]) -> str:
    """The text in a reply's stream of deltas, as ``XRANGE`` answers it."""
    texts = []
    for _, fields in entries:
        pairs = (
            fields.items()
            if isinstance(fields, dict)
            else zip(fields[::2], fields[1::2], strict=True)
        )
        texts += [value for name, value in pairs if name == "text"]
    return "".join(texts)


def _whole_ms(moment: datetime) -> datetime:
    """In UTC, rounded up to a millisecond: what is stored in ms is earlier than this exactly if
    earlier than that."""
    try:
        return (moment + timedelta(microseconds=-moment.microsecond % 1000)).astimezone(UTC)
    except (OverflowError, ValueError, OSError):
        raise InvalidRequest.of(
            "before_timestamp", "is not within the years 1 to 9999 of UTC"
        ) from None


def make_cursor(room_id: str, seq: int) -> str:
    """Opaque to clients: the room and the seq before which to go on."""
    return base64.urlsafe_b64encode(f"{seq}:{room_id}".encode()).decode().rstrip("=")


def read_cursor(room_id: str, cursor: str) -> int:
    """The seq in a cursor of this room; anything else is an invalid request."""
    try:
        text = base64.b64decode(
            cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True
        ).decode("ascii")
        seq, _, room = text.partition(":")
        if room == room_id and seq.isdecimal() and len(seq) <= 18 and int(seq) >= 1:
            return int(seq)
    except (binascii.Error, ValueError):
        pass
    raise InvalidRequest.of(
        "cursor", "is not a cursor of this room: pass the next_cursor of its last page"
    )

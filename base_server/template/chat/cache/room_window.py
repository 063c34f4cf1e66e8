"""The newest messages of a room as Redis keeps them, from the rows of MySQL."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from base_server.service.core.logger import Logger
from base_server.template.chat.cache.load import LoadContext, time_bound_ms
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.message_format import (
    LAST_MS,
    from_json,
    iso_of_ms,
    message_body,
    ms_of,
    open_message_body,
    stored_message,
    stored_row,
    to_json,
    tombstone,
)
from base_server.template.chat.domain.ports import Row
from base_server.template.chat.persistence.procedures import ShardProcedures
from base_server.template.chat.replies.slot import ReplySlot, parse_slot

# A question, and the slot of its reply.
_Asked = tuple[Row, ReplySlot]


@dataclass(frozen=True)
class RoomWindow:
    """A room as it goes into Redis: record fields (name, value, …), one message for each seq from
    the first on.

    ``open``: slots of the replies among them that go on. ``lost``: ids of those that stand in for
    lost ones; ``ends``: id, seq, time and body of each, one after the other. ``last_ms``: time of
    the latest of all these, 0 without one."""

    fields: list[Any]
    messages: list[str]
    open: list[ReplySlot]
    lost: set[str]
    ends: list[Any]
    last_ms: int


class RoomWindowReader:
    """Reads windows from the shards."""

    def __init__(self, context: LoadContext) -> None:
        self._context = context
        self._partitions = context.cache.partitions

    async def read(
        self, caller: Caller, room_id: str, room: Row, open_slots: Sequence[str]
    ) -> RoomWindow:
        """The room's window; of ``open_slots`` those that MySQL does not contradict."""
        shard = ShardProcedures(self._context.database, caller.shard_id)
        window, last_seq = self._context.settings.window, int(room["last_seq"])
        first_seq = max(1, last_seq - window + 1)
        rows = await shard.newest_messages(room_id, window)
        by_seq = {int(row["seq"]): row for row in rows}
        # The tombstone of a message that never came has no time.
        times = (row["created_at"] for row in rows if row["created_at"] is not None)
        since_ms = ms_of(next(times, room["created_at"]))
        has_older = False
        if first_seq > 1:
            has_older = bool(await shard.visible_messages(room_id, first_seq, 1))
            since_ms = max(since_ms, await _latest_client_ms(shard, room_id, since_ms))
        still_open = self._still_open(caller, room_id, open_slots, rows)
        lost = self._lost(caller, room_id, by_seq, {slot.question_id for _, slot in still_open})
        if lost and await self._has_dead_letters(caller, room_id):
            # The end of one may be among them, and what would end it waits behind them.
            lost = []
        replies = _with_seqs([*still_open, *lost], by_seq, last_seq)
        lost_ids = {slot.reply_id for _, slot in lost}
        last_ms = 0
        messages: list[str] = []
        claims: list[Any] = []
        ends: list[Any] = []
        for seq in range(first_seq, max([last_seq, *replies]) + 1):
            row = by_seq.get(seq)
            if seq in replies:
                question, slot = replies[seq]
                at_ms = ms_of(question["created_at"]) + 1
                last_ms = max(last_ms, at_ms)
                if slot.reply_id in lost_ids:
                    body, at = _interrupted_body(slot), iso_of_ms(at_ms)
                    messages.append(stored_message(slot.reply_id, room_id, seq, at, body))
                    ends += [slot.reply_id, seq, at, body]
                else:
                    messages.append(_running_message(slot, at_ms))
            else:
                messages.append(tombstone("") if row is None else stored_row(room_id, row))
            if row is not None and (client_id := row["client_message_id"]):
                claims += [f"c:{client_id}", f"{seq}|{row['body_hash']}", f"s:{seq}", client_id]
                claimed_ms = self._partitions.id_time_ms(client_id)
                if claimed_ms is not None and claimed_ms > ms_of(row["created_at"]):
                    since_ms = min(max(since_ms, claimed_ms), LAST_MS)
        # What is saved behind an open reply is noted apart, as if the reply had never left Redis.
        saved_seq = min([last_seq, *(seq - 1 for seq in replies)])
        ahead = (str(seq) for seq in range(saved_seq + 1, last_seq + 1) if seq not in replies)
        fields: dict[str, Any] = {
            "owner": caller.db_key,
            "account": caller.account_id,
            "shard": caller.shard_id,
            "version": room["title_version"],
            "floor": first_seq,
            "floor_at": iso_of_ms(since_ms),
            "next_seq": first_seq + len(messages),
            "saved_seq": saved_seq,
            "ahead": ",".join(ahead),
            "older": "1" if has_older else "0",
        }
        running = [
            replies[seq][1] for seq in sorted(replies) if replies[seq][1].reply_id not in lost_ids
        ]
        flat = [part for field in fields.items() for part in field]
        return RoomWindow([*flat, *claims], messages, running, lost_ids, ends, last_ms)

    async def _has_dead_letters(self, caller: Caller, room_id: str) -> bool:
        streams, cache = self._context.streams, self._context.cache
        blocked = streams.blocked_rooms_key(caller.partition, caller.shard_id)
        return bool(await cache.execute("HEXISTS", blocked, room_id))

    def _still_open(
        self, caller: Caller, room_id: str, slots: Iterable[str], rows: Sequence[Row]
    ) -> list[_Asked]:
        """Those of ``slots`` whose question MySQL has and whose reply it has not: the others are
        over, or of a Redis that is older than MySQL. A question is found by its id: its number may
        be another than Redis gave it (0033)."""
        by_id = {row["message_id"]: row for row in rows}
        found: dict[str, _Asked] = {}
        for text in slots:
            try:
                slot = parse_slot(text, caller, room_id)
            except ValueError:
                Logger.error("an open turn cannot be read, it is dropped", room_id=room_id)
                continue
            question = by_id.get(slot.question_id)
            if question is None or not question["created_at"] or slot.reply_id in by_id:
                continue
            if self._stand_in_id(slot.question_id) not in by_id:
                found.setdefault(slot.question_id, (question, slot))
        return list(found.values())

    def _lost(
        self, caller: Caller, room_id: str, by_seq: Mapping[int, Row], open_ids: Container[str]
    ) -> list[_Asked]:
        """Questions whose reply neither MySQL has nor Redis knows, with the slot of one that stands
        in for it."""
        # A message whose number was taken may stand elsewhere than behind its question.
        answered = {row["parent_message_id"] for row in by_seq.values()}
        return [
            (row, self._lost_slot(caller, room_id, row))
            for seq, row in by_seq.items()
            if seq + 1 not in by_seq
            and row["message_id"] not in open_ids
            and row["message_id"] not in answered
            and self._is_question(caller, row)
        ]

    def _stand_in_id(self, question_id: str) -> str:
        """Every process that finds the question's reply lost gives it the same id."""
        return self._partitions.derived_id(question_id, "reply")

    def _is_question(self, caller: Caller, row: Row) -> bool:
        """Whether the row was sent by a player, and so has a reply behind it: a host's messages
        need none."""
        is_ours = self._partitions.is_own_id(row["message_id"]) == caller.partition
        return bool(is_ours and row["sender_type"] == "USER" and not row["deleted"])

    def _lost_slot(self, caller: Caller, room_id: str, question: Row) -> ReplySlot:
        """Of the reply to a question that Redis has lost."""
        question_id, seq = question["message_id"], int(question["seq"]) + 1
        reply_id = self._stand_in_id(question_id)
        persona = str(from_json(question["metadata"] or "{}").get("ai_persona", ""))
        return ReplySlot(reply_id, caller, room_id, reply_id, seq, question_id, 0, persona)


async def _latest_client_ms(shard: ShardProcedures, room_id: str, after_ms: int) -> int:
    """Time of the latest client_message_id above ``after_ms``, ``after_ms`` itself when there is
    none.

    A client whose clock ran ahead may have sent it below the window: no id up to its time proves a
    new send."""
    digits = f"{after_ms:012x}"
    latest = await shard.latest_client_id(room_id, f"{digits[:8]}-{digits[8:]}")
    return time_bound_ms(latest) if latest else after_ms


def _with_seqs(
    asked: Iterable[_Asked], by_seq: Mapping[int, Row], last_seq: int
) -> dict[int, _Asked]:
    """By their number: directly after the question; where another message has that, after
    everything else."""
    numbered: dict[int, _Asked] = {}
    others: list[_Asked] = []
    for question, slot in asked:
        seq = int(question["seq"]) + 1
        if seq in by_seq:
            others.append((question, slot))
        else:
            numbered[seq] = question, replace(slot, reply_seq=seq)
    for question, slot in others:
        seq = max([last_seq, *numbered]) + 1
        numbered[seq] = question, replace(slot, reply_seq=seq)
    return numbered


def _interrupted_body(slot: ReplySlot) -> str:
    """Of a reply that nobody knows to have said anything: it may have been asked."""
    metadata = to_json({"ai_persona": slot.persona, "finish_reason": "interrupted"})
    return message_body("AI", "", slot.question_id, metadata)


def _running_message(slot: ReplySlot, at_ms: int) -> str:
    """A reply that runs or waits, as lua/messages/accept_send.lua writes it."""
    begun = open_message_body("AI", "", slot.question_id, streaming=True)
    body = f"{begun}{to_json({'ai_persona': slot.persona})}}}"
    return stored_message(slot.reply_id, slot.room_id, slot.reply_seq, iso_of_ms(at_ms), body)

"""Reply slots in Redis: claim one, write its reply, end it, and find those whose process died."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from base_server.service.cache.cache_client import CacheClient
from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.logger import Logger
from base_server.service.redis_client.errors import CacheCommandError
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.cache.scripts import SCRIPTS, ScriptStatus
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.events import open_payload
from base_server.template.chat.domain.message_format import (
    message_body,
    sender_and_content,
    to_json,
)
from base_server.template.chat.domain.states import MessageState
from base_server.template.chat.persistence.event_streams import EventStreams
from base_server.template.chat.replies.slot import ReplyRef, ReplySlot, parse_slot
from base_server.template.chat.settings import ChatSettings

_SWEEP_AT_ONCE = 50
_DELTAS_AT_ONCE = 200
BEYOND = 2**53


@dataclass(frozen=True)
class SlotQuestion:
    """``text``: the question of a slot that is granted, '' when it was deleted; ``history``: the
    list entries before."""

    text: str
    history: Sequence[str]


@dataclass(frozen=True)
class EndedReply:
    """``entry``: the reply as it stands in the list, '' when it is not there. ``is_ours``: this
    call ended it.

    ``granted_token``: of the slot that may run now, '' for none."""

    entry: str
    is_ours: bool
    granted_token: str = ""


@dataclass(frozen=True)
class Final:
    """A reply that has ended, as it stands in the list; '' when it was deleted."""

    entry: str
    state: str = ""


@dataclass(frozen=True)
class Progress:
    """A reply that runs: ``length`` of its text in bytes, and ``deltas`` (end in bytes, text) that
    a reader lacks."""

    length: int
    deltas: Sequence[tuple[int, str]]


@dataclass(frozen=True)
class OpenSlot:
    """A slot that the sweeper found.

    ``is_called``: a process has called the AI, or was about to."""

    slot: ReplySlot
    is_called: bool


class ReplySlots:
    """One script per operation.

    Each compares the slot's token, so that of two who end a reply the first wins."""

    def __init__(self, cache: CacheClient, streams: EventStreams, settings: ChatSettings) -> None:
        self._cache = cache
        self._streams = streams
        self._settings = settings
        self._keys = ChatKeys(cache)
        self._lease_ms = round(settings.reply_lease_s * 1000)

    async def read_question(
        self, slot: ReplySlot, claim_id: str, *, is_only_process: bool = False
    ) -> SlotQuestion | None:
        """What to ask once the slot is granted; None while it waits. Raises as :meth:`claim`."""
        answer = await self._claim(slot, claim_id, self._settings.history_length, is_only_process)
        return (
            None
            if answer is None
            else SlotQuestion(sender_and_content(answer[1])[1] if answer[1] else "", answer[2:])
        )

    async def claim(
        self, slot: ReplySlot, claim_id: str, *, is_only_process: bool = False
    ) -> bool | None:
        """Claim a slot that is granted: from now on this task asks, or nobody. None: it waits
        (again).

        False: it is claimed, but its question was deleted. ``claim_id`` names the task that asks:
        only that one gets the same answer again when the first was lost. ``is_only_process``: no
        other process can have asked. Raises SlotLost when the slot is over or another process has
        it, RoomNotLoaded when the room must be loaded first."""
        answer = await self._claim(slot, claim_id, "", is_only_process)
        return None if answer is None else bool(answer[1])

    async def _claim(
        self, slot: ReplySlot, claim_id: str, history_length: int | str, is_only_process: bool
    ) -> list[Any] | None:
        keys = self._keys.partition(slot.caller.partition)
        room = keys.room(slot.room_id)
        answer: list[Any] = await self._cache.run_script(
            SCRIPTS["claim_slot"],
            [
                room.record,
                room.messages,
                room.waiting,
                keys.leases,
                keys.generation,
            ],
            [
                slot.token,
                slot.room_id,
                slot.caller.db_key,
                self._lease_ms,
                claim_id,
                history_length,
                "1" if is_only_process else "",
            ],
        )
        match answer[0]:
            case ScriptStatus.WAIT:
                return None
            case ScriptStatus.SUPERSEDED:
                raise SlotLost
            case ScriptStatus.NOT_LOADED:
                raise RoomNotLoaded
        return answer

    async def restore(self, slot: ReplySlot, claim_id: str = "") -> bool:
        """Open a slot again that Redis lost with its room's record, or that an older record does
        not have.

        ``claim_id``: when it was claimed already. False: the reply is over."""
        caller = slot.caller
        keys = self._keys.partition(caller.partition)
        room = keys.room(slot.room_id)
        return bool(
            await self._cache.run_script(
                SCRIPTS["restore_slot"],
                [
                    room.record,
                    room.waiting,
                    keys.leases,
                    keys.generation,
                    keys.message_state(slot.reply_id),
                    room.load_token,
                ],
                [
                    slot.text,
                    slot.token,
                    slot.room_id,
                    claim_id,
                    self._lease_ms,
                    caller.account_id,
                    caller.db_key,
                    caller.shard_id,
                ],
            )
        )

    async def forget(self, slot: ReplySlot) -> None:
        """Take a waiting slot out of the queue of a room that does not exist any more."""
        waiting = self._keys.room(slot.room_id, slot.caller.partition).waiting
        await self._cache.execute("LREM", waiting, 0, slot.text)

    async def hand_over(self, slot: ReplySlot, claim_id: str) -> None:
        """Give back a slot that was not used: another process may claim it."""
        keys = self._keys.partition(slot.caller.partition)
        await self._cache.run_script(
            SCRIPTS["hand_over"],
            [
                keys.room(slot.room_id).record,
                keys.leases,
                keys.signals,
            ],
            [slot.token, slot.room_id, claim_id, self._settings.ready_lease_ms],
        )

    async def append(
        self,
        slot: ReplySlot,
        claim_id: str,
        start: int,
        text: str,
        usage: str,
        *,
        is_called: bool = True,
    ) -> bool:
        """Append ``text``, which begins at byte ``start`` of the reply, note its usage, renew the
        lease.

        Returns whether it is read in another process. Raises SlotLost when the reply was ended by
        somebody else, StreamBehind when Redis has less than ``start`` bytes of it."""
        keys = self._keys.partition(slot.caller.partition)
        room = keys.room(slot.room_id)
        answer = await self._cache.run_script(
            SCRIPTS["append_delta"],
            [
                room.record,
                room.reply_stream(slot.reply_id),
                keys.leases,
                keys.signals,
            ],
            [
                slot.token,
                slot.room_id,
                slot.reply_id,
                start,
                text,
                self._lease_ms,
                usage,
                claim_id,
                "1" if is_called else "",
            ],
        )
        if answer[0] == ScriptStatus.SUPERSEDED:
            if not await self.restore(slot, claim_id if is_called else ""):
                raise SlotLost
            if is_called:
                raise StreamBehind(0)
            return False
        if answer[0] == ScriptStatus.PARTIAL:
            raise StreamBehind(answer[1])
        return bool(answer[1])

    async def end(
        self,
        slot: ReplySlot,
        claim_id: str,
        text: str,
        metadata: Mapping[str, Any],
        *,
        start: int = 0,
        unsent: str | None = None,
    ) -> EndedReply:
        """End a reply with its final text; ``metadata["finish_reason"]`` says why.

        ``unsent`` begins at byte ``start``: what the stream lacks (None: all of it). Raises
        SlotLost when another process has the slot."""
        caller = slot.caller
        metadata = {"ai_persona": slot.persona, **metadata}
        keys = reply_keys(self._keys, self._streams, slot.ref)
        args = [
            slot.token,
            slot.room_id,
            slot.reply_id,
            slot.reply_seq,
            message_body("AI", text, slot.question_id, to_json(metadata)),
            open_payload(caller, slot.room_id),
            metadata.get("finish_reason", "stop"),
            self._settings.ready_lease_ms,
            self._settings.stream_ttl_s * 1000,
            start,
            text if unsent is None else unsent,
            claim_id,
        ]
        answer = await self._cache.run_script(SCRIPTS["end_reply"], keys, args)
        if (
            answer[0] == ScriptStatus.SUPERSEDED
            and not answer[1]
            and await self.restore(slot, claim_id)
        ):
            answer = await self._cache.run_script(SCRIPTS["end_reply"], keys, args)
        if answer[0] == ScriptStatus.WAIT:
            raise SlotLost
        if answer[0] == ScriptStatus.OK:
            self._streams.report_backlog(caller.partition, caller.shard_id, answer[2])
            return EndedReply(answer[1], True, answer[3])
        return EndedReply(answer[1], False)

    async def interrupt(
        self, slot: ReplySlot, *, only_if_expired: bool = False
    ) -> EndedReply | None:
        """End a reply of another process, or of none, with what its stream holds.

        None: its lease still runs."""
        caller = slot.caller
        keys = self._keys.partition(caller.partition)
        answer = await self._cache.run_script(
            SCRIPTS["stop_reply"],
            [
                *reply_keys(self._keys, self._streams, slot.ref),
                keys.generation,
            ],
            [
                "",
                slot.room_id,
                slot.reply_id,
                "interrupted",
                self._settings.ready_lease_ms,
                self._settings.stream_ttl_s * 1000,
                "1" if only_if_expired else "0",
                open_payload(caller, slot.room_id),
            ],
        )
        if answer[0] == ScriptStatus.WAIT:
            return None
        if answer[0] == ScriptStatus.OK:
            self._streams.report_backlog(caller.partition, caller.shard_id, answer[3])
            return EndedReply(answer[1], True, answer[4])
        return EndedReply("", False)

    async def release(self, slot: ReplySlot) -> bool:
        """Let go of a slot that was lost: deleted, gone with its room's record, or claimed by
        another process.

        Returns whether another process has it: then the reply goes on, and that process sends
        signals to readers here."""
        keys = self._keys.partition(slot.caller.partition)
        room = keys.room(slot.room_id)
        answer = await self._cache.run_script(
            SCRIPTS["release_reply"],
            [
                room.record,
                keys.account(slot.caller.account_id).open_replies,
                room.reply_stream(slot.reply_id),
            ],
            [slot.token, slot.reply_id, self._settings.stream_ttl_s * 1000],
        )
        return bool(answer)

    async def read(self, ref: ReplyRef, offset: int) -> Progress | Final | None:
        """What a reader who has ``offset`` bytes lacks: text while the reply runs, its entry once
        it has ended, None when it has left the room's window."""
        keys = self._keys.partition(ref.caller.partition)
        room = keys.room(ref.room_id)
        answer = await self._cache.run_script(
            SCRIPTS["read_reply"],
            [
                room.record,
                room.messages,
                room.reply_stream(ref.reply_id),
                keys.message_state(ref.reply_id),
            ],
            [ref.seq, ref.reply_id, offset, _DELTAS_AT_ONCE],
        )
        match answer[0]:
            case ScriptStatus.NOT_LOADED:
                return None
            case ScriptStatus.SUPERSEDED:
                return Final("")
            case ScriptStatus.OK:
                return Final(answer[1], answer[2] or MessageState.SENT.value)
        deltas = [(int(entry_id.partition("-")[0]), fields[1]) for entry_id, fields in answer[2:]]
        return Progress(answer[1], deltas)

    async def final(self, slot: ReplySlot) -> str:
        """The entry of a reply that has ended; '' when it was deleted.

        Raises ServiceUnavailable when it has left the window: the repeated request finds it in
        MySQL."""
        found = await self.read(slot.ref, BEYOND)
        if isinstance(found, Final):
            return found.entry
        raise ServiceUnavailable(
            "cache", "the reply has left the room's window, send the same again"
        )

    async def expired(self, *, all_open: bool = False) -> list[OpenSlot]:
        """Open slots whose lease is over by the clock of Redis (``all_open``: every one).

        Of all partitions but those that are away."""
        partitions = range(self._cache.partitions.count)
        found = await self._cache.ask_partitions(
            partitions, lambda p: self._expired_in(p, all_open=all_open)
        )
        return [slot for slots in found.values() for slot in slots]

    async def _expired_in(self, partition: int, *, all_open: bool) -> list[OpenSlot]:
        keys = self._keys.partition(partition)
        leases = keys.leases
        args = ["1" if all_open else "", _SWEEP_AT_ONCE, self._lease_ms]
        _, *room_ids = await self._cache.run_script(SCRIPTS["find_expired_slots"], [leases], args)
        records = await asyncio.gather(
            *(self._open_fields(partition, room_id) for room_id in room_ids)
        )
        slots = []
        for room_id, (text, phase, account, db_key, shard) in zip(room_ids, records, strict=True):
            if text is None:
                record = keys.room(room_id).record
                await self._cache.run_script(SCRIPTS["drop_lease"], [record, leases], [room_id])
                continue
            try:
                caller = Caller(account, int(db_key), int(shard), partition)
                slot = parse_slot(text, caller, room_id)
            except (TypeError, ValueError):
                Logger.error(
                    "an open turn cannot be read; the room's record is damaged", room_id=room_id
                )
                continue
            slots.append(OpenSlot(slot, is_called=phase not in ("ready", "unsure")))
        return slots

    async def _open_fields(self, partition: int, room_id: str) -> list[Any]:
        fields = ("turn", "turn_phase", "account", "owner", "shard")
        try:
            record = self._keys.room(room_id, partition).record
            return list(await self._cache.execute("HMGET", record, *fields))
        except CacheCommandError:
            # A key of another type is no record, and must not keep other rooms from being swept.
            return [None] * len(fields)


class SlotLost(Exception):
    """The reply was stopped, deleted or ended by the sweeper, or another process has its slot."""


class RoomNotLoaded(Exception):
    """Only a room loaded from MySQL says whether the question was asked before."""


class StreamBehind(Exception):
    """The reply's stream holds only ``length`` bytes: an older Redis came back."""

    def __init__(self, length: int) -> None:
        super().__init__(f"the stream holds {length} bytes")
        self.length = length


def reply_keys(chat_keys: ChatKeys, streams: EventStreams, ref: ReplyRef) -> list[str]:
    """How the KEYS of every script begin that ends a reply."""
    caller = ref.caller
    keys = chat_keys.partition(caller.partition)
    room = keys.room(ref.room_id)
    return [
        room.record,
        room.messages,
        streams.stream_key(caller.partition, caller.shard_id),
        keys.signals,
        keys.leases,
        room.waiting,
        keys.account(caller.account_id).open_replies,
        keys.message_state(ref.reply_id),
        room.reply_stream(ref.reply_id),
    ]

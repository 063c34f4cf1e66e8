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
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.events import open_payload
from base_server.template.chat.domain.message_format import (
    message_body,
    sender_and_content,
    to_json,
)
from base_server.template.chat.persistence.event_streams import EventStreams
from base_server.template.chat.replies.calls import (
    AppendDelta,
    ClaimSlot,
    DropLease,
    EndedBefore,
    EndKeys,
    EndReply,
    Final,
    FindExpiredSlots,
    Granted,
    HandOver,
    LeaseRuns,
    Progress,
    ReadReply,
    ReleaseReply,
    ReplyStopped,
    RestoreSlot,
    StopReply,
)
from base_server.template.chat.replies.slot import (
    ReplyRef,
    ReplySlot,
    SlotLost,
    StreamBehind,
    parse_slot,
)
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
        granted = await self._claim(slot, claim_id, self._settings.history_length, is_only_process)
        if granted is None:
            return None
        question = granted.question
        return SlotQuestion(sender_and_content(question)[1] if question else "", granted.history)

    async def claim(
        self, slot: ReplySlot, claim_id: str, *, is_only_process: bool = False
    ) -> bool | None:
        """Claim a slot that is granted: from now on this task asks, or nobody. None: it waits
        (again).

        False: it is claimed, but its question was deleted. ``claim_id`` names the task that asks:
        only that one gets the same answer again when the first was lost. ``is_only_process``: no
        other process can have asked. Raises SlotLost when the slot is over or another process has
        it, RoomNotLoaded when the room must be loaded first."""
        granted = await self._claim(slot, claim_id, None, is_only_process)
        return None if granted is None else bool(granted.question)

    async def _claim(
        self, slot: ReplySlot, claim_id: str, history_length: int | None, is_only_process: bool
    ) -> Granted | None:
        partition = self._keys.partition(slot.caller.partition)
        return await ClaimSlot(
            slot,
            slot.caller,
            partition.room(slot.room_id),
            partition,
            claim_id,
            lease_ms=self._lease_ms,
            history_length=history_length,
            is_alone=is_only_process,
        ).run(self._cache)

    async def restore(self, slot: ReplySlot, claim_id: str = "") -> bool:
        """Open a slot again that Redis lost with its room's record, or that an older record does
        not have.

        ``claim_id``: when it was claimed already. False: the reply is over."""
        partition = self._keys.partition(slot.caller.partition)
        return await RestoreSlot(
            slot.caller,
            partition.room(slot.room_id),
            partition,
            reply_state=partition.message_state(slot.reply_id),
            slot=slot.text,
            slot_token=slot.token,
            room_id=slot.room_id,
            claim_id=claim_id,
            lease_ms=self._lease_ms,
        ).run(self._cache)

    async def forget(self, slot: ReplySlot) -> None:
        """Take a waiting slot out of the queue of a room that does not exist any more."""
        waiting = self._keys.room(slot.room_id, slot.caller.partition).waiting
        await self._cache.execute("LREM", waiting, 0, slot.text)

    async def hand_over(self, slot: ReplySlot, claim_id: str) -> None:
        """Give back a slot that was not used: another process may claim it."""
        partition = self._keys.partition(slot.caller.partition)
        room, lease_ms = partition.room(slot.room_id), self._settings.ready_lease_ms
        await HandOver(slot, room, partition, claim_id, lease_ms).run(self._cache)

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
        partition = self._keys.partition(slot.caller.partition)
        room = partition.room(slot.room_id)
        call = AppendDelta(
            slot,
            room,
            partition,
            room.reply_stream(slot.reply_id),
            start,
            text,
            self._lease_ms,
            usage,
            claim_id,
            is_called,
        )
        try:
            return await call.run(self._cache)
        except SlotLost:
            # Race: an older Redis came back without the slot, which this process still has.
            if not await self.restore(slot, claim_id if is_called else ""):
                raise
            if is_called:
                raise StreamBehind(0) from None
            return False

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
        call = EndReply(
            EndKeys.of(self._keys, self._streams, slot.ref),
            slot,
            message_body=message_body("AI", text, slot.question_id, to_json(metadata)),
            payload_start=open_payload(caller, slot.room_id),
            reason=metadata.get("finish_reason", "stop"),
            ready_lease_ms=self._settings.ready_lease_ms,
            stream_ttl_ms=self._settings.stream_ttl_s * 1000,
            unsent_from=start,
            unsent_text=text if unsent is None else unsent,
            claim_id=claim_id,
        )
        ended = await call.run(self._cache)
        if ended == EndedBefore("") and await self.restore(slot, claim_id):
            # Race: nobody ended it, an older Redis came back without it.
            ended = await call.run(self._cache)
        if isinstance(ended, EndedBefore):
            return EndedReply(ended.message, False)
        self._streams.report_backlog(caller.partition, caller.shard_id, ended.backlog)
        return EndedReply(ended.message, True, ended.granted_token)

    async def interrupt(
        self, slot: ReplySlot, *, only_if_expired: bool = False
    ) -> EndedReply | None:
        """End a reply of another process, or of none, with what its stream holds.

        None: its lease still runs."""
        caller = slot.caller
        stopped = await StopReply(
            EndKeys.of(self._keys, self._streams, slot.ref),
            account_db_key=None,
            room_id=slot.room_id,
            reply_id=slot.reply_id,
            reason="interrupted",
            ready_lease_ms=self._settings.ready_lease_ms,
            stream_ttl_ms=self._settings.stream_ttl_s * 1000,
            payload_start=open_payload(caller, slot.room_id),
            only_if_expired=only_if_expired,
        ).run(self._cache)
        match stopped:
            case LeaseRuns():
                return None
            case ReplyStopped(message, _, backlog, granted_token):
                self._streams.report_backlog(caller.partition, caller.shard_id, backlog)
                return EndedReply(message, True, granted_token)
        return EndedReply("", False)

    async def release(self, slot: ReplySlot) -> bool:
        """Let go of a slot that was lost: deleted, gone with its room's record, or claimed by
        another process.

        Returns whether another process has it: then the reply goes on, and that process sends
        signals to readers here."""
        partition = self._keys.partition(slot.caller.partition)
        room = partition.room(slot.room_id)
        return await ReleaseReply(
            slot,
            room,
            partition.account(slot.caller.account_id),
            room.reply_stream(slot.reply_id),
            self._settings.stream_ttl_s * 1000,
        ).run(self._cache)

    async def read(self, ref: ReplyRef, offset: int) -> Progress | Final | None:
        """What a reader who has ``offset`` bytes lacks: text while the reply runs, its entry once
        it has ended, None when it has left the room's window."""
        partition = self._keys.partition(ref.caller.partition)
        room = partition.room(ref.room_id)
        return await ReadReply(
            room,
            room.reply_stream(ref.reply_id),
            partition.message_state(ref.reply_id),
            ref.seq,
            ref.reply_id,
            offset,
            limit=_DELTAS_AT_ONCE,
        ).run(self._cache)

    async def final(self, slot: ReplySlot) -> str:
        """The entry of a reply that has ended; '' when it was deleted.

        Raises ServiceUnavailable when it has left the window: the repeated request finds it in
        MySQL."""
        found = await self.read(slot.ref, BEYOND)
        if isinstance(found, Final):
            return found.message
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
        call = FindExpiredSlots(
            keys, all_open, limit=_SWEEP_AT_ONCE, longest_lease_ms=self._lease_ms
        )
        room_ids = await call.run(self._cache)
        records = await asyncio.gather(
            *(self._open_fields(partition, room_id) for room_id in room_ids)
        )
        slots = []
        for room_id, (text, phase, account, db_key, shard) in zip(room_ids, records, strict=True):
            if text is None:
                await DropLease(keys.room(room_id), keys, room_id).run(self._cache)
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

"""Turns in Redis: taking one, growing its reply, ending it, and finding those whose process died."""

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
class Asked:
    """The question of a turn that has come ('' when it was deleted meanwhile), and the list entries before it."""

    question: str
    history: Sequence[str]


@dataclass(frozen=True)
class Ended:
    """``entry``: the reply as it stands in the list, '' when it is not there. ``ours``: this call ended it.

    ``ready_token``: the turn that may run now, '' for none."""

    entry: str
    ours: bool
    ready_token: str = ""


@dataclass(frozen=True)
class Final:
    """A reply that has ended, as it stands in the list; '' when it was deleted."""

    entry: str
    state: str = ""


@dataclass(frozen=True)
class Progress:
    """A reply that runs: bytes of text so far; deltas (bytes up to and with it, text) that a reader lacks."""

    length: int
    deltas: Sequence[tuple[int, str]]


@dataclass(frozen=True)
class OpenSlot:
    """A turn that the sweeper found. ``is_called``: a process has called the AI, or was about to.

    ``remaining_s``: until its deadline, by Redis' clock; negative when that is over."""

    turn: ReplySlot
    is_called: bool
    remaining_s: float


class ReplySlots:
    """One script an operation; each compares the turn's token, so that the first to end a reply wins."""

    def __init__(self, cache: CacheClient, streams: EventStreams, settings: ChatSettings) -> None:
        self._cache = cache
        self._streams = streams
        self._settings = settings
        self._keys = ChatKeys(cache)
        self._lease_ms = round(settings.reply_lease_s * 1000)

    async def look(self, turn: ReplySlot, claim_id: str, *, is_alone: bool = False) -> Asked | None:
        """What is to be asked once the turn has come; None while it waits. Raises as :meth:`claim`."""
        answer = await self._claim(turn, claim_id, self._settings.history_length, is_alone)
        return (
            None
            if answer is None
            else Asked(sender_and_content(answer[1])[1] if answer[1] else "", answer[2:])
        )

    async def claim(self, turn: ReplySlot, claim_id: str, *, is_alone: bool = False) -> bool | None:
        """Take a turn that has come: from now on the caller asks, or nobody. None: it waits (again).

        False: it is taken, but its question was deleted meanwhile. ``claim_id`` names the task that asks: only it gets
        the same answer again, when the first was lost. ``is_alone``: no other process can have asked. Raises SlotLost
        when the turn is over or another process has it, RoomNotLoaded when the room must be loaded first."""
        answer = await self._claim(turn, claim_id, "", is_alone)
        return None if answer is None else bool(answer[1])

    async def _claim(
        self, turn: ReplySlot, claim_id: str, look_at: int | str, is_alone: bool
    ) -> list[Any] | None:
        keys = self._keys.partition(turn.caller.partition)
        room = keys.room(turn.room_id)
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
                turn.token,
                turn.room_id,
                turn.caller.db_key,
                self._lease_ms,
                claim_id,
                look_at,
                "1" if is_alone else "",
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

    async def restore(self, turn: ReplySlot, claim_id: str = "") -> bool:
        """Open a turn again that Redis lost with its room's record, or that an older record does not know; ``claim_id``
        when it was claimed already.

        False: it is over."""
        caller = turn.caller
        keys = self._keys.partition(caller.partition)
        room = keys.room(turn.room_id)
        return bool(
            await self._cache.run_script(
                SCRIPTS["restore_slot"],
                [
                    room.record,
                    room.waiting,
                    keys.leases,
                    keys.generation,
                    keys.message_state(turn.reply_id),
                    room.load_token,
                ],
                [
                    turn.text,
                    turn.token,
                    turn.room_id,
                    claim_id,
                    self._lease_ms,
                    caller.account_id,
                    caller.db_key,
                    caller.shard_id,
                ],
            )
        )

    async def forget(self, turn: ReplySlot) -> None:
        """Take a waiting turn out of a room that is not there any more."""
        waiting = self._keys.room(turn.room_id, turn.caller.partition).waiting
        await self._cache.execute("LREM", waiting, 0, turn.text)

    async def hand_over(self, turn: ReplySlot, claim_id: str) -> None:
        """Give back a turn that was not used: another process may claim it."""
        keys = self._keys.partition(turn.caller.partition)
        await self._cache.run_script(
            SCRIPTS["hand_over"],
            [
                keys.room(turn.room_id).record,
                keys.leases,
                keys.signals,
            ],
            [turn.token, turn.room_id, claim_id, self._settings.ready_lease_ms],
        )

    async def append(
        self,
        turn: ReplySlot,
        claim_id: str,
        start: int,
        text: str,
        usage: str,
        *,
        is_called: bool = True,
    ) -> bool:
        """Append ``text``, which begins at byte ``start`` of the reply, note its usage, renew the lease.

        Returns whether somebody reads along in another process. Raises SlotLost when the reply was ended by somebody
        else, StreamBehind when Redis has less than ``start`` bytes of it."""
        keys = self._keys.partition(turn.caller.partition)
        room = keys.room(turn.room_id)
        answer = await self._cache.run_script(
            SCRIPTS["append_delta"],
            [
                room.record,
                room.reply_stream(turn.reply_id),
                keys.leases,
                keys.signals,
            ],
            [
                turn.token,
                turn.room_id,
                turn.reply_id,
                start,
                text,
                self._lease_ms,
                usage,
                claim_id,
                "1" if is_called else "",
            ],
        )
        if answer[0] == ScriptStatus.SUPERSEDED:
            if not await self.restore(turn, claim_id if is_called else ""):
                raise SlotLost
            if is_called:
                raise StreamBehind(0)
            return False
        if answer[0] == ScriptStatus.PARTIAL:
            raise StreamBehind(answer[1])
        return bool(answer[1])

    async def end(
        self,
        turn: ReplySlot,
        claim_id: str,
        text: str,
        metadata: Mapping[str, Any],
        *,
        start: int = 0,
        unsent: str | None = None,
    ) -> Ended:
        """End a reply with its final text; ``metadata["finish_reason"]`` says why.

        ``unsent`` begins at byte ``start``: what the stream lacks (None: all of it). Raises SlotLost when another
        process has it."""
        caller = turn.caller
        full = {"ai_persona": turn.persona, **metadata}
        keys = reply_keys(self._keys, self._streams, turn.place)
        args = [
            turn.token,
            turn.room_id,
            turn.reply_id,
            turn.reply_seq,
            message_body("AI", text, turn.question_id, to_json(full)),
            open_payload(caller, turn.room_id),
            full.get("finish_reason", "stop"),
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
            and await self.restore(turn, claim_id)
        ):
            answer = await self._cache.run_script(SCRIPTS["end_reply"], keys, args)
        if answer[0] == ScriptStatus.WAIT:
            raise SlotLost
        if answer[0] == ScriptStatus.OK:
            self._streams.report_backlog(caller.partition, caller.shard_id, answer[2])
            return Ended(answer[1], True, answer[3])
        return Ended(answer[1], False)

    async def interrupt(self, turn: ReplySlot, *, only_if_expired: bool = False) -> Ended | None:
        """End a reply that runs elsewhere, or nowhere, with what its stream holds. None: its lease still runs."""
        caller = turn.caller
        keys = self._keys.partition(caller.partition)
        answer = await self._cache.run_script(
            SCRIPTS["stop_reply"],
            [
                *reply_keys(self._keys, self._streams, turn.place),
                keys.generation,
            ],
            [
                "",
                turn.room_id,
                turn.reply_id,
                "interrupted",
                self._settings.ready_lease_ms,
                self._settings.stream_ttl_s * 1000,
                "1" if only_if_expired else "0",
                open_payload(caller, turn.room_id),
            ],
        )
        if answer[0] == ScriptStatus.WAIT:
            return None
        if answer[0] == ScriptStatus.OK:
            self._streams.report_backlog(caller.partition, caller.shard_id, answer[3])
            return Ended(answer[1], True, answer[4])
        return Ended("", False)

    async def leave(self, turn: ReplySlot) -> bool:
        """Let go of a turn that was lost: deleted, its room's record lost, or taken up by another process meanwhile.

        Returns whether another process has it: then its reply goes on, and is told of to those who read it here."""
        keys = self._keys.partition(turn.caller.partition)
        room = keys.room(turn.room_id)
        answer = await self._cache.run_script(
            SCRIPTS["release_reply"],
            [
                room.record,
                keys.account(turn.caller.account_id).open_replies,
                room.reply_stream(turn.reply_id),
            ],
            [turn.token, turn.reply_id, self._settings.stream_ttl_s * 1000],
        )
        return bool(answer)

    async def read(self, place: ReplyRef, offset: int) -> Progress | Final | None:
        """What a reader who has ``offset`` bytes lacks: text while the reply runs, its entry once it has ended, None
        when it has left the room's window."""
        keys = self._keys.partition(place.caller.partition)
        room = keys.room(place.room_id)
        answer = await self._cache.run_script(
            SCRIPTS["read_reply"],
            [
                room.record,
                room.messages,
                room.reply_stream(place.reply_id),
                keys.message_state(place.reply_id),
            ],
            [place.seq, place.reply_id, offset, _DELTAS_AT_ONCE],
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

    async def final(self, turn: ReplySlot) -> str:
        """The entry of a reply that has ended; '' when it was deleted.

        Raises ServiceUnavailable when it has left the window meanwhile: repeated, its send finds it in MySQL."""
        found = await self.read(turn.place, BEYOND)
        if isinstance(found, Final):
            return found.entry
        raise ServiceUnavailable(
            "cache", "the reply has left the room's window, send the same again"
        )

    async def expired(self, *, all_open: bool = False) -> list[OpenSlot]:
        """Open turns whose lease has run out by Redis' clock (``all_open``: every one), of all partitions but those
        that are away."""
        partitions = range(self._cache.partitions.count)
        found = await self._cache.ask_partitions(
            partitions, lambda p: self._expired_in(p, all_open=all_open)
        )
        return [turn for turns in found.values() for turn in turns]

    async def _expired_in(self, partition: int, *, all_open: bool) -> list[OpenSlot]:
        keys = self._keys.partition(partition)
        leases = keys.leases
        args = ["1" if all_open else "", _SWEEP_AT_ONCE, self._lease_ms]
        now_ms, *room_ids = await self._cache.run_script(
            SCRIPTS["find_expired_slots"], [leases], args
        )
        records = await asyncio.gather(
            *(self._open_fields(partition, room_id) for room_id in room_ids)
        )
        turns = []
        for room_id, (text, phase, account, db_key, shard) in zip(room_ids, records, strict=True):
            if text is None:
                record = keys.room(room_id).record
                await self._cache.run_script(SCRIPTS["drop_lease"], [record, leases], [room_id])
                continue
            try:
                turn = parse_slot(
                    text, Caller(account, int(db_key), int(shard), partition), room_id
                )
            except (TypeError, ValueError):
                Logger.error(
                    "an open turn cannot be read; the room's record is damaged", room_id=room_id
                )
                continue
            is_called = phase not in ("ready", "unsure")
            turns.append(OpenSlot(turn, is_called, (turn.deadline_ms - int(now_ms)) / 1000))
        return turns

    async def _open_fields(self, partition: int, room_id: str) -> list[Any]:
        fields = ("turn", "turn_phase", "account", "owner", "shard")
        try:
            record = self._keys.room(room_id, partition).record
            return list(await self._cache.execute("HMGET", record, *fields))
        except CacheCommandError:
            # A key of another type is no record; the other rooms' replies end all the same.
            return [None] * len(fields)


class SlotLost(Exception):
    """The turn is not this token's any more: stopped, deleted, ended by the sweeper, or another process has it."""


class RoomNotLoaded(Exception):
    """Whether the question was asked before is known only once the room is loaded from MySQL."""


class StreamBehind(Exception):
    """The reply's stream holds only ``length`` bytes: an older Redis came back."""

    def __init__(self, length: int) -> None:
        super().__init__(f"the stream holds {length} bytes")
        self.length = length


def reply_keys(chat_keys: ChatKeys, streams: EventStreams, place: ReplyRef) -> list[str]:
    """How the KEYS of every script begin that ends a reply."""
    caller = place.caller
    keys = chat_keys.partition(caller.partition)
    room = keys.room(place.room_id)
    return [
        room.record,
        room.messages,
        streams.stream_key(caller.partition, caller.shard_id),
        keys.signals,
        keys.leases,
        room.waiting,
        keys.account(caller.account_id).open_replies,
        keys.message_state(place.reply_id),
        room.reply_stream(place.reply_id),
    ]

"""What Redis shows of a batch: PROCESSING while it is written, SENT and saved once MySQL has it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import NamedTuple

from base_server.service.cache.cache_client import CacheClient
from base_server.service.queue.event_stream import EventStream
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.cache.records import NO_EVENT
from base_server.template.chat.chat_state_machine import ChatStateMachine
from base_server.template.chat.domain.events import (
    MESSAGE_DELETE,
    MESSAGE_SAVE,
    ROOM_CREATE,
    ROOM_DELETE,
    Event,
)
from base_server.template.chat.domain.states import GONE, MessageState
from base_server.template.chat.persistence.calls import (
    AcknowledgeEvents,
    MarkProcessing,
    ServerState,
)
from base_server.template.chat.settings import ChatSettings

# The states that end the life of a message from outside, in order.
_END_STATES = {
    MESSAGE_SAVE: (MessageState.SENT,),
    MESSAGE_DELETE: (MessageState.DELETING, MessageState.DELETED),
}


class BegunBatch(NamedTuple):
    """``events`` may be written now; those of ``blocked`` (entry ids) wait behind the dead letters
    of their rooms. ``generation``, ``saved``: as :meth:`BatchStates.server_state`."""

    events: Sequence[Event]
    blocked: Sequence[str]
    generation: str
    saved: str


class BatchStates:
    """``cache`` is the bulk client."""

    def __init__(
        self, cache: CacheClient, states: ChatStateMachine, settings: ChatSettings
    ) -> None:
        self._cache = cache
        self._states = states
        self._settings = settings
        self._keys = ChatKeys(cache)

    async def server_state(self, stream: EventStream) -> tuple[str, str]:
        """The generation of Redis, which changes when the server is another one or was emptied; and
        the last event that Redis knows to be in the database, '' for none."""
        keys = self._keys.partition(stream.partition)
        (generation, run), saved = await self._cache.execute_many(
            [
                ("MGET", keys.generation, keys.generation_run),
                ("HGET", keys.backlog_watermark(int(stream.name)), "saved"),
            ]
        )
        return f"{generation or ''}|{run or ''}", saved or ""

    async def begin(self, stream: EventStream, events: Sequence[Event]) -> BegunBatch:
        """Mark PROCESSING the events that may be written now. One round trip, unless a room of
        theirs has dead letters."""
        room_ids = list({event.room_id for event in events})
        # Asked in the same step: a replay of dead letters needs the stream's lock, which we have,
        # so no room gets blocked or free before the batch is acknowledged.
        server = await self._mark_processing(stream, events, room_ids)
        going, blocked = events, []
        if server.blocked_rooms:
            going = [
                event
                for event in events
                if event.room_id not in server.blocked_rooms or event.is_replayed
            ]
            going_ids = {event.entry_id for event in going}
            blocked = [event.entry_id for event in events if event.entry_id not in going_ids]
            # The script has marked nothing: all of its rooms together, or none.
            await self._mark_processing(stream, going, [])
        for event in going:
            # Another partition may be on another node, where the script cannot reach.
            if event.kind == MESSAGE_SAVE and event.is_elsewhere:
                await self._states.move_message_state(event.message_id, MessageState.PROCESSING)
        return BegunBatch(going, blocked, server.generation, server.saved_event)

    async def acknowledge(
        self,
        stream: EventStream,
        events: Sequence[Event],
        refused: Container[str],
        renumbered: Container[str],
        generation: str,
        window: int,
    ) -> int:
        """MySQL has the events but those of ``refused``: remove them from the stream in the same
        step that notes in each room how far it is saved. Returns how many events the stream has
        left.

        Sent twice, the second call changes nothing. ``generation``: of the Redis that had the
        events. Another one does not know them, so their rooms are loaded again; rooms of
        ``renumbered`` too.
        """
        written = [event for event in events if event.entry_id not in refused]
        settings, keys = self._settings, self._keys.partition(stream.partition)
        # A delete is always ours, so its state lies in the stream's partition, whatever the
        # message's id.
        saved = [
            event for event in written if event.kind == MESSAGE_SAVE and not event.is_elsewhere
        ]
        deleted = [event for event in written if event.kind == MESSAGE_DELETE]
        touched_keys = [keys.message_state(event.message_id) for event in (*saved, *deleted)]
        items: list[object] = []
        call = AcknowledgeEvents(
            partition=keys,
            event_stream=stream.key,
            blocked_rooms=stream.blocked_key,
            watermark=keys.backlog_watermark(int(stream.name)),
            touched_keys=touched_keys,
            event_ids=",".join(event.entry_id for event in written),
            saved_count=len(saved),
            deleted_count=len(deleted),
            window=window,
            window_ttl_ms=settings.message_list_ttl_s * 1000,
            list_ttl_ms=settings.room_list_ttl_s * 1000,
            state_ttl_ms=settings.state_ttl_s * 1000,
            read_in=generation,
            items=items,
        )
        for room_id, of_room in _grouped(events, lambda event: event.room_id):
            room = keys.room(room_id)
            touched_keys += [room.record, room.messages, room.json, room.state]
            saved = [event for event in of_room if event.entry_id not in refused]
            # A room with a refused event may not expire: MySQL has not all of it.
            notes = ("refused " if len(saved) < len(of_room) else "") + (
                "renumbered" if room_id in renumbered else ""
            )
            items += [
                "r",
                room_id,
                _room_change(saved),
                last_event(saved),
                ",".join(_saved_seqs(saved)),
                notes,
            ]
        # Only a create, a question and a room's delete touch the account's list.
        touching = [event for event in written if event.account_id and _touches_account(event)]
        for account_id, of_account in _grouped(touching, lambda event: event.account_id):
            account = keys.account(account_id)
            touched_keys += [account.record, account.rooms, account.order]
            items += ["a", last_event(of_account)]
        left = await call.run(self._cache)
        for event in written:
            if (
                event.kind == ROOM_DELETE
                and self._cache.partitions.is_own_id(event.room_id) is None
            ):
                # A host's own room id: what says where its keys are ends with the room's states.
                home = self._keys.of_id(event.room_id).room_home(event.room_id)
                await self._cache.execute("EXPIRE", home, settings.state_ttl_s)
        return left

    async def end_outside(self, written: Iterable[Event]) -> None:
        """The states of messages from outside: no script of the room's partition reaches those that
        lie elsewhere, and one may have been set to DELETED before its save was read, when nobody
        knew its room. It is deleted before its save leaves the stream: an outage in between must
        not lose the delete."""
        for event in written:
            if not event.is_elsewhere and not event.is_from_outside:
                continue
            for state in _END_STATES[event.kind]:
                result = await self._states.move_message_state(event.message_id, state)
                if event.kind == MESSAGE_SAVE and result.before in GONE:
                    await self._states.delete_what_was(event.message_id, event.room_id)

    async def _mark_processing(
        self, stream: EventStream, events: Sequence[Event], room_ids: Sequence[str]
    ) -> ServerState:
        keys = self._keys.partition(stream.partition)
        states = []
        for event in events:
            if event.kind == MESSAGE_SAVE and not event.is_elsewhere:
                states.append(keys.message_state(event.message_id))
            elif event.kind == ROOM_CREATE:
                states.append(keys.room(event.room_id).state)
        return await MarkProcessing(
            partition=keys,
            blocked_rooms=stream.blocked_key,
            watermark=keys.backlog_watermark(int(stream.name)),
            states=states,
            room_ids=room_ids,
        ).run(self._cache)


def last_event(events: Sequence[Event]) -> str:
    """The entry id of the newest; NO_EVENT is below every entry id."""
    return events[-1].entry_id if events else NO_EVENT


def _grouped(
    events: Iterable[Event], key: Callable[[Event], str]
) -> Iterable[tuple[str, list[Event]]]:
    groups: dict[str, list[Event]] = {}
    for event in events:
        groups.setdefault(key(event), []).append(event)
    return groups.items()


def _room_change(events: Sequence[Event]) -> str:
    kinds = {event.kind for event in events}
    if ROOM_DELETE in kinds:
        return "deleted"
    return "created" if ROOM_CREATE in kinds else ""


def _saved_seqs(events: Sequence[Event]) -> list[str]:
    """A message deleted before it was saved has its row too: a tombstone with its seq."""
    kinds = (MESSAGE_SAVE, MESSAGE_DELETE)
    return [str(event.seq) for event in events if event.kind in kinds and event.seq is not None]


def _touches_account(event: Event) -> bool:
    if event.kind == MESSAGE_SAVE:
        return bool(event.row["sender_type"] == "USER")
    return event.kind in (ROOM_CREATE, ROOM_DELETE)

"""What an operator may do with the chat's dead letters: put a room's back in order, or throw them
away.

The stream's HASH of blocked rooms counts them; it is changed in the same step as the letters. While
a room has some, its record does not expire, what comes later of it joins them
(``persistence/batch_writer.py``), and past ``chatConfig.max_dead_letters_per_room`` it takes no
more.
"""

from __future__ import annotations

from collections.abc import Sequence

from base_server.service.cache.cache_client import CacheClient
from base_server.service.core.errors import ServiceError, ServiceUnavailable
from base_server.service.queue.event_stream import EventStream
from base_server.service.queue.message_queue import QueueEntry
from base_server.service.queue.queue_service import QueueService
from base_server.service.queue.stream_store import DeadLetter
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.domain.events import MESSAGE_SAVE, BadEvent, Event, read_event
from base_server.template.chat.persistence.calls import (
    DeadLetterCounts,
    DropDeadLetters,
    NoSuchLetter,
    ReplayDeadLetters,
    StreamTooLong,
)
from base_server.template.chat.settings import ChatSettings

_LONGEST_STREAM = 10_000


class ChatDeadLetters:
    """Works beside running servers, under the stream's lock. ``cache`` is the bulk client."""

    def __init__(self, queue: QueueService, cache: CacheClient, settings: ChatSettings) -> None:
        self._queue = queue
        self._cache = cache
        self._settings = settings
        self._keys = ChatKeys(cache)

    async def replay(self, stream: EventStream, room_id: str, last: str = "") -> DeadLetterCounts:
        """Put the room's letters back at the end of the stream, in the order in which they came and
        before what waits there of the room; ``last``: only up to this letter. With the last one the
        room takes its usual way again: written within a batch interval, or refused again.

        Raises ServiceError when the room has no letter ``last``, ServiceUnavailable while the
        stream is too long."""
        keys = self._keys.partition(stream.partition)
        room = keys.room(room_id)
        letters = await self._queue.dead_letters_of(stream)
        account = keys.account(await self._account_id(stream, room_id, letters))
        async with self._queue.acquired(stream, self._settings.lock_timeout_s):
            answer = await ReplayDeadLetters(
                room=room,
                account=account,
                dead_letters=stream.dead_key,
                event_stream=stream.key,
                blocked_rooms=stream.blocked_key,
                room_id=room_id,
                last_letter=last,
                longest_stream=_LONGEST_STREAM,
                note_ttl_ms=self._settings.room_list_ttl_s * 1000,
            ).run(self._cache)
        match answer:
            case NoSuchLetter():
                raise ServiceError(f"room {room_id} has no dead letter {last}")
            case StreamTooLong():
                raise ServiceUnavailable(
                    "queue",
                    f"more than {_LONGEST_STREAM} events wait in the stream: "
                    "replay when they are written",
                )
        return answer

    async def drop(
        self, stream: EventStream, room_id: str, letters: Sequence[DeadLetter]
    ) -> DeadLetterCounts:
        """Throw these letters of the room away. Their saves count as deleted; what they deleted
        stays deleted."""
        keys = self._keys.partition(stream.partition)
        room = keys.room(room_id)
        account = keys.account(await self._account_id(stream, room_id, letters))
        settings = self._settings
        states: list[str] = []
        words: list[str | bool] = []
        for letter in letters:
            saved = _saved_message(letter)
            has_state = bool(saved) and self._cache.partitions.of_id(saved) == stream.partition
            if has_state:
                states.append(keys.message_state(saved))
            words += [letter.dead_id, has_state]
        call = DropDeadLetters(
            room=room,
            account=account,
            dead_letters=stream.dead_key,
            event_stream=stream.key,
            blocked_rooms=stream.blocked_key,
            states=states,
            room_id=room_id,
            window_ttl_ms=settings.message_list_ttl_s * 1000,
            list_ttl_ms=settings.room_list_ttl_s * 1000,
            state_ttl_ms=settings.state_ttl_s * 1000,
            letters=words,
        )
        async with self._queue.acquired(stream, settings.lock_timeout_s):
            return await call.run(self._cache)

    async def _account_id(
        self, stream: EventStream, room_id: str, letters: Sequence[DeadLetter]
    ) -> str:
        """Whose room it is; '' when neither its record nor a letter says so."""
        record = self._keys.room(room_id, stream.partition).record
        if account := await self._cache.execute("HGET", record, "account"):
            return str(account)
        events = (_event(letter) for letter in letters if letter.group == room_id)
        return next(
            (event.account_id for event in events if event is not None and event.account_id), ""
        )


def _event(letter: DeadLetter) -> Event | None:
    try:
        return read_event(QueueEntry(letter.entry_id, letter.fields))
    except BadEvent:
        return None


def _saved_message(letter: DeadLetter) -> str:
    event = _event(letter)
    return event.message_id if event is not None and event.kind == MESSAGE_SAVE else ""

"""The schema of everything that the chat keeps in Redis: keys, fields, and what a missing one
means.

The stored names are short and stay as they are, since servers of two versions may share a Redis.
``term`` is the word of the documents for the same thing. ``docs/records.md`` is printed from this
module; ``tests/template/chat/cache/test_records.py`` holds it against the scripts and a Redis in
use.

What MySQL has can be deleted here and is loaded again. What it may not have yet is never rebuilt:
events in the event streams, running and queued replies (the slot fields and the waiters of a room)
and the text of running replies. A record with one of these has no TTL.
"""

from __future__ import annotations

from dataclasses import dataclass

FORMAT = 1
"""Of the records that this version writes, and the newest that it knows. A script that meets a
newer one writes nothing (``NEWERFORMAT``): requests get 5003, a batch waits for a newer server.
Raise it only with a change that an older version would do harm to; a field more is none."""
STALE_GENERATION = "0"
"""In ``epoch``: the record is whole, but MySQL knows better. It is read again before it is used."""
NO_GENERATION = "-1"
"""In ``epoch``: no record but a note that stops loads, until its last event is in MySQL or its
reply has ended."""
NO_EVENT = "0-0"
"""In ``dirty`` and ``id``: before every event."""
UNNAMED_VERSION = -1
"""In ``version``: nobody has given the room a title; its first question does."""


@dataclass(frozen=True)
class Field:
    """``absent``: what it means when it is not there; '' when only a note is without it.

    A ``name`` that ends in ``:`` begins many names, one for each id."""

    name: str
    term: str
    meaning: str
    absent: str = ""


@dataclass(frozen=True)
class Record:
    """``key``: as ``ChatKeys`` makes it, less prefix and partition. ``kind``: as TYPE names it."""

    key: str
    kind: str
    meaning: str
    fields: tuple[Field, ...] = ()


ROOM = Record(
    "room_rec:{room_id}",
    "hash",
    "Room record, what the scripts know of a room. Usable when `epoch` is the server's and `len` "
    "is the length of the message list.",
    (
        Field("format", "format", "Number of the record's format.", "format 1"),
        Field("owner", "account_db_key", "Number of the account that owns the room."),
        Field("account", "account_id", "Name of that account."),
        Field("shard", "shard_id", "Its shard."),
        Field(
            "epoch",
            "generation",
            "Generation of the Redis server in which the record was made. `0`: whole, but to be "
            "read again from MySQL. `-1`: a note, no record.",
            "a note of what a load must wait for",
        ),
        Field(
            "gone",
            "deleted",
            "`1`: the room is deleted; this stays until MySQL has the delete.",
            "not deleted",
        ),
        Field(
            "dirty",
            "last_event_id",
            "Newest event of the room. While it is in the event stream, no load may begin.",
            "all of its events are in MySQL",
        ),
        Field("title", "title", "As JSON."),
        Field(
            "version",
            "title_version",
            "Half seconds since 2026 at the last title; it only grows. `-1`: nobody has named the "
            "room.",
        ),
        Field("persona", "ai_persona", "As JSON."),
        Field("created", "created_at", "ISO 8601, UTC."),
        Field(
            "count",
            "message_count",
            "Messages that are not deleted, those below the window too.",
        ),
        Field(
            "last_ms",
            "last_activity_ms",
            "Unix time of the newest message; a new message is later.",
        ),
        Field("floor", "first_seq", "seq of the first message of the window."),
        Field(
            "floor_at",
            "window_since",
            "ISO time: whatever was accepted later is in the window, so a client id of a later "
            "time that has no claim here is new.",
        ),
        Field(
            "len",
            "window_length",
            "Length of the message list. If the list has another, somebody else wrote to it.",
        ),
        Field("next_seq", "next_seq", "seq of the next message."),
        Field(
            "saved_seq",
            "saved_seq",
            "MySQL has every message up to this seq. Nothing above it leaves the window.",
        ),
        Field(
            "ahead",
            "saved_ahead",
            "seqs above `saved_seq` that MySQL has, comma-separated: behind a running reply.",
        ),
        Field(
            "older",
            "has_older",
            "Visible messages below the window: `1` there are, `0` there are not, `?` ask MySQL.",
        ),
        Field(
            "turn_token",
            "slot_token",
            "Token of the reply that has the slot; only its holder writes the reply.",
            "no reply has the slot",
        ),
        Field(
            "turn",
            "slot",
            "The reply that has the slot, written as a waiter is.",
            "no reply has the slot",
        ),
        Field(
            "turn_phase",
            "slot_phase",
            "`ready`: nobody has called the provider. `calling CLAIM`: the process with this claim "
            "calls it. `unsure`: another Redis run said ready, and may have forgotten a claim: "
            "free when the lease is over.",
            "no reply has the slot",
        ),
        Field("turn_at", "slot_called_ms", "Unix time of the claim.", "not claimed yet"),
        Field(
            "turn_facts",
            "usage",
            "Model and tokens of the running reply so far, as JSON members.",
            "no usage yet",
        ),
        Field(
            "foreign_at",
            "foreign_since_ms",
            "Unix time at which entries of somebody else were first seen in the list.",
            "none were seen",
        ),
        Field(
            "dropped",
            "letters_dropped",
            "`1`: some of the room's dead letters were dropped, others are left.",
            "none were dropped",
        ),
        Field(
            "c:",
            "client_message_id",
            "`seq|hash of the body` of the message that was sent with this id.",
            "the id is new, or its message is below the window",
        ),
        Field(
            "s:",
            "client id of a seq",
            "To forget both when the window is trimmed.",
            "the message has no client id",
        ),
        Field(
            "w:",
            "watched",
            "Another process reads this reply: `text` each piece of it, `end` its end.",
            "nobody else reads it",
        ),
    ),
)
RESERVED = (
    Field(
        "leaf",
        "active_leaf_id",
        "Id of the last message of the active path.",
        "the newest message: all messages are on the path",
    ),
)
"""Fields of a room record that no version writes yet, for messages beside the active path of a
conversation (another reply to a question, another version of a question). The rules for them are in
``SIBLINGS``."""
SIBLINGS = """\
Messages beside the active path will be stored like all others: they have a `seq` of the room, stand
in its window and in the event stream, and name their parent (`parent_message_id`, which every reply
has now; a question without one follows the message before it). Only pages and histories choose, by
the parents of the `leaf`. So numbers, `saved_seq`, trims, claims and tombstones stay what they are.
The room's row in MySQL has the leaf too, for a load writes the whole record. With its first `leaf`
a record gets format 2: a server that does not know it would show siblings as one conversation.
"""
ACCOUNT = Record(
    "rooms_rec:{account_id}",
    "hash",
    "Account record, what the scripts know of an account's list of rooms.",
    (
        Field("format", "format", "Number of the record's format.", "format 1"),
        Field("owner", "account_db_key", "Number of the account."),
        Field("epoch", "generation", "As of a room.", "a note of what a load must wait for"),
        Field(
            "dirty",
            "last_event_id",
            "Newest event that changes the list.",
            "all of its events are in MySQL",
        ),
        Field("len", "list_length", "Number of rooms in the set and in the order."),
        Field(
            "load",
            "load_id",
            "The load that filled the list: what MySQL did not know then, and has no claim here, "
            "is new.",
        ),
        Field(
            "loaded_at",
            "loaded_at",
            "ISO time: a request id of a later time that has no claim here is new.",
        ),
        Field(
            "cards_until",
            "rooms_expire_ms",
            "Unix time at which the first room of the list may expire.",
        ),
        Field(
            "sends",
            "send_allowance",
            "Sends that are allowed at once now.",
            "as many as the limit says",
        ),
        Field(
            "sends_at",
            "send_allowance_ms",
            "Unix time of `sends`.",
            "nothing was sent since the list was loaded",
        ),
        Field(
            "r:",
            "client_request_id",
            "`room_id|hash of the request` of the room that was made with this id.",
            "the id is new, or its room was made before the load",
        ),
    ),
)
BACKLOG_WATERMARK = Record(
    "lane_mark:{shard_id}",
    "hash",
    "Backlog watermark of an event stream.",
    (
        Field(
            "epoch",
            "generation",
            "Generation in which `id` was noted.",
            "nothing was loaded yet",
        ),
        Field(
            "id",
            "backlog_watermark",
            "Last event when this generation first loaded something: loads wait until MySQL has "
            "it.",
            "nothing was loaded yet",
        ),
        Field(
            "saved",
            "saved_event_id",
            "Last event that is known to be in MySQL.",
            "no event is known to be",
        ),
    ),
)
BLOCKED_ROOMS = Record(
    "queue_held:chat_persistence:{shard_id}",
    "hash",
    "Blocked rooms: room id → number of its dead letters. Its later events wait behind them.",
)

RECORDS = (
    ROOM,
    ACCOUNT,
    BACKLOG_WATERMARK,
    BLOCKED_ROOMS,
    Record("room:{room_id}", "string", "The room as JSON, in the form of `ChatRoom`. Documented."),
    Record(
        "messages:{room_id}",
        "list",
        "Window: the newest messages as JSON, oldest first. `x` and an id stand where one was "
        "deleted. Documented.",
    ),
    Record(
        "room_state:{room_id}",
        "string",
        "State of a room, then its last transitions: `ACTIVE|P1764000000000,A1764000000009`. "
        "Absent: ACTIVE.",
    ),
    Record(
        "msg_state:{message_id}",
        "string",
        "The same of a message; while MySQL does not have it, with its room: "
        "`PENDING|P1764000000000|room id`. Absent: SENT, for a message that is saved.",
    ),
    Record("rooms:{account_id}", "set", "Ids of the account's rooms. Documented."),
    Record("rooms_order:{account_id}", "zset", "The same by last activity in ms."),
    Record("account_name:{db_key}", "string", "Name of an account by its number, for state calls."),
    Record(
        "turns:{room_id}",
        "list",
        "Waiters, replies that wait for the slot: "
        "`token|reply id|seq|question id|deadline in ms|persona as JSON`.",
    ),
    Record(
        "turn_leases",
        "zset",
        "Rooms whose slot is taken, by the Unix time in ms until which its holder is alive.",
    ),
    Record(
        "open_replies:{account_id}",
        "zset",
        "Running and queued replies of an account by their deadline in ms.",
    ),
    Record(
        "reply:{room_id}:{message_id}",
        "stream",
        "Text of a running reply: entry `N-0` has the `text` that ends at byte N. The last entry "
        "has the reason in `end`.",
    ),
    Record(
        "room_load:{room_id}",
        "string",
        "Token of the load that is under way; each write of the room removes it.",
    ),
    Record("rooms_load:{account_id}", "string", "The same of an account's list."),
    Record("room_home:{room_id}", "string", "Partition of a room with an id of a host's own."),
    Record(
        "operation:{operation_id}",
        "string",
        "An operation was done: its repeat changes nothing.",
    ),
    Record("epoch", "string", "Generation of this Redis server: only records of it may be used."),
    Record("epoch_run", "string", "`run_id` of the server run that the generation stands for."),
    Record(
        "older_shard:{shard_id}",
        "string",
        "JSON of what was found when a shard's database came back older.",
    ),
    Record(
        "restored_rooms:{shard_id}:{mark}",
        "hash",
        "Room id → JSON of what was queued again of it, during a restore.",
    ),
    Record(
        "queue:chat_persistence:{shard_id}",
        "stream",
        "Event stream to MySQL: `id`, `type`, `payload`, `priority`, `key`, `at`, and what only "
        "the scripts know: `seq`, `version`, `time`, `persona`, `was`.",
    ),
    Record(
        "queue_dead:chat_persistence:{shard_id}",
        "stream",
        "Dead letters: an event's fields, and `dead_…`.",
    ),
    Record(
        "queue_retry:chat_persistence:{shard_id}",
        "hash",
        "Attempts at an event of the stream.",
    ),
)


def record_of(key: str) -> Record | None:
    """The record that a key (without prefix and partition) is of; None for another's key."""
    found = [each for each in RECORDS if _is_of(key, each)]
    return max(found, key=lambda each: len(each.key.partition("{")[0]), default=None)


def field_of(record: Record, name: str) -> Field | None:
    """The field of this stored name."""
    begins, separator, _ = name.partition(":")
    return next((each for each in record.fields if each.name == begins + separator), None)


def _is_of(key: str, record: Record) -> bool:
    begins, has_id, _ = record.key.partition("{")
    return key.startswith(begins) if has_id else key == begins

"""What the chat counts."""

from __future__ import annotations

from base_server.service.core.instruments import Counter, Gauge, Histogram

REPEATED_SENDS = Counter(
    "chat_repeated_sends",
    "Sends answered with what their client_message_id had sent before: duplicates suppressed.",
)
OPEN_REPLIES = Gauge(
    "chat_open_replies", "Replies of this process that are running or waiting for a slot."
)
REPLIES = Counter(
    "chat_replies",
    "Replies of this process, or of a dead one, by their end: stop, length, stopped, interrupted,"
    " error, deleted.",
    ("finish_reason",),
)
FIRST_TEXT_SECONDS = Histogram(
    "chat_first_text_seconds",
    "From accepting a question to the first text of its reply, the wait for its slot included.",
)
STOPS = Counter("chat_stops", "Replies ended by a stop.")
RESUMES = Counter("chat_resumes", "Readers that came back to a reply.")
BATCH_EVENTS = Histogram(
    "chat_batch_events",
    "Events of a batch that was acknowledged.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)
BATCH_SECONDS = Histogram("chat_batch_seconds", "From reading a batch to its settling in Redis.")
SHARD_OLDER = Counter(
    "chat_shard_older", "Times that a shard database was found older than what Redis knows of it."
)
EVENTS_WRITTEN_AGAIN = Counter(
    "chat_events_written_again",
    "Events queued again from Redis, because a shard database had lost them.",
)
MESSAGES_LOST = Counter(
    "chat_messages_lost", "Messages that a shard database lost and that Redis does not have either."
)

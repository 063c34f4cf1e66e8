"""What the chat counts."""

from __future__ import annotations

from service.core.instruments import Counter, Histogram

REPEATED_SENDS = Counter(
    "chat_repeated_sends", "Sends answered with what their client_message_id had sent before: duplicates suppressed."
)
BATCH_EVENTS = Histogram(
    "chat_batch_events", "Events of a batch that was settled.", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
)
BATCH_SECONDS = Histogram("chat_batch_seconds", "From reading a batch to its settling in Redis.")

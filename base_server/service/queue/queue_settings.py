"""Configuration section ``queueConfig``."""

from __future__ import annotations

from pydantic import Field

from base_server.service.core.settings import LONGEST_TTL_S, Settings


class QueueSettings(Settings):
    """Shipped values; times in seconds, limits in entries unless the name says otherwise."""

    partitions: int = Field(default=16, ge=1, le=4096)
    """Partitions of all keys. Written down at the first start; a changed number stops the start."""

    max_backlog: int = Field(default=100_000, ge=1)
    """Waiting entries an event stream may hold; a send beyond it raises QueueFull."""

    max_payload_bytes: int = Field(default=1_048_576, ge=1)
    """Longest payload as JSON in UTF-8."""

    dedup_s: float = Field(default=60.0, ge=0.001, le=LONGEST_TTL_S)
    """How long a message id is remembered, so that sending it again stores it only once."""

    max_attempts: int = Field(default=5, ge=1)
    """Deliveries of one message, those that died with their process included, before it goes to the
    dead letters."""

    retry_base_s: float = Field(default=1.0, gt=0, le=86_400)
    """Wait after the first failed delivery; it doubles with each."""

    retry_cap_s: float = Field(default=60.0, gt=0, le=86_400)
    """Longest wait between two deliveries."""

    dead_letter_limit: int = Field(default=10_000, ge=1)
    """Dead letters an event stream may hold; beyond it the failed entry stays, and
    blocks its key."""

    poll_interval_s: float = Field(default=1.0, gt=0)
    """How often an idle consumer looks for messages of other processes; its own process wakes it at
    once."""

    batch: int = Field(default=50, ge=1)
    """Messages delivered from one event stream before the consumer looks for a stream of higher
    priority."""

    scan_limit: int = Field(default=5_000, ge=1)
    """Entries a consumer reads past in one visit of an event stream because a failing one blocks
    their key."""

    workers: int = Field(default=2, ge=1)
    """Event streams that one consumer works on at the same time."""

    handler_timeout_s: float = Field(default=60.0, gt=0)
    """One delivery may take this long; then it counts as failed."""

    lock_ttl_s: float = Field(default=30.0, ge=0.001, le=LONGEST_TTL_S)
    """A stream whose consumer died is taken over after this; extended while it works."""

    drain_timeout_s: float = Field(default=10.0, gt=0)
    """How long stop() waits for deliveries under way before it cancels them."""

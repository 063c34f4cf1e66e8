"""The ``chatConfig`` section. Names and defaults of the first block are those of the user's document."""

from __future__ import annotations

from pydantic import Field

from service.core.settings import Settings


class ChatSettings(Settings):
    """Times in seconds, sizes in entries unless the name says otherwise."""

    room_list_ttl_s: int = Field(3600, ge=1)
    message_list_ttl_s: int = Field(3600, ge=1)
    stream_ttl_s: int = Field(300, ge=1)
    state_ttl_s: int = Field(86400, ge=1)
    transition_log_ttl_s: int = Field(86400, ge=1)
    batch_size: int = Field(50, ge=1, le=1000)
    batch_interval_s: float = Field(3, gt=0)
    buffer_cleanup_interval_s: float = Field(30, gt=0)
    lock_timeout_s: float = Field(10, gt=0)
    lock_ttl_s: float = Field(30, gt=0)
    default_shard_id: int = Field(1, ge=1)

    window: int = Field(200, ge=2, le=2000, description="messages of a room kept in Redis once they are in MySQL")
    max_batch: int = Field(500, ge=1, le=1000, description="events that one batch takes at most, under backlog")
    max_rooms_per_account: int = Field(20_000, ge=1)
    max_dead_letters_per_room: int = Field(
        100,
        ge=1,
        description="with so many events that the database refuses, or that wait behind one, a room takes no more",
    )
    max_waiting_turns: int = Field(8, ge=0, description="questions that may wait behind a running reply, a room")
    sends_per_minute: float = Field(120, gt=0, description="messages an account may send in the long run")
    sends_at_once: int = Field(60, ge=1, description="messages an account may send at once after a pause")
    max_open_replies: int = Field(16, ge=1, description="replies of an account that run or wait, over all its rooms")
    reply_deadline_s: float = Field(120, gt=0, description="a reply, with its wait for the turn, ends within this")
    reply_lease_s: float = Field(
        10, gt=0, le=12, description="a running reply whose process is silent this long is ended"
    )
    sweep_interval_s: float = Field(2, gt=0, le=3)
    delta_interval_s: float = Field(0.025, gt=0)
    delta_bytes: int = Field(1024, ge=1)
    load_timeout_s: float = Field(20, gt=0, description="longest wait for a room or list to be read from MySQL")
    history_length: int = Field(40, ge=1, description="messages of the window given to the AI service to trim")

"""The ``chatConfig`` section. Names and defaults of the first block are those of the user's
document."""

from __future__ import annotations

from pydantic import Field

from base_server.service.core.settings import LONGEST_TTL_S, Settings, TtlSeconds


class ChatSettings(Settings):
    """Times in seconds, sizes in entries unless the name says otherwise."""

    room_list_ttl_s: TtlSeconds = 3600
    """An account's rooms leave Redis after this, once all is in MySQL."""
    message_list_ttl_s: TtlSeconds = 3600
    """The same for a room and its messages."""
    stream_ttl_s: TtlSeconds = 300
    """The stream of a reply that has ended can be read this long; then it is read from the
    message."""
    state_ttl_s: TtlSeconds = 86400
    """States of rooms and messages are kept this long after their last event is in MySQL."""
    transition_log_ttl_s: TtlSeconds = 86400
    """Transitions older than this are no longer shown."""
    batch_size: int = Field(50, ge=1, le=1000)
    """With so many events waiting, a batch is saved at once."""
    batch_interval_s: float = Field(3, gt=0)
    """Events wait at most this long for their batch."""
    buffer_cleanup_interval_s: float = Field(30, gt=0)
    """How often each process forgets what it remembers of event streams that are empty again."""
    lock_timeout_s: float = Field(10, gt=0)
    """How long a batch, or `dlq`, waits for an event stream that another process holds."""
    lock_ttl_s: float = Field(30, ge=0.001, le=LONGEST_TTL_S)
    """A stream whose process died is taken over after this; extended while it works."""
    mark_check_interval_s: float = Field(10, gt=0)
    """How often each process looks whether a shard database came back older."""
    default_shard_id: int = Field(1, ge=1)
    """Shard of an account that the mapping does not know."""

    window: int = Field(200, ge=2, le=2000)
    """Messages of a room kept in Redis once they are in MySQL."""
    max_batch: int = Field(500, ge=1, le=1000)
    """Events that one batch takes at most, under backlog."""
    max_batch_bytes: int = Field(1_048_576, ge=1)
    """… and about so many bytes of them."""
    lanes_at_once: int = Field(4, ge=1)
    """Event streams of one shard that a process writes at once, each on a connection of its own
    (databaseConfig.pool_size)."""
    max_rooms_per_account: int = Field(20_000, ge=1)
    """Live rooms an account may have."""
    max_dead_letters_per_room: int = Field(100, ge=1)
    """With so many events that the database refuses, or that wait behind one, a room takes no
    more."""
    max_waiting_turns: int = Field(8, ge=0)
    """Maximum number of questions queued per room while a reply is running."""
    sends_per_minute: float = Field(120, gt=0)
    """Messages an account may send in the long run."""
    sends_at_once: int = Field(60, ge=1)
    """Messages an account may send at once after a pause."""
    max_open_replies: int = Field(16, ge=1)
    """Replies of an account that run or wait, over all its rooms."""
    reply_deadline_s: float = Field(120, gt=0, le=86_400)
    """A reply ends within this time, including its wait for the slot."""
    reply_lease_s: float = Field(8, gt=0, le=12)
    """A running reply is ended when its process has not renewed its lease for this long."""
    sweep_interval_s: float = Field(2, gt=0, le=3)
    """How often each process looks for replies whose process is gone."""
    delta_interval_s: float = Field(0.025, gt=0)
    """Text of a reply goes to its readers at most this often."""
    delta_bytes: int = Field(1024, ge=1)
    """… or as soon as this much of it waits."""
    checkpoint_interval_s: float = Field(0.25, gt=0)
    """A reply without readers is stored this often: for lists, and in case its process dies."""
    load_timeout_s: float = Field(20, gt=0)
    """Longest wait for a room or list to be read from MySQL."""
    history_length: int = Field(40, ge=1)
    """Messages of the window given to the AI service to trim; at most
    llmConfig.max_conversation_length are read."""

    @property
    def ready_lease_ms(self) -> int:
        """A granted slot belongs first to the process that accepted its question, which gets a
        signal at once and polls every second. After this time that process is dead or paused, and
        any other may claim the slot."""
        return round(min(self.reply_lease_s, 2.0) * 1000)

"""Every Redis key of the chat, and nowhere else.

All keys of one request lie in the partition of the session's account, so that one script can touch
them together. Rooms and messages made by us carry that partition in their ids.
"""

from __future__ import annotations

from base_server.service.cache.cache_client import CacheClient

NEWS = "reply_news"


class ChatKeys:
    """Full key names. ``partition`` None: taken from the id (callers without a session)."""

    def __init__(self, cache: CacheClient) -> None:
        self._key = cache.keyspace.key
        self._partitions = cache.partitions

    def account_partition(self, account_id: str) -> int:
        return self._partitions.of_id(account_id)

    def new_id(self, partition: int) -> str:
        """An id for something of an account in ``partition``."""
        return self._partitions.new_id(partition)

    def epoch(self, partition: int) -> str:
        return self._key("epoch", partition)

    def epoch_run(self, partition: int) -> str:
        """The server run that the epoch was made in."""
        return self._key("epoch_run", partition)

    # the account's list: SET and order index, with their record
    def account_record(self, account_id: str, partition: int | None = None) -> str:
        return self._key(f"rooms_rec:{account_id}", partition)

    def account_rooms(self, account_id: str, partition: int | None = None) -> str:
        return self._key(f"rooms:{account_id}", partition)

    def account_order(self, account_id: str, partition: int | None = None) -> str:
        return self._key(f"rooms_order:{account_id}", partition)

    def account_load(self, account_id: str, partition: int | None = None) -> str:
        return self._key(f"rooms_load:{account_id}", partition)

    def account_name(self, db_key: int, partition: int) -> str:
        """The account's name by its number, for callers that know a room's row alone."""
        return self._key(f"account_name:{db_key}", partition)

    # a room: card, window of messages, record, waiting turns
    def room(self, room_id: str, partition: int | None = None) -> str:
        return self._key(f"room:{room_id}", partition)

    def messages(self, room_id: str, partition: int | None = None) -> str:
        return self._key(f"messages:{room_id}", partition)

    def room_home(self, room_id: str) -> str:
        """Where a room with an id of a host's own has its keys: the number of its account's partition."""
        return self._key(f"room_home:{room_id}")

    def room_record(self, room_id: str, partition: int | None = None) -> str:
        return self._key(f"room_rec:{room_id}", partition)

    def room_load(self, room_id: str, partition: int | None = None) -> str:
        return self._key(f"room_load:{room_id}", partition)

    def turns(self, room_id: str, partition: int | None = None) -> str:
        return self._key(f"turns:{room_id}", partition)

    def leases(self, partition: int) -> str:
        return self._key("turn_leases", partition)

    def open_replies(self, account_id: str, partition: int | None = None) -> str:
        """ZSET of the account's running and waiting replies by their deadline."""
        return self._key(f"open_replies:{account_id}", partition)

    def reply_stream(self, room_id: str, message_id: str, partition: int | None = None) -> str:
        return self._key(f"reply:{room_id}:{message_id}", partition)

    def news(self, partition: int) -> str:
        """No key but a channel: what all processes hear about the partition's replies."""
        return self._key(NEWS, partition)

    # states
    def room_state(self, room_id: str, partition: int | None = None) -> str:
        return self._key(f"room_state:{room_id}", partition)

    def message_state(self, message_id: str, partition: int | None = None) -> str:
        return self._key(f"msg_state:{message_id}", partition)

    def operation(self, operation_id: str, partition: int) -> str:
        """Note that an operation was done, for who repeats it because the answer was lost."""
        return self._key(f"operation:{operation_id}", partition)

    def backlog_watermark(self, shard_id: int, partition: int) -> str:
        """``epoch``, ``id``: where the backlog ended when this Redis run was first loaded from. ``saved``: the last
        event that is known to be in MySQL."""
        return self._key(f"lane_mark:{shard_id}", partition)

    def older_shard(self, shard_id: int, partition: int) -> str:
        """What was found when the shard's database came back older."""
        return self._key(f"older_shard:{shard_id}", partition)

    def restored_rooms(self, shard_id: int, mark: int, partition: int) -> str:
        """HASH room → [events queued again, messages lost, their seqs]: the rooms that are done, of a database that
        came back with this mark."""
        return self._key(f"restored_rooms:{shard_id}:{mark}", partition)

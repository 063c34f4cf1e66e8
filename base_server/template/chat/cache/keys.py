"""Every Redis key of the chat, and nowhere else.

All keys of one request lie in the partition of the session's account, so that one script can touch
them together. Rooms and messages made by us carry that partition in their ids. Names are bound once
a request, to a partition, a room or an account: building them one by one, each with its partition,
cost a send 8 µs.
"""

from __future__ import annotations

from base_server.service.cache.cache_client import CacheClient

SIGNALS = "reply_news"


class RoomKeys:
    """Of one room; with the id "" they are the beginnings of the names of all rooms."""

    __slots__ = ("_reply_stream", "json", "load_token", "messages", "record", "state", "waiting")

    def __init__(self, prefix: str, room_id: str) -> None:
        self.json = f"{prefix}room:{room_id}"
        self.messages = f"{prefix}messages:{room_id}"
        """LIST: the window, the newest messages."""
        self.record = f"{prefix}room_rec:{room_id}"
        self.load_token = f"{prefix}room_load:{room_id}"
        self.waiting = f"{prefix}turns:{room_id}"
        """LIST of the replies that wait for the room's slot."""
        self.state = f"{prefix}room_state:{room_id}"
        self._reply_stream = f"{prefix}reply:{room_id}:"

    def reply_stream(self, message_id: str) -> str:
        return self._reply_stream + message_id


class AccountKeys:
    """Of one account: its list of rooms (a SET and an order index, with their record)."""

    __slots__ = ("load_token", "open_replies", "order", "record", "rooms")

    def __init__(self, prefix: str, account_id: str) -> None:
        self.record = f"{prefix}rooms_rec:{account_id}"
        self.rooms = f"{prefix}rooms:{account_id}"
        self.order = f"{prefix}rooms_order:{account_id}"
        self.load_token = f"{prefix}rooms_load:{account_id}"
        self.open_replies = f"{prefix}open_replies:{account_id}"
        """ZSET of the account's running and waiting replies by their deadline."""


class PartitionKeys:
    """Of one partition: what its accounts share, and where the names of each begin."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.generation = f"{prefix}epoch"
        self.generation_run = f"{prefix}epoch_run"
        """The server run that the generation was made in."""
        self.leases = f"{prefix}turn_leases"
        self.signals = prefix + SIGNALS
        """No key but a channel: what all processes learn about the partition's replies."""

    def room(self, room_id: str) -> RoomKeys:
        return RoomKeys(self.prefix, room_id)

    def account(self, account_id: str) -> AccountKeys:
        return AccountKeys(self.prefix, account_id)

    def message_state(self, message_id: str) -> str:
        return f"{self.prefix}msg_state:{message_id}"

    def operation(self, operation_id: str) -> str:
        """Note that an operation was done, for a caller that repeats it because the answer was
        lost."""
        return f"{self.prefix}operation:{operation_id}"

    def account_name(self, db_key: int) -> str:
        """The account's name by its number, for callers that know a room's row alone."""
        return f"{self.prefix}account_name:{db_key}"

    def room_home(self, room_id: str) -> str:
        """Where a room with an id of a host's own has its keys: the number of its account's
        partition. Lies in the partition that the id is hashed to."""
        return f"{self.prefix}room_home:{room_id}"

    def backlog_watermark(self, shard_id: int) -> str:
        """``epoch``, ``id``: where the backlog ended when this Redis run was first loaded from.
        ``saved``: the last event that is known to be in MySQL."""
        return f"{self.prefix}lane_mark:{shard_id}"

    def older_shard(self, shard_id: int) -> str:
        """What was found when the shard's database came back older."""
        return f"{self.prefix}older_shard:{shard_id}"

    def restored_rooms(self, shard_id: int, mark: int) -> str:
        """HASH room → [events queued again, messages lost, their seqs]: the rooms that are done, of
        a database that came back with this mark."""
        return f"{self.prefix}restored_rooms:{shard_id}:{mark}"


class ChatKeys:
    """The keys of each partition. Where ``partition`` is None, it is taken from the id (callers
    without a session)."""

    def __init__(self, cache: CacheClient) -> None:
        self._key = cache.keyspace.key
        self._partitions = cache.partitions
        self._bound: dict[int, PartitionKeys] = {}

    def account_partition(self, account_id: str) -> int:
        return self._partitions.of_id(account_id)

    def new_id(self, partition: int) -> str:
        """An id for something of an account in ``partition``."""
        return self._partitions.new_id(partition)

    def partition(self, partition: int) -> PartitionKeys:
        if (bound := self._bound.get(partition)) is None:
            bound = self._bound[partition] = PartitionKeys(self._key("", partition))
        return bound

    def of_id(self, identifier: str) -> PartitionKeys:
        """Those of the partition that an id carries, or is hashed to."""
        return self.partition(self._partitions.of_id(identifier))

    def room(self, room_id: str, partition: int | None = None) -> RoomKeys:
        return self._of(room_id, partition).room(room_id)

    def account(self, account_id: str, partition: int | None = None) -> AccountKeys:
        return self._of(account_id, partition).account(account_id)

    def message_state(self, message_id: str, partition: int | None = None) -> str:
        return self._of(message_id, partition).message_state(message_id)

    def _of(self, identifier: str, partition: int | None) -> PartitionKeys:
        return self.of_id(identifier) if partition is None else self.partition(partition)

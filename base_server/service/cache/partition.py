"""The partition rule: which of the P partitions a key belongs to, and ids that carry it.

Every key of one account, and so every script, touches one partition; the partition's tag is the
key's hash tag, so that a partition is one slot of a Redis Cluster. The rule knows keys and ids,
nothing of what is stored under them.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import re
import string
import time
import zlib
from binascii import crc_hqx

MAX_PARTITIONS = 4096
"""The partition field of an id has 12 bits."""

_CLUSTER_SLOTS = 16384
_UUID_V7_OR_V8 = re.compile(
    r"([0-9a-f]{8})-([0-9a-f]{4})-([78])([0-9a-f]{3})-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
)


# Seeded by the system once; asking the system for every id costs ten times as much. (An id need
# not be unguessable: every use checks its owner.) Not the module's generator: a host may seed that.
_random = random.Random()  # noqa: S311
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


class Partitions:
    """``count`` partitions, numbered from 0. ``count`` is permanent: keys and ids depend on it."""

    def __init__(self, count: int) -> None:
        if not 1 <= count <= MAX_PARTITIONS:
            raise ValueError(f"the number of partitions must be 1 to {MAX_PARTITIONS}, not {count}")
        self.count = count
        self._tags: dict[int, str] = {}

    def of_text(self, text: str) -> int:
        """The partition of any text: CRC-32 of its UTF-8 modulo ``count``, in all processes."""
        return zlib.crc32(text.encode()) % self.count

    def of_id(self, identifier: str) -> int:
        """The partition that one of our ids carries; of any other text its hash."""
        own = self.is_own_id(identifier)
        return self.of_text(identifier) if own is None else own

    def of_key(self, logical: str) -> int:
        """That of ``id`` in ``kind:id[:rest]``; a key without a colon is hashed whole."""
        kind, colon, rest = logical.partition(":")
        return self.of_id(rest.partition(":")[0]) if colon else self.of_text(kind)

    def is_own_id(self, identifier: str) -> int | None:
        """The partition in an id of :meth:`new_id` (canonical lowercase UUIDv8), else ``None``."""
        match = _UUID_V7_OR_V8.fullmatch(identifier)
        if match is None or match[3] != "8":
            return None
        partition = int(match[4], 16)
        return partition if partition < self.count else None

    def new_id(self, partition: int) -> str:
        """A new id of ``partition``: UUIDv8 (RFC 9562) of 48-bit Unix milliseconds, 12 bits
        partition, 62 random bits.

        Ids made in later milliseconds sort after earlier ones, as text and as InnoDB keys.
        """
        self._check(partition)
        ms = f"{time.time_ns() // 1_000_000:012x}"
        tail = f"{0x8 << 60 | _random.getrandbits(62):016x}"
        return f"{ms[:8]}-{ms[8:]}-8{partition:03x}-{tail[:4]}-{tail[4:]}"

    def derived_id(self, identifier: str, purpose: str) -> str:
        """An id with the time and partition of one of ours; the same arguments give the same id."""
        digest = hashlib.sha256(f"{purpose}:{identifier}".encode()).digest()
        tail = f"{0x8 << 60 | int.from_bytes(digest[:8]) >> 2:016x}"
        return f"{identifier[:19]}{tail[:4]}-{tail[4:]}"

    def id_time_ms(self, identifier: str) -> int | None:
        """Unix milliseconds in a UUIDv7 or in one of our ids, ``None`` for any other text."""
        match = _UUID_V7_OR_V8.fullmatch(identifier)
        if match is None or (match[3] == "8" and int(match[4], 16) >= self.count):
            return None
        return int(match[1] + match[2], 16)

    def tag(self, partition: int) -> str:
        """The hash tag of a partition: its two digits, then letters until it falls into its own
        part of the slots.

        The slot lies in ``[partition * 16384 / count, (partition + 1) * 16384 / count)``, so the
        partitions spread evenly over the masters of a cluster.
        """
        if (known := self._tags.get(partition)) is None:
            self._check(partition)
            known = self._tags[partition] = self._find_tag(partition)
        return known

    def _find_tag(self, partition: int) -> str:
        digits = f"{partition:02d}"
        for length in itertools.count():
            for letters in itertools.product(string.ascii_lowercase, repeat=length):
                tag = digits + "".join(letters)
                if (
                    crc_hqx(tag.encode(), 0) % _CLUSTER_SLOTS * self.count // _CLUSTER_SLOTS
                    == partition
                ):
                    return tag
        raise AssertionError("unreachable: some tag falls into every part of the slots")

    def _check(self, partition: int) -> None:
        if not 0 <= partition < self.count:
            raise ValueError(f"partition {partition} is not one of 0 to {self.count - 1}")

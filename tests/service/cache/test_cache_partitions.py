"""The partition rule: stable, even, carried by ids."""

from __future__ import annotations

import time
import uuid
from collections import Counter

import pytest
from redis.crc import key_slot

from base_server.service.cache.keyspace import Keyspace
from base_server.service.cache.partition import MAX_PARTITIONS, Partitions


@pytest.mark.parametrize("count", [1, 3, 16, 64, 256])
def test_each_tag_falls_into_its_own_part_of_the_cluster_slots(count: int) -> None:
    partitions = Partitions(count)
    tags = [partitions.tag(p) for p in range(count)]
    assert len(set(tags)) == count
    for p, tag in enumerate(tags):
        slot = key_slot(f"app:LOCAL:{{{tag}}}:room:x".encode())
        assert p * 16384 / count <= slot < (p + 1) * 16384 / count
        assert tag.startswith(f"{p:02d}")


def test_sixteen_partitions_spread_evenly_over_three_masters() -> None:
    partitions = Partitions(16)
    masters = Counter(key_slot(partitions.tag(p).encode()) * 3 // 16384 for p in range(16))
    assert sorted(masters.values()) == [5, 5, 6]


def test_tags_never_change() -> None:
    # Every stored key contains one: another rule would lose all data.
    expected = "00dd 01dc 02d 03fc 04c 05ad 06bd 07bc 08bb 09c 10c 11aa 12bd 13bc 14da 15db"
    assert [Partitions(16).tag(p) for p in range(16)] == expected.split()


def test_the_hash_of_a_text_never_changes() -> None:
    partitions = Partitions(16)
    assert [partitions.of_text(text) for text in ("room_123", "hero", "계정", "")] == [15, 6, 9, 0]


def test_the_largest_count_works_and_a_larger_one_is_refused() -> None:
    partitions = Partitions(MAX_PARTITIONS)
    assert partitions.of_id(partitions.new_id(4095)) == 4095
    assert partitions.tag(4095).startswith("4095")
    for count in (0, -1, MAX_PARTITIONS + 1):
        with pytest.raises(ValueError, match="partitions"):
            Partitions(count)


def test_id_is_a_uuid_v8_with_partition_and_time() -> None:
    partitions = Partitions(16)
    for p in range(16):
        before_ms = time.time_ns() // 1_000_000
        identifier = partitions.new_id(p)
        parsed = uuid.UUID(identifier)
        assert (parsed.version, parsed.variant, str(parsed)) == (8, uuid.RFC_4122, identifier)
        assert partitions.of_id(identifier) == p
        assert partitions.is_own_id(identifier) == p
        time_ms = partitions.id_time_ms(identifier)
        assert time_ms is not None
        assert before_ms <= time_ms <= time.time_ns() // 1_000_000
    with pytest.raises(ValueError, match="partition 16"):
        partitions.new_id(16)


def test_ids_are_unique() -> None:
    partitions = Partitions(16)
    assert len({partitions.new_id(3) for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize(
    "foreign",
    [
        "room_123",
        "",
        "018f3f7e-0000-8fff-8000-000000000000",  # partition 4095 of 16
        "018f3f7e-0000-8003-c000-000000000000",  # another variant
        "018F3F7E-0000-8003-8000-00000000000A",  # not canonical
        "018f3f7e-0000-7003-8000-000000000000",  # version 7
        " 018f3f7e-0000-8003-8000-000000000000",
    ],
)
def test_any_other_text_is_no_id_of_ours_and_is_hashed(foreign: str) -> None:
    partitions = Partitions(16)
    assert partitions.is_own_id(foreign) is None
    assert partitions.of_id(foreign) == partitions.of_text(foreign)


def test_the_time_is_read_from_uuid_v7_too_and_from_nothing_else() -> None:
    partitions = Partitions(16)
    assert partitions.id_time_ms("018f3f7e-0001-7abc-9abc-0123456789ab") == 0x018F3F7E0001
    for text in ("room_123", str(uuid.uuid4()), "018f3f7e-0000-8fff-8000-000000000000"):
        assert partitions.id_time_ms(text) is None


def test_a_key_is_named_as_documented() -> None:
    partitions = Partitions(16)
    keys = Keyspace("app", "LOCAL", partitions)
    room_id = partitions.new_id(7)
    assert keys.key(f"room:{room_id}") == f"app:LOCAL:{{{partitions.tag(7)}}}:room:{room_id}"
    assert (
        keys.key(f"messages:{room_id}:index")
        == f"app:LOCAL:{{{partitions.tag(7)}}}:messages:{room_id}:index"
    )
    assert keys.key("room:room_123", 3) == f"app:LOCAL:{{{partitions.tag(3)}}}:room:room_123"
    assert keys.key("plain") == f"app:LOCAL:{{{partitions.tag(partitions.of_text('plain'))}}}:plain"
    assert (
        partitions.of_key("rooms:hero")
        == partitions.of_key("session:hero:x")
        == partitions.of_text("hero")
    )

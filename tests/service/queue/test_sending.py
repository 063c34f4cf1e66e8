"""What send_message promises: stored once, in its stream, within the limits."""

from __future__ import annotations

import json

import pytest

from base_server.service.core.errors import ServiceError, ServiceNotRunning
from base_server.service.queue.message_queue import MessagePriority, QueueMessage
from base_server.service.queue.queue_errors import QueueFull
from base_server.service.queue.queue_service import QueueService, get_queue_service
from tests.service.queue.queue_harness import QueueHarness


async def test_a_message_stands_in_its_stream_with_all_its_fields(harness: QueueHarness) -> None:
    queue = await harness.queue()
    payload = {"text": "안녕 👋", "big": 12345678901234567, "list": [], "none": None}
    message_id = await queue.send_message("mail", payload, "letter", MessagePriority.HIGH, "room_1")
    stream = queue.stream("mail", harness.cache.partitions.of_id("room_1"), "3")
    (entry,) = await queue.store.head(stream, 10)
    assert (entry.message_id, entry.message_type, entry.partition_key) == (
        message_id,
        "letter",
        "room_1",
    )
    assert entry.payload == payload
    assert json.loads(entry.payload_text) == payload
    message = entry.to_message("mail")
    assert (message.priority, message.partition_key, message.payload) == (3, "room_1", payload)
    # Two readings of one clock: Redis 7.0 lets it move on within a script.
    assert abs((message.created_at_ms or 0) - int(entry.entry_id.partition("-")[0])) < 1000


async def test_a_key_that_is_one_of_our_ids_goes_to_its_own_partition(
    harness: QueueHarness,
) -> None:
    queue = await harness.queue()
    for partition in range(4):
        await queue.send_message(
            "mail", {}, "letter", partition_key=harness.cache.partitions.new_id(partition)
        )
    assert [
        count for stream, count in (await queue.backlog("mail")).items() if stream.name == "2"
    ] == [
        1,
        1,
        1,
        1,
    ]


async def test_messages_without_a_key_spread_over_the_partitions(harness: QueueHarness) -> None:
    queue = await harness.queue()
    for _ in range(40):
        await queue.send_message("mail", {}, "letter")
    assert all(
        count for stream, count in (await queue.backlog("mail")).items() if stream.name == "2"
    )


async def test_one_queue_message_stands_for_all_arguments(harness: QueueHarness) -> None:
    queue = await harness.queue()
    message = QueueMessage(
        "mail", {"a": 1}, "letter", priority=4, partition_key="k", message_id="mine"
    )
    assert await queue.send_message(message) == "mine"
    (entry,) = await queue.store.head(
        queue.stream("mail", harness.cache.partitions.of_id("k"), "4"), 10
    )
    assert (entry.message_id, entry.payload) == ("mine", {"a": 1})


async def test_a_message_id_sent_again_is_stored_once_also_after_it_was_consumed(
    harness: QueueHarness,
) -> None:
    queue = await harness.queue(max_backlog=1)
    message = QueueMessage("mail", {"a": 1}, "letter", partition_key="k", message_id="mine")
    await queue.send_message(message)
    await queue.send_message(message)  # also no QueueFull: it is in there
    stream = queue.stream("mail", harness.cache.partitions.of_id("k"), "2")
    (entry,) = await queue.store.head(stream, 10)
    await queue.remove(stream, [entry.entry_id])
    await queue.send_message(message)
    assert await harness.waiting("mail") == 0


async def test_a_full_stream_refuses_and_another_does_not(harness: QueueHarness) -> None:
    queue = await harness.queue(max_backlog=2)
    for _ in range(2):
        await queue.send_message("mail", {}, "letter", partition_key="k")
    with pytest.raises(QueueFull):
        await queue.send_message("mail", {}, "letter", partition_key="k")
    await queue.send_message("mail", {}, "letter", MessagePriority.HIGH, "k")
    assert await harness.waiting("mail") == 3


@pytest.mark.parametrize(
    ("payload", "message_type", "priority"),
    [
        ({"a": float("nan")}, "t", 2),
        ({"a": "\ud800"}, "t", 2),
        ({"a": object()}, "t", 2),
        (["a"], "t", 2),
        ({"a": "x" * 100}, "t", 2),
        ({}, "", 2),
        ({}, "t", 5),
    ],
    ids=["nan", "lone surrogate", "no json", "no object", "too long", "no type", "no priority"],
)
async def test_what_could_never_be_delivered_is_refused(
    harness: QueueHarness, payload: object, message_type: str, priority: int
) -> None:
    queue = await harness.queue(max_payload_bytes=100)
    with pytest.raises((ValueError, TypeError)):
        await queue.send_message("mail", payload, message_type, priority)  # type: ignore[arg-type]
    assert await harness.waiting("mail") == 0


@pytest.mark.parametrize("name", ["", "a:b", "a{b}", "x" * 65, "a b"])
async def test_a_queue_name_that_could_not_be_a_key_is_refused(
    harness: QueueHarness, name: str
) -> None:
    queue = await harness.queue()
    with pytest.raises(ServiceError, match="is no name"):
        await queue.send_message(name, {}, "letter")


async def test_a_declared_queue_follows_its_own_route(harness: QueueHarness) -> None:
    queue = await harness.queue()
    queue.declare(
        "shards", streams=["1", "2", "10"], route=lambda message: (3, str(message.payload["shard"]))
    )
    await queue.send_message("shards", {"shard": 10}, "row", MessagePriority.CRITICAL, "k")
    assert {
        (stream.partition, stream.name)
        for stream, count in (await queue.backlog("shards")).items()
        if count
    } == {(3, "10")}
    assert len(queue.streams("shards")) == 12
    with pytest.raises(ServiceError, match="has no stream '11'"):
        await queue.send_message("shards", {"shard": 11}, "row")
    with pytest.raises(ServiceError, match="in partition 4"):
        queue.stream("shards", 4, "1")


async def test_all_keys_of_a_stream_are_in_its_partition(
    harness: QueueHarness, app_id: str
) -> None:
    queue = await harness.queue()
    for stream in queue.streams("mail"):
        tag = "{" + harness.cache.partitions.tag(stream.partition) + "}"
        assert all(
            key.startswith(f"{app_id}:TEST:{tag}:")
            for key in (stream.key, stream.dead_key, stream.retry_key)
        )


async def test_a_send_costs_one_round_trip(harness: QueueHarness) -> None:
    queue = await harness.queue()
    await queue.send_message("mail", {}, "letter")
    before = harness.cache.get_client().round_trips
    await queue.send_message("mail", {}, "letter")
    assert harness.cache.get_client().round_trips == before + 1


async def test_the_documented_global_names(harness: QueueHarness) -> None:
    with pytest.raises(ServiceNotRunning):
        get_queue_service()
    queue = await harness.queue()
    queue.install()
    try:
        assert QueueService.get_instance() is get_queue_service() is queue
        await QueueService.send_message(
            queue_name="mail", payload={"type": "x"}, message_type="chat_save", priority=2
        )
        assert await harness.waiting("mail") == 1
    finally:
        queue.uninstall()


async def test_a_queue_with_an_owner_takes_nothing_before_it(harness: QueueHarness) -> None:
    """cases/promises.md P2: in streams of other names nobody would ever read it."""
    queue = await harness.queue()
    with pytest.raises(
        ServiceError, match="chat_persistence takes nothing before its owner's template is made"
    ):
        await queue.send_message("chat_persistence", {}, "chat_save", 3)
    queue.declare("chat_persistence", streams=["1"], route=lambda _: (0, "1"))
    await queue.send_message("chat_persistence", {}, "chat_save", 3)
    assert [
        stream.name for stream, count in (await queue.backlog("chat_persistence")).items() if count
    ] == ["1"]

"""Redelivery: whatever is repeated, in whatever order batches arrive, the same rows stand there at
the end."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest

from base_server.service.db.database_service import DatabaseService
from tests.database_rows import Room

Step = Callable[[], Awaitable[object]]


def batches(room: Room) -> list[Step]:
    """What a stream brings for one room: creation, messages, renames of no effect on order,
    deletes."""
    delete_room = {"room_id": room.room_id, "account_db_key": room.account_db_key}
    return [
        lambda: room.batch("fp_chat_room_batch_create", room.row()),
        lambda: room.save(1, 2, 3),
        lambda: room.save(3, 4, 5),
        lambda: room.save(6),
        lambda: room.call("fp_chat_message_save", *room.message(2).values()),
        lambda: room.delete(2, 5),
        lambda: room.delete(5, 6),
        lambda: room.call("fp_chat_message_soft_delete", *room.tombstone(6).values()),
        lambda: room.batch("fp_chat_room_batch_soft_delete", delete_room),
    ]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("with_delete", [False, True], ids=["room lives", "room is deleted"])
async def test_any_order_with_repeats_ends_the_same(
    database: DatabaseService, seed: int, with_delete: bool
) -> None:
    order = random.Random(seed)
    room = Room(database)
    steps = batches(room)[: None if with_delete else -1]
    run = steps + order.choices(steps, k=6)
    order.shuffle(run)
    for step in run:
        await step()
    window = await room.window()
    assert [(row["seq"], row["deleted"]) for row in window] == [
        (1, 0),
        (2, 1),
        (3, 0),
        (4, 0),
        (5, 1),
        (6, 1),
    ]
    row = await room.get()
    assert row["message_count"] == 3
    assert row["last_seq"] == 6
    assert row["deleted"] == int(with_delete)
    assert len(await room.call("fp_chat_rooms_get", room.account_db_key)) == (
        0 if with_delete else 1
    )


async def test_redelivery_from_the_head_ends_the_same(database: DatabaseService) -> None:
    """A second holder of the stream's lock repeats a batch that the first has finished, and
    more."""
    room = Room(database)
    base = {"room_id": room.room_id, "account_db_key": room.account_db_key}
    titles = [base | {"title": f"title {n}", "title_version": n} for n in (1, 2)]
    steps: list[Step] = [
        lambda: room.batch("fp_chat_room_batch_create", room.row()),
        lambda: room.save(1, 2),
        lambda: room.batch("fp_chat_room_batch_update_title", titles[0]),
        lambda: room.delete(1),
        lambda: room.save(3, 4),
        lambda: room.batch("fp_chat_room_batch_update_title", titles[1]),
    ]
    for step in steps:
        await step()
    expected = (await room.get(), await room.window())
    for start in range(len(steps)):
        for step in steps[start:]:
            await step()
        for step in steps[: start + 1]:
            await step()
        assert (await room.get(), await room.window()) == expected

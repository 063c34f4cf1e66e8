"""Messages behind the database port: the same on SQLite and MariaDB."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import timedelta

import pytest

from base_server.service.core.errors import DataRefused
from base_server.service.db.database_service import DatabaseService
from base_server.service.db.values import Row
from tests.database_rows import START, Room, batch_json, new_id

# Unescaped and escaped JSON, quotes and backslashes, a line separator, RTL, a family emoji,
# trailing spaces.
TEXTS = [
    "안녕하세요 👋",
    "👨‍👩‍👧‍👦 \"x\" 'y' \\ \\n \n\r\t",
    "%s %d ; -- /* */ \u2028 שלום  ",
    "",
    "a" * 60_000 + "가",
]


@pytest.fixture
async def room(database: DatabaseService) -> Room:
    room = Room(database)
    await room.create()
    return room


@pytest.mark.parametrize("escaped", [True, False], ids=["escaped JSON", "plain JSON"])
async def test_text_comes_back_byte_for_byte(room: Room, escaped: bool) -> None:
    metadata = '{ "b":1,\t"a" : 1e2, "b": "\\u0041" }'
    rows = [room.message(n, content=text, metadata=metadata) for n, text in enumerate(TEXTS, 1)]
    name = "fp_chat_message_batch_save"
    await room.call(name, batch_json(name, rows, ensure_ascii=escaped))
    single = room.message(9, content="".join(TEXTS), metadata=metadata)
    await room.call("fp_chat_message_save", *single.values())
    stored = await room.window()
    assert [row["content"] for row in stored] == [*TEXTS, "".join(TEXTS)]
    assert {row["metadata"] for row in stored} == {metadata}


async def test_all_fields_come_back(room: Room) -> None:
    given = room.message(
        7,
        parent_message_id=new_id(),
        client_message_id=new_id(),
        body_hash="f" * 64,
        sender_type="SYSTEM",
    )
    await room.batch("fp_chat_message_batch_save", given)
    (stored,) = await room.window()
    expected = {name: given[name] for name in stored if name in given} | {"deleted": 0}
    assert stored == expected | {"created_at": START + timedelta(seconds=7)}
    assert stored["created_at"].tzinfo is not None


async def test_a_save_takes_the_next_number_and_repeats_it(room: Room) -> None:
    for seq, message_id in enumerate([new_id(), new_id()], 1):
        values = list((room.message(0, message_id=message_id) | {"seq": None}).values())
        for _ in range(2):
            assert await room.call("fp_chat_message_save", *values) == [{"seq": seq}]
    await room.delete(5)
    values = list((room.message(0, message_id=new_id()) | {"seq": None}).values())
    assert await room.call("fp_chat_message_save", *values) == [{"seq": 6}]
    assert (await room.get())["message_count"] == 3


async def test_a_save_with_a_time_object_keeps_its_milliseconds(room: Room) -> None:
    exact = START.replace(microsecond=123_999)
    await room.call("fp_chat_message_save", *room.message(1, created_at=exact).values())
    assert (await room.window())[0]["created_at"] == exact.replace(microsecond=123_000)


async def test_a_repeated_batch_changes_nothing(room: Room) -> None:
    await room.save(1, 2, 2, 3)
    before = await room.get()
    await room.save(1, 2, 2, 3)
    assert await room.get() == before
    assert (before["message_count"], before["last_seq"]) == (3, 3)
    assert before["last_message_at"] == START + timedelta(seconds=3)


async def test_of_one_id_twice_in_a_batch_the_first_counts(room: Room) -> None:
    await room.batch(
        "fp_chat_message_batch_save",
        room.message(1, content="first"),
        room.message(1, content="second"),
    )
    assert [row["content"] for row in await room.window()] == ["first"]


async def test_counters_only_grow(room: Room) -> None:
    await room.save(5)
    await room.save(2)
    (row,) = await room.call("fp_chat_rooms_get", room.account_db_key)
    assert (row["last_seq"], row["last_message_at"]) == (5, START + timedelta(seconds=5))


REFUSED = {
    "id too long": {"message_id": "x" * 65},
    "id far too long": {"message_id": "x" * 300},
    "id not ASCII": {"message_id": "메시지"},
    "client id too long": {"client_message_id": "x" * 65},
    "client id not ASCII": {"client_message_id": "é"},
    "parent too long": {"parent_message_id": "x" * 300},
    "hash too long": {"body_hash": "x" * 65},
    "content too long": {"content": "x" * 16_777_216},
    "no content": {"content": None},
    "no id": {"message_id": None},
    "no number": {"seq": None},
    "number not a number": {"seq": "12x"},
    "unknown sender": {"sender_type": "user"},
    "no time": {"created_at": None},
    "impossible time": {"created_at": "2026-02-30 00:00:00.000"},
    "time not a time": {"created_at": "soon"},
    "key not a number": {"account_db_key": "abc"},
    "taken number": {"seq": 1},
    "taken client id": {"client_message_id": "taken"},
}


@pytest.mark.parametrize("fault", REFUSED.values(), ids=REFUSED)
async def test_one_bad_row_refuses_the_whole_batch(room: Room, fault: dict[str, object]) -> None:
    await room.batch("fp_chat_message_batch_save", room.message(1, client_message_id="taken"))
    before = await room.get()
    rows = [room.message(2), room.message(3) | fault, room.message(4)]
    with pytest.raises(DataRefused):
        await room.batch("fp_chat_message_batch_save", *rows)
    assert [row["seq"] for row in await room.window()] == [1]
    assert await room.get() == before


ONLY_IN_BULK = ("no number", "taken number", "taken client id")


@pytest.mark.parametrize("fault", [f for name, f in REFUSED.items() if name not in ONLY_IN_BULK],
                         ids=[name for name in REFUSED if name not in ONLY_IN_BULK])  # fmt: skip
async def test_a_bad_row_is_refused_alone_too(room: Room, fault: dict[str, object]) -> None:
    await room.batch("fp_chat_message_batch_save", room.message(1, client_message_id="taken"))
    with pytest.raises(DataRefused):
        await room.call("fp_chat_message_save", *(room.message(3) | fault).values())
    assert [row["seq"] for row in await room.window()] == [1]
    assert (await room.get())["message_count"] == 1


async def test_save_with_a_taken_number_takes_the_next(room: Room) -> None:
    """cases/faults.md U3: another Redis gave the number to another message."""
    await room.save(1, 2)
    late = room.message(1, content="late", message_id=new_id())
    for _ in range(2):
        assert await room.call("fp_chat_message_save", *late.values()) == [{"seq": 3}]
    # The same in bulk says that its number is not the stored one.
    with pytest.raises(DataRefused):
        await room.batch("fp_chat_message_batch_save", late)
    assert [row["seq"] for row in await room.window()] == [1, 2, 3]
    row = await room.get()
    assert (row["message_count"], row["last_seq"]) == (3, 3)


async def test_reply_with_a_taken_number_goes_after_its_question(room: Room) -> None:
    question = room.message(1, message_id=new_id())
    await room.batch("fp_chat_message_batch_save", question, room.message(2), room.message(4))
    moved = room.message(1, message_id=new_id())
    assert await room.call("fp_chat_message_save", *moved.values()) == [{"seq": 5}]
    for parent, seq in ((moved, 6), (question, 7)):
        reply = room.message(
            2, message_id=new_id(), sender_type="AI", parent_message_id=parent["message_id"]
        )
        assert await room.call("fp_chat_message_save", *reply.values()) == [{"seq": seq}]


async def test_reply_is_never_stored_before_its_question(room: Room) -> None:
    """cases/faults.md U3: the question's number was taken, the reply's was not, and it comes in a
    later batch."""
    await room.save(1)
    question = room.message(1, message_id=new_id())
    assert await room.call("fp_chat_message_save", *question.values()) == [{"seq": 3}]
    reply = room.message(
        2, message_id=new_id(), sender_type="AI", parent_message_id=question["message_id"]
    )
    before = await room.get()
    with pytest.raises(DataRefused):
        await room.batch("fp_chat_message_batch_save", room.message(7), reply)
    assert await room.get() == before
    for _ in range(2):
        assert await room.call("fp_chat_message_save", *reply.values()) == [{"seq": 4}]
    # One that is behind its question anyhow stays where it is, and is no matter for many.
    late = room.message(5) | {
        "seq": 6,
        "sender_type": "AI",
        "parent_message_id": question["message_id"],
    }
    with pytest.raises(DataRefused):
        await room.batch("fp_chat_message_batch_save", late)
    assert await room.call("fp_chat_message_save", *late.values()) == [{"seq": 6}]
    assert [row["seq"] for row in await room.window()] == [1, 3, 4, 6]


async def test_batch_with_a_moved_reply_that_is_stored_adds_the_rest(room: Room) -> None:
    """A repeated batch: the reply went after its question, whose number was taken, and stays
    there."""
    await room.save(1)
    question = room.message(1, message_id=new_id())
    assert await room.call("fp_chat_message_save", *question.values()) == [{"seq": 3}]
    reply = room.message(
        2, message_id=new_id(), sender_type="AI", parent_message_id=question["message_id"]
    )
    assert await room.call("fp_chat_message_save", *reply.values()) == [{"seq": 4}]
    for _ in range(2):
        await room.batch("fp_chat_message_batch_save", reply, room.message(5))
        assert [row["seq"] for row in await room.window()] == [1, 3, 4, 5]
        row = await room.get()
        assert (row["message_count"], row["last_seq"]) == (4, 5)


async def test_deleted_reply_leaves_no_number_free_behind_it(room: Room) -> None:
    """A reply that was deleted before it was saved is the last row: no other reply is still to
    come."""
    await room.save(1)
    row = {
        "message_id": new_id(),
        "room_id": room.room_id,
        "account_db_key": room.account_db_key,
        "seq": 2,
    }
    await room.batch("fp_chat_message_batch_soft_delete", row)
    late = room.message(1, message_id=new_id())
    assert await room.call("fp_chat_message_save", *late.values()) == [{"seq": 3}]


async def test_save_with_a_taken_client_id_is_stored_without(room: Room) -> None:
    first = room.message(1, client_message_id="taken", body_hash="h")
    second = room.message(2, client_message_id="taken", body_hash="h")
    for row in (first, second):
        await room.call("fp_chat_message_save", *row.values())
    assert [row["client_message_id"] for row in await room.window()] == ["taken", None]


async def test_tombstone_with_a_taken_number_takes_the_next(room: Room) -> None:
    await room.save(1, 2)
    row = {
        "message_id": new_id(),
        "room_id": room.room_id,
        "account_db_key": room.account_db_key,
        "seq": 1,
    }
    for _ in range(2):
        await room.batch("fp_chat_message_batch_soft_delete", row)
    assert [(row["seq"], row["deleted"]) for row in await room.window()] == [(1, 0), (2, 0), (3, 1)]
    assert (await room.get())["message_count"] == 2


@pytest.mark.parametrize(
    "rows",
    [
        "",
        "nonsense",
        '{"a": {}}',
        "[{]",
        "[1]",
        "[{}]",
        "[[]]",
        '[["id"]]',
        '[["id"',
        '[{"room_id": 1}',
    ],
)
@pytest.mark.parametrize(
    "name",
    ["fp_chat_message_batch_save", "fp_chat_message_batch_soft_delete", "fp_chat_room_batch_create",
     "fp_chat_room_batch_soft_delete"],
)  # fmt: skip
async def test_rows_that_are_no_rows_are_refused(
    database: DatabaseService, name: str, rows: str
) -> None:
    with pytest.raises(DataRefused):
        await Room(database).call(name, rows)


async def test_text_that_is_not_unicode_is_refused(room: Room) -> None:
    with pytest.raises(DataRefused):
        await room.call("fp_chat_message_save", *room.message(1, content="\ud800").values())


async def test_a_tombstone_is_never_lifted(room: Room) -> None:
    await room.save(1, 2)
    await room.delete(2, 3)
    await room.save(2, 3)
    await room.call("fp_chat_message_save", *room.message(3).values())
    assert [(row["seq"], row["deleted"]) for row in await room.window()] == [(1, 0), (2, 1), (3, 1)]
    row = await room.get()
    assert (row["message_count"], row["last_seq"]) == (1, 3)


async def test_single_and_bulk_delete_do_the_same(room: Room) -> None:
    await room.save(1, 2, 3)
    for _ in range(2):
        await room.call("fp_chat_message_soft_delete", *room.tombstone(2).values())
        await room.call("fp_chat_message_soft_delete", *room.tombstone(8).values())
        await room.delete(3, 3, 9)
    stored = await room.window()
    assert [(r["seq"], r["deleted"], r["content"]) for r in stored] == [
        (1, 0, "message 1"), (2, 1, "message 2"), (3, 1, "message 3"), (8, 1, ""), (9, 1, ""),
    ]  # fmt: skip
    assert [row["created_at"] is None for row in stored] == [False, False, False, True, True]
    row = await room.get()
    assert (row["message_count"], row["last_seq"]) == (1, 9)


async def test_a_delete_of_another_account_changes_nothing(room: Room) -> None:
    await room.save(1)
    foreign = room.tombstone(1) | {"account_db_key": room.account_db_key + 1}
    await room.batch("fp_chat_message_batch_soft_delete", foreign)
    await room.call("fp_chat_message_soft_delete", *foreign.values())
    assert [row["deleted"] for row in await room.window()] == [0]
    assert (await room.get())["message_count"] == 1


async def test_a_room_may_come_after_its_messages(database: DatabaseService) -> None:
    room = Room(database)
    await room.save(1, 2)
    await room.delete(2)
    assert await room.call("fp_chat_room_get", room.room_id) == []
    await room.create()
    row = await room.get()
    assert (row["message_count"], row["last_seq"], row["title"]) == (1, 2, "방 🏠")
    assert row["last_message_at"] == START + timedelta(seconds=2)


async def test_messages_are_read_by_key_newest_first(room: Room) -> None:
    await room.save(*range(1, 10))
    await room.delete(5)
    page = await room.call("fp_chat_messages_get", room.room_id, None, 3)
    assert [row["seq"] for row in page] == [9, 8, 7]
    page = await room.call("fp_chat_messages_get", room.room_id, 7, 3)
    assert [row["seq"] for row in page] == [6, 4, 3]
    await room.call("fp_chat_room_soft_delete", room.room_id, room.account_db_key)
    assert await room.call("fp_chat_messages_get", room.room_id, None, 3) == []


async def test_the_window_is_a_range_of_numbers(room: Room) -> None:
    await room.save(*range(1, 10))
    await room.delete(8)
    assert [(row["seq"], row["deleted"]) for row in await room.window(3)] == [
        (7, 0),
        (8, 1),
        (9, 0),
    ]
    assert await Room(room.database).window() == []


async def test_the_number_before_a_time(room: Room) -> None:
    await room.save(1, 2, 3)

    async def before(time: object) -> list[int]:
        return [row["seq"] for row in await room.call("fp_chat_seq_before", room.room_id, time)]

    second = START + timedelta(seconds=2)
    assert await before(second) == [1]
    assert await before(second + timedelta(microseconds=1)) == [2]
    assert await before("2026-01-02 03:04:07.678000") == [1]
    assert await before(START) == []
    assert await before(START + timedelta(days=1)) == [3]


async def test_the_latest_time_ordered_client_id_is_found_among_others(room: Room) -> None:
    await room.create()
    ids = [
        "0zz",
        "f47ac10b-58cc-4372-a567-0e02b2c3d479",
        "0f7ac10b-58cc-4372-a567-0e02b2c3d479",
        "1",
    ]
    ids += [f"019ab00{n}-0000-{version}000-8000-000000000000" for n, version in enumerate("788")]
    for seq, client_id in enumerate(ids, 1):
        await room.batch(
            "fp_chat_message_batch_save", room.message(seq, client_message_id=client_id)
        )

    async def latest(after: str) -> list[str]:
        return [
            row["client_message_id"]
            for row in await room.call("fp_chat_client_id_latest", room.room_id, after)
        ]

    assert await latest("") == [ids[-1]]
    assert await latest("019ab002-0000") == [ids[-1]]
    assert await latest("019ab002-0001") == []


async def test_a_message_is_found_by_its_ids(room: Room) -> None:
    question = room.message(1, client_message_id="한글".encode().hex(), body_hash="a" * 64)
    reply = room.message(2, parent_message_id=question["message_id"])
    await room.batch("fp_chat_message_batch_save", question)
    find = ("fp_chat_message_find_client", room.room_id, question["client_message_id"])
    expected = {"message_id": question["message_id"], "seq": 1, "body_hash": "a" * 64, "deleted": 0}
    assert await room.call(*find) == [expected | {"reply_message_id": None}]
    await room.batch("fp_chat_message_batch_save", reply)
    assert await room.call(*find) == [expected | {"reply_message_id": reply["message_id"]}]
    assert await room.call("fp_chat_message_find", room.room_id, reply["message_id"]) == [
        {"message_id": reply["message_id"], "seq": 2, "sender_type": "AI", "deleted": 0}
    ]
    assert await room.call("fp_chat_message_find", new_id(), reply["message_id"]) == []
    assert await room.call("fp_chat_message_find", room.room_id, reply["message_id"].upper()) == []


async def test_concurrent_duplicate_batches_count_once(database: DatabaseService) -> None:
    created, unknown = Room(database), Room(database)
    await created.create()
    rows = [room.message(seq) for seq in range(1, 30) for room in (created, unknown)]
    deletes = [room.tombstone(seq) for seq in (3, 7, 40) for room in (created, unknown)]
    await asyncio.gather(
        *(
            created.batch("fp_chat_message_batch_save", *rows[n % 3 :: 1 + n % 2])
            for n in range(12)
        ),
        *(created.batch("fp_chat_message_batch_save", *reversed(rows)) for _ in range(6)),
        *(created.batch("fp_chat_message_batch_soft_delete", *deletes) for _ in range(4)),
        *(unknown.create() for _ in range(3)),
    )
    for room in (created, unknown):
        window = await room.window()
        assert [row["seq"] for row in window] == [*range(1, 30), 40]
        row = await room.get()
        assert row["message_count"] == sum(not message["deleted"] for message in window) == 27
        assert row["last_seq"] == 40


async def test_a_mark_is_raised_with_its_batch_or_not_at_all(database: DatabaseService) -> None:
    """As by fp_stream_mark_raise, in one transaction: a mark says that everything before it is
    there (U12)."""
    room, stream = Room(database), random.randrange(1, 2**31)
    first = 2**60 + 1  # no double holds it

    async def save(row: Row, *raised: int) -> list[Row]:
        return await room.call(
            "fp_chat_message_batch_save", json.dumps([[*row.values(), stream, *raised]])
        )

    async def mark() -> int:
        return (await room.call("fp_stream_mark_raise", stream, 0, 0))[0]["mark"]

    assert await save(room.message(1), 0, first) == [{"mark": first}]
    assert await save(room.message(2), first, first + 1) == [{"mark": first + 1}]
    assert await save(room.message(3), 0, first) == [{"mark": first + 1}], "a mark never falls"
    older = await save(room.message(4), first + 2, first + 3)
    assert older == [{"mark": first + 1}], "the database lost what is known: its mark stays"
    assert len(await room.window()) == 4
    with pytest.raises(DataRefused):
        await save(room.message(5) | {"seq": 4}, first, first + 9)
    assert await mark() == first + 1


@pytest.mark.parametrize("is_first", [False, True], ids=["stand-in first", "reply first"])
@pytest.mark.parametrize("reply_seq", [2, 4], ids=["same number", "other number"])
async def test_reply_and_its_stand_in_are_stored_once(
    room: Room, is_first: bool, reply_seq: int
) -> None:
    """A load gave the question a reply, empty and interrupted, while its own was on the way
    (decision 0038)."""
    ids = [f"01900000-0000-8001-{n:04d}-{new_id()[3:15]}" for n in range(3)]
    question = room.message(1, message_id=ids[0])
    reply = room.message(
        reply_seq, message_id=ids[1], sender_type="AI", parent_message_id=ids[0], content="said"
    )
    stand_in = room.message(
        2, message_id=ids[2], sender_type="AI", parent_message_id=ids[0], content="",
        metadata='{"ai_persona":"GPT4O","finish_reason":"interrupted"}',
    )  # fmt: skip
    await room.batch("fp_chat_message_batch_save", question)

    async def save_reply(seq: int) -> None:
        """In bulk; where that is refused, alone, as a batch is written."""
        try:
            await room.batch("fp_chat_message_batch_save", reply)
        except DataRefused:
            assert await room.call("fp_chat_message_save", *reply.values()) == [{"seq": seq}]

    if is_first:
        await save_reply(reply_seq)
        assert await room.call("fp_chat_message_save", *stand_in.values()) == [{"seq": 0}]
    else:
        assert await room.call("fp_chat_message_save", *stand_in.values()) == [{"seq": 2}]
        await save_reply(2)
    before = await room.window(), await room.get()
    assert [(row["message_id"], row["content"], row["deleted"]) for row in before[0]] == [
        (ids[0], "message 1", 0),
        (ids[1], "said", 0),
    ]
    assert before[1]["message_count"] == 2
    for row, seq in ((stand_in, 0), (reply, before[0][1]["seq"])):
        assert await room.call("fp_chat_message_save", *row.values()) == [{"seq": seq}]
    assert (await room.window(), await room.get()) == before

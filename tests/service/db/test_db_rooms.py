"""Rooms behind the database port: the same on SQLite and MariaDB."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from base_server.service.core.errors import DataRefused
from base_server.service.db.database_service import DatabaseService
from base_server.service.db.values import Row
from tests.database_rows import START, Room, new_id, time_text


async def make(room: Room, how: str, **changes: Any) -> None:
    """Create ``room`` by the single or the bulk procedure."""
    if how == "single":
        await room.create(**changes)
    else:
        await room.batch("fp_chat_room_batch_create", room.row(**changes))


async def rename(room: Room, how: str, title: str, version: int) -> None:
    if how == "single":
        await room.call(
            "fp_chat_room_update_title", room.room_id, room.account_db_key, title, version
        )
    else:
        row = {
            "room_id": room.room_id,
            "account_db_key": room.account_db_key,
            "title": title,
            "title_version": version,
        }
        await room.batch("fp_chat_room_batch_update_title", row)


async def remove(room: Room, how: str) -> None:
    if how == "single":
        await room.call("fp_chat_room_soft_delete", room.room_id, room.account_db_key)
    else:
        row = {"room_id": room.room_id, "account_db_key": room.account_db_key}
        await room.batch("fp_chat_room_batch_soft_delete", row)


async def list_rooms(room: Room) -> list[Row]:
    return await room.call("fp_chat_rooms_get", room.account_db_key)


@pytest.fixture
def room(database: DatabaseService) -> Room:
    return Room(database)


how = pytest.mark.parametrize("how", ["single", "bulk"])


@how
async def test_a_created_room_is_listed_with_all_its_fields(room: Room, how: str) -> None:
    request_id = new_id()
    for _ in range(2):
        await make(room, how, client_request_id=request_id, request_hash="a" * 64)
    (listed,) = await list_rooms(room)
    assert listed == {
        "room_id": room.room_id, "title": "방 🏠", "title_version": 0, "ai_persona": "GPT4O", "created_at": START,
        "last_message_at": START, "message_count": 0, "last_seq": 0, "client_request_id": request_id,
        "request_hash": "a" * 64,
    }  # fmt: skip
    assert await room.get() == listed | {"account_db_key": room.account_db_key, "deleted": 0}
    assert listed["created_at"].tzinfo is not None


@how
async def test_creating_again_changes_nothing(room: Room, how: str) -> None:
    await make(room, how)
    await make(room, how, title="another", ai_persona="X")
    assert (await room.get())["title"] == "방 🏠"


@how
async def test_a_request_id_belongs_to_one_room_of_the_account(room: Room, how: str) -> None:
    request_id = new_id()
    await make(room, how, client_request_id=request_id, request_hash="h")
    second = Room(room.database)
    await make(second, how, client_request_id=request_id)  # another account may use it too
    second.room_id, second.account_db_key = new_id("room"), room.account_db_key
    if how == "bulk":
        # A Redis that lost the first gave it to the second: both stay.
        await make(second, how, client_request_id=request_id, request_hash="other")
        assert (await second.get())["client_request_id"] is None
    else:
        with pytest.raises(DataRefused):
            await make(second, how, client_request_id=request_id)
        assert await room.call("fp_chat_room_get", second.room_id) == []
    assert await room.call("fp_chat_room_find_request", room.account_db_key, request_id) == [
        {"room_id": room.room_id, "request_hash": "h", "deleted": 0}
    ]
    assert await room.call("fp_chat_room_find_request", room.account_db_key, new_id()) == []


@how
@pytest.mark.parametrize("many", ["다" * 200, "👋" * 200], ids=["Korean", "emoji"])
async def test_a_title_of_200_characters_fits(room: Room, how: str, many: str) -> None:
    await make(room, how, title=many)
    await rename(room, how, many[1:] + "x", 1)
    assert (await room.get())["title"] == many[1:] + "x"


FAULTS: dict[str, dict[str, Any]] = {
    "title too long": {"title": "x" * 201},
    "title far too long": {"title": "x" * 5000},
    "no title": {"title": None},
    "id too long": {"room_id": "x" * 65},
    "id not ASCII": {"room_id": "방"},
    "persona too long": {"ai_persona": "x" * 300},
    "request id too long": {"client_request_id": "x" * 300},
    "impossible time": {"created_at": "2026-13-01 00:00:00.000"},
    "no time": {"created_at": None},
    "no account": {"account_db_key": None},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_bad_room_is_refused_alone_and_with_its_batch(
    room: Room, fault: dict[str, Any]
) -> None:
    good = room.row(room_id=new_id())
    with pytest.raises(DataRefused):
        await room.call("fp_chat_room_create", *room.row(**fault).values())
    with pytest.raises(DataRefused):
        await room.batch("fp_chat_room_batch_create", good, room.row(**fault))
    assert await list_rooms(room) == []
    assert await room.call("fp_chat_room_get", good["room_id"]) == []


@how
async def test_the_newest_title_version_wins(room: Room, how: str) -> None:
    await make(room, how)
    await rename(room, how, "two", 2)
    await rename(room, how, "one", 1)
    await rename(room, how, "two again", 2)
    row = await room.get()
    assert (row["title"], row["title_version"]) == ("two", 2)


async def test_of_several_titles_in_a_batch_the_newest_wins(room: Room) -> None:
    await room.create()
    base = {"room_id": room.room_id, "account_db_key": room.account_db_key}
    titles = [
        base | {"title": f"title {version}", "title_version": version} for version in (9, 10, 2)
    ]
    await room.batch("fp_chat_room_batch_update_title", *titles)
    row = await room.get()
    assert (row["title"], row["title_version"]) == ("title 10", 10)


@how
async def test_a_bad_title_is_refused(room: Room, how: str) -> None:
    await make(room, how)
    for title in ("x" * 201, "x" * 5000, None):
        with pytest.raises(DataRefused):
            await rename(room, how, title, 1)  # type: ignore[arg-type]
    if how == "bulk":
        with pytest.raises(DataRefused):
            await rename(room, how, "x", "1x")  # type: ignore[arg-type]
    assert (await room.get())["title"] == "방 🏠"


@how
async def test_another_account_cannot_rename_or_delete(room: Room, how: str) -> None:
    await make(room, how)
    foreign = Room(room.database)
    foreign.room_id = room.room_id
    await rename(foreign, how, "mine", 5)
    await remove(foreign, how)
    row = await room.get()
    assert (row["title"], row["deleted"]) == ("방 🏠", 0)


@how
async def test_an_awaited_room_of_another_is_not_taken_over(room: Room, how: str) -> None:
    """cases/promises.md G6: nor deleted, nor given further messages."""
    await room.save(1)
    foreign = Room(room.database)
    foreign.room_id = room.room_id
    with pytest.raises(DataRefused):
        await make(foreign, how)
    with pytest.raises(DataRefused):
        await remove(foreign, how)
    message = foreign.message(2) | {"seq": None}
    with pytest.raises(DataRefused):
        await foreign.call("fp_chat_message_save", *message.values())
    owned = {"account_db_key": room.account_db_key, "deleted": 2}
    assert await room.call("fp_chat_room_owner_get", room.room_id) == [owned]
    await make(room, how)
    await make(foreign, how)  # as always where the room is there: it changes nothing
    row = await room.get()
    assert (row["account_db_key"], row["message_count"], row["deleted"]) == (
        room.account_db_key,
        1,
        0,
    )


@how
async def test_a_title_without_a_room_makes_none(room: Room, how: str) -> None:
    await rename(room, how, "x", 1)
    await room.save(1)
    await rename(room, how, "x", 1)
    assert await room.call("fp_chat_room_get", room.room_id) == []


@how
@pytest.mark.parametrize("state", ["known", "unknown", "awaited"])
async def test_a_room_tombstone_is_never_lifted(room: Room, how: str, state: str) -> None:
    if state == "known":
        await make(room, how)
    if state == "awaited":
        await room.save(1)
    for _ in range(2):
        await remove(room, how)
        await make(room, how)
        await rename(room, how, "back", 9)
        await room.save(2)
    row = await room.get()
    assert (row["deleted"], row["title"]) == (1, "방 🏠" if state == "known" else "")
    assert await list_rooms(room) == []


async def test_a_deleted_room_still_answers_its_request_id(room: Room) -> None:
    await room.create(client_request_id="r", request_hash="h")
    await remove(room, "single")
    found = await room.call("fp_chat_room_find_request", room.account_db_key, "r")
    assert found == [{"room_id": room.room_id, "request_hash": "h", "deleted": 1}]


async def test_the_latest_time_ordered_request_id_is_found_among_others(room: Room) -> None:
    async def latest() -> list[str]:
        return [
            row["client_request_id"]
            for row in await room.call("fp_chat_request_id_latest", room.account_db_key)
        ]

    ids = [
        "0zz",
        "f47ac10b-58cc-4372-a567-0e02b2c3d479",
        "0f7ac10b-58cc-4372-a567-0e02b2c3d479",
        "1",
    ]
    ids += [f"019ab00{n}-0000-{version}000-8000-000000000000" for n, version in enumerate("788")]
    assert await latest() == []
    for request_id in ids:
        room.room_id = new_id("room")
        await room.create(client_request_id=request_id)
    assert await latest() == [ids[-1]]
    await remove(room, "single")  # the room of the latest
    assert await latest() == [ids[-1]]


async def test_rooms_are_paged_by_activity(room: Room) -> None:
    rooms = [room.row(room_id=new_id("room"), created_at=time_text(n // 2)) for n in range(7)]
    await room.batch("fp_chat_room_batch_create", *rooms)
    gone = rooms.pop(3)
    await room.call("fp_chat_room_soft_delete", gone["room_id"], room.account_db_key)
    room.room_id = rooms[0]["room_id"]
    await room.save(30)
    first, *others = sorted(
        rooms, key=lambda row: (row is rooms[0], row["created_at"], row["room_id"]), reverse=True
    )
    expected = [row["room_id"] for row in (first, *others)]
    listed = await list_rooms(room)
    assert [row["room_id"] for row in listed] == expected
    assert listed[0]["last_message_at"] == START + timedelta(seconds=30)
    pages = [
        await room.call("fp_chat_rooms_page", room.account_db_key, offset, 4)
        for offset in (0, 4, 8)
    ]
    assert [row["room_id"] for page in pages for row in page] == expected
    assert [{row.pop("total_count") for row in page} for page in pages] == [{6}, {6}, set()]
    assert [row for page in pages for row in page] == listed

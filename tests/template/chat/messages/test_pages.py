"""Pages across window and MySQL: order, has_more, cursors, with deletes anywhere."""

from __future__ import annotations

from datetime import datetime

import pytest

from base_server.template.base.client_session import ClientSession
from base_server.template.chat.common.chat_model import ChatMessage
from base_server.template.chat.messages.pages import make_cursor
from tests.chat_harness import ChatHarness
from tests.openai_stub import Reply

SENDS = 7  # fourteen messages, of which a window of five is in Redis


async def filled_room(chat: ChatHarness) -> tuple[ClientSession, str, list[ChatMessage]]:
    user = await chat.user()
    room = await chat.room(user)
    for n in range(SENDS):
        chat.provider.script(Reply(tokens=[f"a{n}"]))
        await chat.send(user, room.room_id, f"q{n}")
    everything = (await chat.messages(user, room.room_id, limit=100)).messages
    await chat.persist()
    assert await chat.redis.execute("LLEN", chat.keys.room(room.room_id).messages) == 5
    return user, room.room_id, everything


async def by_cursor(
    chat: ChatHarness, user: ClientSession, room_id: str, limit: int
) -> list[list[str]]:
    """All pages, newest first, following next_cursor."""
    page = await chat.messages(user, room_id, limit=limit)
    pages = [[message.message_id for message in page.messages]]
    while page.next_cursor is not None:
        assert page.has_more
        page = await chat.messages(user, room_id, limit=limit, cursor=page.next_cursor)
        assert page.messages
        pages.append([message.message_id for message in page.messages])
        assert len(pages) < 100
    assert not page.has_more
    return pages


async def by_number(
    chat: ChatHarness, user: ClientSession, room_id: str, limit: int
) -> list[list[str]]:
    """Pages 1, 2, … up to the last one."""
    pages: list[list[str]] = []
    has_more = True
    while has_more:
        page = await chat.messages(user, room_id, limit=limit, page=len(pages) + 1)
        pages.append([message.message_id for message in page.messages])
        has_more = page.has_more
        assert len(pages) < 100
    return pages


def oldest_first(pages: list[list[str]]) -> list[str]:
    return [message_id for page in reversed(pages) for message_id in page]


@pytest.mark.chat_settings(window=5)
@pytest.mark.parametrize("limit", [1, 3, 4, 5, 6, 14, 100])
async def test_pages_and_cursors_give_every_message_once_in_order(
    chat: ChatHarness, limit: int
) -> None:
    user, room_id, everything = await filled_room(chat)
    ids = [message.message_id for message in everything]
    pages = await by_cursor(chat, user, room_id, limit)
    assert oldest_first(pages) == ids
    assert all(len(page) == limit for page in pages[:-1])
    numbered = await by_number(chat, user, room_id, limit)
    assert oldest_first(numbered) == ids
    beyond = await chat.messages(user, room_id, limit=limit, page=len(numbered) + 1)
    assert (beyond.messages, beyond.has_more) == ([], False)


@pytest.mark.chat_settings(window=5)
@pytest.mark.parametrize("persisted", [True, False])
@pytest.mark.parametrize(
    "deleted",
    [
        (0, 1, 2),
        (8, 9, 10),
        (0, 13),
        (4, 5, 6, 7, 8, 9, 10, 11, 12, 13),
        (1, 3, 9, 11),
        tuple(range(9)),
    ],
    ids=["oldest", "over the edge", "both ends", "newest", "scattered", "all below the window"],
)
async def test_deleted_messages_leave_no_hole_and_has_more_stays_exact(
    chat: ChatHarness, deleted: tuple[int, ...], persisted: bool
) -> None:
    user, room_id, everything = await filled_room(chat)
    for index in deleted:
        assert await chat.delete_message(user, room_id, everything[index].message_id) == 0
    if persisted:
        await chat.persist()
    ids = [message.message_id for n, message in enumerate(everything) if n not in deleted]
    for limit in (1, 3, 5):
        pages = await by_cursor(chat, user, room_id, limit)
        assert oldest_first(pages) == ids
        assert all(len(page) == limit for page in pages[:-1])
        numbered = await by_number(chat, user, room_id, limit)
        assert numbered[0] == pages[0]
        # Below the window numbers count deleted messages too: nothing is left out, some of page 1
        # may come again.
        newest_first = [message_id for page in numbered for message_id in reversed(page)]
        assert list(dict.fromkeys(newest_first)) == ids[::-1]
    (listed,) = (await chat.rooms(user)).rooms
    assert listed.message_count == len(ids)


@pytest.mark.parametrize(
    "deleted", [(13,), (8, 9, 10, 11, 12, 13), (0, 5, 6, 12)], ids=["one", "a page", "scattered"]
)
async def test_numbered_pages_of_a_window_count_what_can_be_seen(
    chat: ChatHarness, deleted: tuple[int, ...]
) -> None:
    user = await chat.user()
    room_id = (await chat.room(user)).room_id
    for n in range(SENDS):
        await chat.send(user, room_id, f"q{n}")
    everything = (await chat.messages(user, room_id)).messages
    for index in deleted:
        assert await chat.delete_message(user, room_id, everything[index].message_id) == 0
    ids = [message.message_id for n, message in enumerate(everything) if n not in deleted]
    for limit in (1, 3, 4, 20):
        pages = await by_number(chat, user, room_id, limit)
        assert oldest_first(pages) == ids
        assert all(len(page) == limit for page in pages[:-1])


@pytest.mark.chat_settings(window=5)
async def test_before_timestamp_is_strictly_earlier(chat: ChatHarness) -> None:
    user, room_id, everything = await filled_room(chat)
    for index, message in enumerate(everything):
        for limit in (2, 20):
            before = datetime.fromisoformat(message.timestamp)
            page = await chat.messages(user, room_id, before_timestamp=before, limit=limit)
            expected = [earlier.message_id for earlier in everything[:index]][-limit:]
            assert [found.message_id for found in page.messages] == expected
            assert page.has_more == (index > limit)


@pytest.mark.chat_settings(window=5)
async def test_a_cursor_is_bound_to_its_room_and_stable_while_messages_arrive(
    chat: ChatHarness,
) -> None:
    user, room_id, everything = await filled_room(chat)
    first = await chat.messages(user, room_id, limit=4)
    await chat.send(user, room_id, "meanwhile")
    second = await chat.messages(user, room_id, limit=4, cursor=first.next_cursor)
    assert [message.message_id for message in second.messages] == [
        m.message_id for m in everything[6:10]
    ]
    other = await chat.room(user)
    bad = [first.next_cursor, "x", "!!!", "MTo", make_cursor(other.room_id, 0), "9" * 40, "é"]
    for cursor in bad:
        response = await chat.try_messages(user, other.room_id, cursor=cursor)
        assert response.errorCode == 1002, cursor
        assert response.error is not None
        assert response.error.details == {"field": "cursor"}


async def test_rooms_are_paged_by_newest_activity(chat: ChatHarness) -> None:
    user = await chat.user()
    rooms = [(await chat.room(user)).room_id for _ in range(5)]
    await chat.send(user, rooms[1])
    order = [rooms[1], rooms[4], rooms[3], rooms[2], rooms[0]]
    for _ in range(2):
        for page, expected, more in (
            (1, order[:2], True),
            (2, order[2:4], True),
            (3, order[4:], False),
            (4, [], False),
        ):
            answer = await chat.rooms(user, page=page, limit=2)
            assert [room.room_id for room in answer.rooms] == expected
            assert (answer.total_count, answer.has_more) == (5, more)
        await chat.persist()
        account = user.session.account_id
        keys = chat.keys
        await chat.redis.execute("DEL", keys.account(account).record, keys.account(account).rooms)

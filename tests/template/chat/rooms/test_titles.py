"""A room without a title gets one from its first message, in the step that stores it; a user's
title stays."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base_server.template.base.client_session import ClientSession
from base_server.template.chat.common.chat_serialize import ChatRoomUpdateRequest
from base_server.template.chat.domain.message_format import title_of
from tests.chat_harness import ChatHarness
from tests.openai_stub import Reply
from tests.waiting import until


async def title(chat: ChatHarness, user: ClientSession) -> str:
    return (await chat.rooms(user)).rooms[0].title


async def rename(chat: ChatHarness, user: ClientSession, room_id: str, new_title: str) -> None:
    request = ChatRoomUpdateRequest(room_id=room_id, new_title=new_title)
    assert (await chat.template.on_chat_room_update_req(user, request)).errorCode == 0


async def reload(chat: ChatHarness, user: ClientSession, room_id: str) -> None:
    """Everything is in the database, and Redis has forgotten it."""
    await chat.persist()
    keys, account_id = chat.keys, user.session.account_id
    names = [keys.room(room_id).json, keys.room(room_id).record, keys.room(room_id).messages]
    names += [
        keys.account(account_id).record,
        keys.account(account_id).rooms,
        keys.account(account_id).order,
    ]
    await chat.redis.execute("DEL", *names)


async def test_the_first_message_names_the_room_at_once(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user, title=None)
    assert room.title == "New chat"
    chat.provider.script(Reply(["so far"], hang=True))
    sending = asyncio.create_task(
        chat.try_send(user, room.room_id, "  How do I\n\ttame a dragon?\n\nIt is green.")
    )
    await until(lambda: chat.provider.calls)
    assert await title(chat, user) == "How do I tame a dragon? It is green."
    await chat.send(user, room.room_id, "another question", on_busy="interrupt")
    await sending
    await chat.persist()
    assert await title(chat, user) == "How do I tame a dragon? It is green."
    (row,) = await chat.rows(user, "fp_chat_room_get", room.room_id)
    assert (row["title"], row["title_version"]) == ("How do I tame a dragon? It is green.", 0)


@pytest.mark.parametrize("forgotten", [False, True], ids=["in Redis", "loaded again"])
async def test_users_title_is_never_overwritten(chat: ChatHarness, forgotten: bool) -> None:
    """A users title is never overwritten also when it is the default one."""
    user = await chat.user()
    given_at_once = await chat.room(user, title="New chat")
    renamed = await chat.room(user, title=None)
    await rename(chat, user, renamed.room_id, "New chat")
    for room in (given_at_once, renamed):
        if forgotten:
            await reload(chat, user, room.room_id)
        await chat.send(user, room.room_id, "name it so")
        assert await title(chat, user) == "New chat"
        await chat.persist()
        assert (await chat.rows(user, "fp_chat_room_get", room.room_id))[0]["title"] == "New chat"


async def test_a_room_that_nobody_named_is_still_known_for_it_after_a_reload(
    chat: ChatHarness,
) -> None:
    user = await chat.user()
    room = await chat.room(user, title=None)
    await reload(chat, user, room.room_id)
    assert await title(chat, user) == "New chat"
    await chat.send(user, room.room_id, " \u200b\n ")
    assert await title(chat, user) == "New chat", "nothing that can be seen names no room"
    await reload(chat, user, room.room_id)
    await chat.send(user, room.room_id, "드래곤을 길들이는 법")
    assert await title(chat, user) == "드래곤을 길들이는 법"
    await rename(chat, user, room.room_id, "용")
    await chat.send(user, room.room_id, "and now?")
    await reload(chat, user, room.room_id)
    assert await title(chat, user) == "용"


async def test_a_message_that_is_refused_names_nothing(chat: ChatHarness) -> None:
    user = await chat.user()
    room = await chat.room(user, title=None)
    assert (await chat.try_send(user, "unknown-room", "x")).errorCode == 1004
    assert await title(chat, user) == "New chat"
    sent = await chat.send(user, room.room_id, "first", client_message_id="c1")
    assert await title(chat, user) == "first"
    await rename(chat, user, room.room_id, "mine")
    again = await chat.try_send(user, room.room_id, "first", client_message_id="c1")
    assert again.user_message is not None
    assert again.user_message.message_id == sent.message_id
    assert await title(chat, user) == "mine"


@given(st.text(min_size=1, max_size=400))
def test_a_title_is_one_line_and_fits(content: str) -> None:
    made = title_of(content)
    assert len(made) <= 61
    assert made == made.strip()
    assert "  " not in made
    assert all(letter.isprintable() for letter in made)
    assert bool(made) == any(letter.isprintable() and not letter.isspace() for letter in content)


@pytest.mark.parametrize(
    ("content", "made"),
    [
        ("word " * 30, "word word word word word word word word word word word word…"),
        ("가" * 100, "가" * 60 + "…"),
        ("x" * 60, "x" * 60),
        ("\x07\u202e", ""),
    ],
    ids=["whole words", "no spaces", "just fits", "nothing to be seen"],
)
def test_a_long_message_is_cut(content: str, made: str) -> None:
    assert title_of(content) == made

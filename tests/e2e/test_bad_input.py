"""What a client should not send: a 4xx envelope with a code and the field's name, and nothing is
lost or changed."""

from __future__ import annotations

import gzip
import json
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.server_process import Client, ServerProcess, running_server

SEND, CREATE, LIST = "/api/chat/message/send", "/api/chat/room/create", "/api/chat/messages"
RENAME, CLIENT_ID = "/api/chat/room/update", "client_message_id"
RESUME, LAST_ID = "/api/chat/message/resume", "last_event_id"
OWN_FORM = "01a20937-1188-8008-acb1-b5ac80cf451d"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with (
        tempfile.TemporaryDirectory(prefix="e-") as folder,
        running_server(Path(folder) / "data") as running,
    ):
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def player(server: ServerProcess, http: aiohttp.ClientSession) -> Client:
    client = Client(http, server.base_url)
    await client.sign_in(f"bad{uuid.uuid4().hex[:10]}")
    return client


async def post_raw(player: Client, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {player.token}"}
    async with player._http.post(player.base_url + path, data=body, headers=headers) as answer:
        assert answer.content_type == "application/json"
        return answer.status, await answer.json()


RAW = {
    "a lone surrogate": b'{"room_id":"ROOM","content":"\\ud800"}',
    "a NUL": b'{"room_id":"ROOM","content":"a\\u0000b"}',
    "NaN": b'{"room_id":"ROOM","content":NaN}',
    "a number of 5000 digits": b'{"room_id":"ROOM","content":"x","sequence":' + b"9" * 5000 + b"}",
    "100000 brackets": b"[" * 100_000,
    "a duplicate key": b'{"room_id":"ROOM","content":"a","content":"b"}',
    "invalid UTF-8": b'{"room_id":"ROOM","content":"\xff\xfe"}',
    "a list": b"[]",
    "text": b"hello",
    "cut off": b'{"room_id":"ROOM","content":"x',
}


@pytest.mark.parametrize("body", RAW.values(), ids=RAW.keys())
async def test_a_body_that_is_not_strict_json_is_refused(player: Client, body: bytes) -> None:
    room_id = (await player.ok(CREATE, ai_persona="DEMO"))["room"]["room_id"]
    status, answer = await post_raw(player, SEND, body.replace(b"ROOM", room_id.encode()))
    assert (status, answer["errorCode"], answer["error"]["code"]) == (400, 1002, "INVALID_REQUEST")
    assert (await player.ok(LIST, room_id=room_id))["messages"] == []
    await player.ok(SEND, room_id=room_id, content="still works")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "no-such"])
async def test_a_compressed_body_is_refused_before_it_grows(player: Client, encoding: str) -> None:
    body = gzip.compress(b"[" * 100_000_000 if encoding == "gzip" else b"[]", 1)
    headers = {"Content-Encoding": encoding}
    async with player._http.post(player.base_url + CREATE, data=body, headers=headers) as answer:
        assert answer.status == 415
        assert "uncompressed" in (await answer.json())["error"]["message"]


ROOM: Any = object()
FIELDS: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "content of another type": (SEND, {"room_id": ROOM, "content": 5}, 1002, "content"),
    "no content": (SEND, {"room_id": ROOM}, 1002, "content"),
    "empty content": (SEND, {"room_id": ROOM, "content": ""}, 1002, "content"),
    "content too long": (SEND, {"room_id": ROOM, "content": "x" * 16_001}, 1002, "content"),
    "content of too many bytes": (SEND, {"room_id": ROOM, "content": "👩" * 16_400}, 1002, "content"),
    "an unknown persona": (SEND, {"room_id": ROOM, "content": "x", "ai_persona": "NOBODY"}, 1002, "ai_persona"),
    "an unknown persona for a room": (CREATE, {"persona": "NOBODY"}, 1002, "ai_persona"),
    "a room without a persona": (CREATE, {}, 1002, "ai_persona"),
    "an unknown on_busy": (SEND, {"room_id": ROOM, "content": "x", "on_busy": "shout"}, 1002, "on_busy"),
    "a client id with spaces": (SEND, {"room_id": ROOM, "content": "x", CLIENT_ID: "a b"}, 1002, CLIENT_ID),
    "a client id too long": (SEND, {"room_id": ROOM, "content": "x", CLIENT_ID: "a" * 65}, 1002, CLIENT_ID),
    "a malformed room id": (SEND, {"room_id": "../etc/passwd", "content": "x"}, 1002, "room_id"),
    "a room id with a newline": (SEND, {"room_id": "room\n", "content": "x"}, 1002, "room_id"),
    "a room id that is a number": (SEND, {"room_id": 7, "content": "x"}, 1002, "room_id"),
    "an unknown room": (SEND, {"room_id": "room_123", "content": "x"}, 1004, ""),
    "an unknown room of our form": (SEND, {"room_id": OWN_FORM, "content": "x"}, 1004, ""),
    "messages of an unknown room": (LIST, {"room_id": "room_123"}, 1004, ""),
    "an event id that is none": (RESUME, {"room_id": ROOM, "message_id": "m", LAST_ID: "x"}, 1002, LAST_ID),
    "an event id below zero": (RESUME, {"room_id": ROOM, "message_id": "m", LAST_ID: -1}, 1002, LAST_ID),
    "an event id that is true": (RESUME, {"room_id": ROOM, "message_id": "m", LAST_ID: True}, 1002, LAST_ID),
    "a title too long": (CREATE, {"ai_persona": "DEMO", "title": "x" * 201}, 1002, "title"),
    "an empty title": (CREATE, {"ai_persona": "DEMO", "title": ""}, 1002, "title"),
    "a title that is null to rename": (RENAME, {"room_id": ROOM, "new_title": None}, 1002, "new_title"),
    "page zero": (LIST, {"room_id": ROOM, "page": 0}, 1002, "page"),
    "a page as text": (LIST, {"room_id": ROOM, "page": "1"}, 1002, "page"),
    "a page that is a fraction": (LIST, {"room_id": ROOM, "page": 1.5}, 1002, "page"),
    "limit 101": (LIST, {"room_id": ROOM, "limit": 101}, 1002, "limit"),
    "limit true": (LIST, {"room_id": ROOM, "limit": True}, 1002, "limit"),
    "a broken cursor": (LIST, {"room_id": ROOM, "cursor": "nonsense"}, 1002, "cursor"),
    "a time that is none": (LIST, {"room_id": ROOM, "before_timestamp": "yesterday"}, 1002, "before_timestamp"),
    "an unknown message": ("/api/chat/message/delete", {"room_id": ROOM, "message_id": "msg_456"}, 1005, ""),
    "an unknown message of our form": ("/api/chat/message/delete", {"room_id": ROOM, "message_id": OWN_FORM}, 1005, ""),
    "sequence as text": (LIST, {"room_id": ROOM, "sequence": "1"}, 1002, "sequence"),
}  # fmt: skip


@pytest.mark.parametrize(("path", "fields", "code", "field"), FIELDS.values(), ids=FIELDS.keys())
async def test_a_field_that_does_not_fit_is_named_and_nothing_changes(
    player: Client, path: str, fields: dict[str, Any], code: int, field: str
) -> None:
    room = (await player.ok(CREATE, ai_persona="DEMO", title="kept"))["room"]
    await player.ok(SEND, room_id=room["room_id"], content="kept")
    body = {name: room["room_id"] if value is ROOM else value for name, value in fields.items()}
    status, answer = await post_raw(player, path, json.dumps(body).encode())
    assert (answer["errorCode"], 400 <= status < 500) == (code, True), answer
    if field:
        assert answer["error"]["details"]["field"] == field
        assert answer["error"]["message"].startswith(f"{field}: ")
    page = await player.ok(LIST, room_id=room["room_id"])
    assert [
        message["content"] for message in page["messages"] if message["sender_type"] == "USER"
    ] == ["kept"]
    rooms = (await player.ok("/api/chat/rooms"))["rooms"]
    assert [(listed["room_id"], listed["title"]) for listed in rooms] == [(room["room_id"], "kept")]


@pytest.mark.parametrize(
    "fields", [{}, {"persona": "NOBODY"}, {"ai_persona": ""}], ids=["none", "unknown", "empty"]
)
async def test_a_room_without_a_known_persona_is_told_the_known_ones(
    player: Client, fields: dict[str, Any]
) -> None:
    known = [
        persona["ai_persona"] for persona in (await player.ok("/api/chat/personas"))["personas"]
    ]
    error = (await player.post(CREATE, **fields))["error"]
    assert sorted(error["details"]["known"]) == sorted(known)
    assert all(name in error["message"] for name in known)


async def test_no_message_shows_a_pattern(player: Client) -> None:
    fields = {
        "room_id": "a b",
        "content": "x",
        LAST_ID: "x",
        "message_id": "a b",
        "client_request_id": "a b",
    }
    for path in (SEND, RESUME, CREATE, "/api/account/signup"):
        answer = await player.post(
            path, **fields, email="x", platform_type="a b", ai_persona="DEMO"
        )
        assert answer["errorCode"] == 1002
        assert not set("^$[]\\") & set("".join(answer["error"]["details"]["errors"].values())), (
            answer
        )


async def test_the_longest_and_strangest_text_comes_back_as_it_was(player: Client) -> None:
    room_id = (await player.ok(CREATE, ai_persona="DEMO", title="\u202e" + "한" * 199))["room"][
        "room_id"
    ]
    texts = [
        "가" * 16_000,
        '\x01\x7f\u2028\ufeff\U0010ffff\r\n\t\\u0000 {"lc":1}',
        " lead and trail ",
    ]
    for text in texts:
        sent = await player.ok(SEND, room_id=room_id, content=text)
        assert sent["user_message"]["content"] == text
    listed = await player.ok(LIST, room_id=room_id)
    assert [
        message["content"] for message in listed["messages"] if message["sender_type"] == "USER"
    ] == texts

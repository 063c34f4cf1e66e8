"""Whatever the AI provider does, over HTTP: a reply, a marked partial or a typed error, and the
room goes on."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.openai_stub import OpenAIStub, Reply, context_of, refuse_unlike_roles, texts_of
from tests.server_process import Client, running_server
from tests.silent_port import silent_port
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = 100_000
"""llmConfig.max_reply_chars as shipped."""


@dataclass
class Place:
    """A server whose personas are ODD, LATE and SILENT (the same provider, with less patience for
    its first word or for the next), SMALL (the same), SAFE (LATE with a fallback) and LOST (a
    provider that cannot be connected to)."""

    provider: OpenAIStub
    spare: OpenAIStub
    player: Client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place() -> AsyncIterator[Place]:
    # Each has the one limit that is reached: on a slow machine others would be reached as well.
    limits: dict[str, dict[str, float]] = {
        "odd": {"first_token_timeout_s": 600, "idle_timeout_s": 600, "timeout_s": 600},
        "late": {"first_token_timeout_s": 3},
        "silent": {"idle_timeout_s": 1},
        "lost": {"connect_timeout_s": 0.5},
        "spare": {},
    }
    with tempfile.TemporaryDirectory(prefix="e-") as folder, silent_port() as port:
        async with OpenAIStub() as provider, OpenAIStub() as spare, aiohttp.ClientSession() as http:
            urls = dict.fromkeys(limits, provider.base_url)
            urls |= {"spare": spare.base_url, "lost": f"http://127.0.0.1:{port}/v1"}
            personas = {
                "ODD": {"provider": "odd", "model": "m"},
                "LATE": {"provider": "late", "model": "m"},
                "SILENT": {"provider": "silent", "model": "m"},
                "SAFE": {
                    "provider": "late",
                    "model": "m",
                    "fallbacks": [{"provider": "spare", "model": "n"}],
                },
                "SMALL": {"provider": "odd", "model": "m"},
                "LOST": {"provider": "lost", "model": "m"},
            }
            common = {"api_key": "k", "max_retries": 0}
            providers = {
                name: {**common, **limits[name], "base_url": url} for name, url in urls.items()
            }
            changes = {
                "BASE_SERVER__LLMCONFIG__DEFAULT_PERSONA": "ODD",
                "BASE_SERVER__LLMCONFIG__PERSONAS": json.dumps(personas),
                "BASE_SERVER__LLMCONFIG__PROVIDERS": json.dumps(providers),
            }
            with running_server(Path(folder) / "data", **changes) as server:
                player = Client(http, server.base_url)
                await player.sign_in("asker")
                place = Place(provider, spare, player)
                # The server's first reply waits for the import of LangChain, for longer than some
                # of the limits.
                room_id = await _new_room(place, "ODD")
                await player.ok("/api/chat/message/send", room_id=room_id, content="awake?")
                yield place


@dataclass(frozen=True)
class Outcome:
    """``error_code`` 0 with ``finish_reason`` stop or length, or an error with what was said until
    then."""

    error_code: int
    text: str
    finish_reason: str = "error"


UNAVAILABLE = Outcome(1020, "")
CUT = Outcome(1020, "some ")
TIMED_OUT = Outcome(1021, "")
SILENT = Outcome(1021, "some ")

MISBEHAVIOUR: dict[str, tuple[Reply, Outcome]] = {
    "no headers": (Reply(silent=True), TIMED_OUT),
    "no first token": (Reply([], hang=True), TIMED_OUT),
    "silence in mid-stream": (Reply(["some "], hang=True), SILENT),
    "429": (Reply(status=429), UNAVAILABLE),
    "429 with Retry-After": (Reply(status=429, headers={"Retry-After": "30"}), UNAVAILABLE),
    "500": (Reply(status=500), UNAVAILABLE),
    "401": (Reply(status=401), UNAVAILABLE),
    "HTML": (Reply(raw="<html><body>busy</body></html>", content_type="text/html"), UNAVAILABLE),
    "JSON in place of a stream": (
        Reply(raw='{"choices": []}', content_type="application/json"),
        UNAVAILABLE,
    ),
    "invalid JSON after text": (Reply(["some "], cut="mid_json"), CUT),
    "connection reset": (Reply(["some "], cut="reset"), CUT),
    "end without a reason": (Reply(["some "], cut="clean"), CUT),
    "an empty reply": (Reply([]), UNAVAILABLE),
    "withheld": (Reply(["some "], finish_reason="content_filter"), CUT),
    "cut at its limit": (Reply(["some "], finish_reason="length"), Outcome(0, "some ", "length")),
    "no usage": (Reply(["some ", "text"], usage=None), Outcome(0, "some text", "stop")),
    "wrong content type": (Reply(["some"], content_type="text/html"), Outcome(0, "some", "stop")),
    "10 MB in one chunk": (Reply(["x" * 10_000_000]), Outcome(0, "x" * LONG, "length")),
    "keep-alives (cases/providers.md V2)": (
        Reply(["some ", "text"], keep_alive="id: 1\n\n: ping\n\nretry: 3000\n\nevent: ping\n\n"),
        Outcome(0, "some text", "stop"),
    ),
    "an unknown finish reason (cases/providers.md V3)": (
        Reply(["some "], finish_reason="error"),
        CUT,
    ),
    "another unknown finish reason (cases/providers.md V3)": (
        Reply(["some "], finish_reason="abort"),
        CUT,
    ),
    "a whole reply by another word (cases/providers.md V3)": (
        Reply(["some "], finish_reason="EOS"),
        Outcome(0, "some ", "stop"),
    ),
    "[DONE] without a reason (cases/providers.md V17)": (
        Reply(["some ", "text"], finish_reason=None),
        Outcome(0, "some text", "stop"),
    ),
    "no reason and no [DONE] (cases/providers.md V17)": (
        Reply(["some "], finish_reason=None, done=False),
        CUT,
    ),
    "thousands of chunks": (Reply(list("가x\r\n") * 1000), Outcome(0, "가x\r\n" * 1000, "stop")),
}


@pytest.mark.parametrize("kind", MISBEHAVIOUR)
async def test_a_misbehaving_provider_ends_in_a_reply_a_partial_or_a_typed_error(
    place: Place, kind: str
) -> None:
    reply, expected = MISBEHAVIOUR[kind]
    calls = place.provider.calls
    place.provider.script(reply)
    room_id = await _new_room(place, {TIMED_OUT: "LATE", SILENT: "SILENT"}.get(expected, "ODD"))
    answer = await place.player.post(
        "/api/chat/message/send", room_id=room_id, content="question", client_message_id="c1"
    )
    _assert_ended(answer, expected)
    assert answer["message"]["metadata"]["model"] in ("m", "m-stub")
    assert answer["message"]["metadata"]["tokens"]["total"] > 0
    assert answer["message"]["metadata"]["latency_ms"] >= 0
    if "Retry-After" in kind:
        assert answer["error"]["retry_after_s"] == 30
    again = await place.player.post(
        "/api/chat/message/send", room_id=room_id, content="question", client_message_id="c1"
    )
    _assert_ended(again, expected)
    assert place.provider.calls == calls + 1, "asked, and billed, twice"
    call = place.provider.requests[-1]
    await asyncio.wait_for(call.ended.wait(), PATIENCE_S)
    assert call.closed_by_client or not (reply.hang or reply.silent)
    await _assert_room_goes_on(place, room_id, expected.text, ai_persona="ODD")


async def test_a_provider_that_cannot_be_connected_to_is_a_typed_error(place: Place) -> None:
    room_id = await _new_room(place, "LOST")
    answer = await place.player.post("/api/chat/message/send", room_id=room_id, content="question")
    _assert_ended(answer, TIMED_OUT)
    await _assert_room_goes_on(place, room_id, "", ai_persona="ODD")


async def test_a_fallback_answers_and_the_message_says_which_model_it_was(place: Place) -> None:
    place.provider.script(Reply(silent=True))
    room_id = await _new_room(place, "SAFE")
    sent = await place.player.ok("/api/chat/message/send", room_id=room_id, content="question")
    assert (sent["message"]["content"], sent["message"]["metadata"]["model"]) == (
        "stub: question",
        "n-stub",
    )
    assert place.spare.calls == 1


async def test_model_of_alternating_roles_answers_after_every_kind_of_failure(place: Place) -> None:
    """cases/providers.md V1: failed, cut, withheld, stopped, deleted and interrupted replies,
    deleted questions, and questions that waited, in one room; the provider refuses (400) roles that
    do not alternate."""
    place.provider.refuse = refuse_unlike_roles
    try:
        room_id = await _new_room(place, "ODD")
        deleted = []
        for number, kind in enumerate(
            [
                "500",
                "cut",
                "stopped",
                "withheld",
                "delete reply",
                "delete question",
                "delete both",
                "interrupted",
                "queued",
            ]
            * 2
        ):
            deleted += await _leave_behind(place, room_id, kind, f"{kind} {number}")
            sent = await place.player.ok(
                "/api/chat/message/send", room_id=room_id, content=f"after {number}"
            )
            assert sent["message"]["content"] == f"stub: after {number}", kind
            texts = texts_of(place.provider.requests[-1].body)
            assert not set(texts) & set(deleted)
    finally:
        place.provider.refuse = lambda _: None


async def _leave_behind(place: Place, room_id: str, kind: str, content: str) -> list[str]:
    """Ask ``content`` and let it end as ``kind``; the texts that the AI must not see again."""
    player, fields = place.player, {"room_id": room_id, "content": content}
    send = "/api/chat/message/send"
    match kind:
        case "500":
            place.provider.script(Reply(status=500))
            assert (await player.post(send, **fields))["errorCode"] == 1020
        case "cut":
            place.provider.script(Reply(["half of it"], cut="clean"))
            assert (await player.post(send, **fields))["errorCode"] == 1020
        case "withheld":
            place.provider.script(Reply([], finish_reason="content_filter"))
            assert (await player.post(send, **fields))["errorCode"] == 1020
        case "stopped" | "interrupted":
            calls = place.provider.calls
            place.provider.script(Reply([], hang=True))
            sending = asyncio.create_task(player.post(send, **fields))
            while place.provider.calls == calls:
                await asyncio.sleep(0.01)
            if kind == "interrupted":
                await player.ok(
                    send, room_id=room_id, content=f"instead of {content}", on_busy="interrupt"
                )
            else:
                page = await player.ok("/api/chat/messages", room_id=room_id)
                message_id = page["messages"][-1]["message_id"]
                await player.ok("/api/chat/message/stop", room_id=room_id, message_id=message_id)
            await sending
        case "queued":
            await asyncio.gather(
                *(player.ok(send, room_id=room_id, content=f"{content}, {n}") for n in range(3))
            )
        case _:
            sent = await player.ok(send, **fields)
            asked, answered = sent["user_message"], sent["message"]
            gone = {
                "delete reply": [answered],
                "delete question": [asked],
                "delete both": [asked, answered],
            }[kind]
            for message in gone:
                await player.ok(
                    "/api/chat/message/delete", room_id=room_id, message_id=message["message_id"]
                )
            return [message["content"] for message in gone]
    return []


async def test_conversation_longer_than_the_context_goes_on_with_half_of_it(place: Place) -> None:
    """cases/providers.md V4: six messages of 3,000 characters and a context of 4,096 tokens, then
    anything."""
    room_id = await _new_room(place, "SMALL")
    for _ in range(3):
        place.provider.script(Reply(["a" * 3000]))
        await place.player.ok("/api/chat/message/send", room_id=room_id, content="q" * 3000)
    place.provider.refuse = context_of(4096)
    try:
        for text in ("next", "and next"):
            sent = await place.player.ok("/api/chat/message/send", room_id=room_id, content=text)
            assert sent["message"]["content"] == f"stub: {text}"
        place.provider.refuse = context_of(10)
        calls = place.provider.calls
        fields = {"room_id": room_id, "content": "still too long", "client_message_id": "c1"}
        for answer in [
            await place.player.post("/api/chat/message/send", **fields) for _ in range(2)
        ]:
            _assert_ended(answer, UNAVAILABLE)
            assert "shorter" in answer["error"]["message"]
            assert "new room" in answer["error"]["message"]
            assert answer["error"]["details"] == {"reason": "conversation_too_long"}
        assert place.provider.calls == calls + 2
    finally:
        place.provider.refuse = lambda _: None


async def _new_room(place: Place, persona: str) -> str:
    return str(
        (await place.player.ok("/api/chat/room/create", ai_persona=persona))["room"]["room_id"]
    )


def _assert_ended(answer: dict[str, Any], expected: Outcome) -> None:
    assert answer["errorCode"] == expected.error_code, answer.get("error")
    message = answer["message"]
    assert message["content"] == expected.text
    assert (message["metadata"]["finish_reason"], message["is_streaming"]) == (
        expected.finish_reason,
        False,
    )


async def _assert_room_goes_on(place: Place, room_id: str, text: str, **fields: str) -> None:
    page = await place.player.ok("/api/chat/messages", room_id=room_id)
    assert [message["content"] for message in page["messages"]] == ["question", text]
    assert not any(
        message["is_streaming"] or message["state"] == "COMPOSING" for message in page["messages"]
    )
    sent = await place.player.ok(
        "/api/chat/message/send", room_id=room_id, content="next", **fields
    )
    assert sent["message"]["content"] == "stub: next"

"""Whatever the AI provider does, over HTTP: a reply, a marked partial or a typed error, and the room goes on."""

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

from tests.openai_stub import OpenAIStub, Reply
from tests.server_process import Client, running_server
from tests.silent_port import silent_port
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = 100_000
"""llmConfig.max_reply_chars as shipped."""


@dataclass
class Place:
    """A server whose personas are ODD, LATE and SILENT (the same provider, with less patience for its first word or for
    the next), SAFE (LATE with a fallback) and LOST (a provider that cannot be connected to)."""

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
                "SAFE": {"provider": "late", "model": "m", "fallbacks": [{"provider": "spare", "model": "n"}]},
                "LOST": {"provider": "lost", "model": "m"},
            }
            common = {"api_key": "k", "max_retries": 0}
            providers = {name: {**common, **limits[name], "base_url": url} for name, url in urls.items()}
            changes = {
                "BASE_SERVER__LLMCONFIG__DEFAULT_PERSONA": "ODD",
                "BASE_SERVER__LLMCONFIG__PERSONAS": json.dumps(personas),
                "BASE_SERVER__LLMCONFIG__PROVIDERS": json.dumps(providers),
            }
            with running_server(Path(folder) / "data", **changes) as server:
                player = Client(http, server.base_url)
                await player.sign_in("asker")
                place = Place(provider, spare, player)
                # The server's first reply waits for the import of LangChain, for longer than some of the limits.
                room_id = await _new_room(place, "ODD")
                await player.ok("/api/chat/message/send", room_id=room_id, content="awake?")
                yield place


@dataclass(frozen=True)
class Outcome:
    """``error_code`` 0 with ``finish_reason`` stop or length, or an error with what was said until then."""

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
    "JSON in place of a stream": (Reply(raw='{"choices": []}', content_type="application/json"), UNAVAILABLE),
    "invalid JSON after text": (Reply(["some "], cut="mid_json"), CUT),
    "connection reset": (Reply(["some "], cut="reset"), CUT),
    "end without a reason": (Reply(["some "], cut="clean"), CUT),
    "an empty reply": (Reply([]), UNAVAILABLE),
    "withheld": (Reply(["some "], finish_reason="content_filter"), CUT),
    "cut at its limit": (Reply(["some "], finish_reason="length"), Outcome(0, "some ", "length")),
    "no usage": (Reply(["some ", "text"], usage=None), Outcome(0, "some text", "stop")),
    "wrong content type": (Reply(["some"], content_type="text/html"), Outcome(0, "some", "stop")),
    "10 MB in one chunk": (Reply(["x" * 10_000_000]), Outcome(0, "x" * LONG, "length")),
    "thousands of chunks": (Reply(list("가x\r\n") * 1000), Outcome(0, "가x\r\n" * 1000, "stop")),
}


@pytest.mark.parametrize("kind", MISBEHAVIOUR)
async def test_a_misbehaving_provider_ends_in_a_reply_a_partial_or_a_typed_error(place: Place, kind: str) -> None:
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
    assert (sent["message"]["content"], sent["message"]["metadata"]["model"]) == ("stub: question", "n-stub")
    assert place.spare.calls == 1


async def _new_room(place: Place, persona: str) -> str:
    return str((await place.player.ok("/api/chat/room/create", ai_persona=persona))["room"]["room_id"])


def _assert_ended(answer: dict[str, Any], expected: Outcome) -> None:
    assert answer["errorCode"] == expected.error_code, answer.get("error")
    message = answer["message"]
    assert message["content"] == expected.text
    assert (message["metadata"]["finish_reason"], message["is_streaming"]) == (expected.finish_reason, False)


async def _assert_room_goes_on(place: Place, room_id: str, text: str, **fields: str) -> None:
    page = await place.player.ok("/api/chat/messages", room_id=room_id)
    assert [message["content"] for message in page["messages"]] == ["question", text]
    assert not any(message["is_streaming"] or message["state"] == "COMPOSING" for message in page["messages"])
    sent = await place.player.ok("/api/chat/message/send", room_id=room_id, content="next", **fields)
    assert sent["message"]["content"] == "stub: next"

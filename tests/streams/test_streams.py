"""A reply over real sockets: read along, cut, resumed elsewhere, stopped, deleted; on one process
and on two."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from statistics import median

import pytest

from tests.event_client import Event
from tests.openai_stub import OpenAIStub, Reply
from tests.streams.conftest import Player, Servers
from tests.waiting import PATIENCE_S, until

# What others' servers and parsers stumbled over, beside plain words of one to four bytes a letter.
PIECES = [
    "hello ", "\r\n", "data: x\n\n", "\u2028", "\u2029\u0085", "{x} {{y}}", '{"lc":1,"id":["a"]}', "한국어 ", "🎉",
    "event: reply.done\n", "\\u0000 ", "\x0b\x0c\x1c", "e\u0301", "</script>", "%s %(x)s ", "\ufeff", "id: 7\r",
]  # fmt: skip
CHUNKS = [f"{n}{piece}" for n, piece in zip(range(200), itertools.cycle(PIECES), strict=False)]
TEXT = "".join(CHUNKS)


async def take(events: AsyncIterator[Event]) -> tuple[str, list[Event]]:
    """The text of a stream to its end, and its events; ids never fall and say how long the text
    is."""
    text = ""
    seen: list[Event] = []
    async for event in events:
        assert not seen or event.id >= seen[-1].id, "an id fell"
        assert not (seen and seen[-1].is_last), "something came after the last event"
        seen.append(event)
        text += event.data.get("text", "")
    assert sum(event.is_last for event in seen) == 1, seen[-3:]
    return text, seen


def until_byte(offset: int) -> str:
    return TEXT.encode()[:offset].decode()


async def test_reply_resumed_elsewhere_after_every_chunk_has_no_gap(
    servers: Servers, player: Player, provider: OpenAIStub
) -> None:
    """A reply cut after every chunk and resumed elsewhere has no gap and no repeat."""
    provider.script(Reply(CHUNKS, delay_s=0.008))
    where = itertools.cycle([servers.elsewhere, servers.here])
    got, offset, cuts, ids = "", 0, 0, [0]
    async with player.stream(TEXT) as events:
        first = await anext(events)
        assert (first.name, first.id) == ("message.accepted", 0)
        reply_id = first.data["message_id"]
        assert first.data["user_message"]["content"] == TEXT
        piece = await anext(events)
        got, offset = piece.data["text"], piece.id
    last = None
    while last is None:
        async with player.resume(reply_id, offset, next(where)) as events:
            event = await anext(events)
            if event.is_last:
                last = event
                break
            assert event.name == "reply.delta"
            got, offset = got + event.data["text"], event.id
            ids.append(offset)
            assert got == until_byte(offset)
        cuts += 1
    assert cuts > 5, "it was hardly cut"
    assert got == TEXT
    assert (last.name, last.id) == ("reply.done", len(TEXT.encode()) + 1)
    assert last.data["message"]["content"] == TEXT
    (call,) = provider.requests
    assert call.messages[-1]["content"] == TEXT, "it reached the provider as it was typed"
    # After the end it is the same: from the ids that were given, and from the first.
    for given in (*ids[:: len(ids) // 8], len(TEXT.encode()), last.id):
        async with player.resume(reply_id, given, next(where)) as events:
            rest, seen = await take(events)
        assert until_byte(given) + rest == TEXT
        assert seen[-1].data["message"] | {"state": ""} == last.data["message"] | {"state": ""}
    assert [message["content"] for message in await player.messages(next(where))] == [TEXT, TEXT]


async def test_readers_anywhere_and_at_any_time_see_the_same(
    servers: Servers, player: Player, provider: OpenAIStub
) -> None:
    provider.script(Reply(CHUNKS[:60], delay_s=0.01))

    async def read(base_url: str, reply_id: str) -> str:
        async with player.resume(reply_id, None, base_url) as events:
            return (await take(events))[0]

    async with player.stream("go") as events:
        reply_id = (await anext(events)).data["message_id"]
        early = [
            asyncio.create_task(read(base_url, reply_id))
            for base_url in (servers.here, servers.elsewhere)
        ]
        async for event in events:
            if event.id > 100:
                break
        late = asyncio.create_task(read(servers.elsewhere, reply_id))
        while not event.is_last:
            event = await anext(events)
    assert set(await asyncio.gather(*early, late)) == {"".join(CHUNKS[:60])}


async def test_a_repeated_stream_is_the_same_reply_and_not_a_second_call(
    servers: Servers, player: Player, provider: OpenAIStub
) -> None:
    provider.script(Reply(CHUNKS[:30], delay_s=0.01))

    async def read(base_url: str) -> tuple[str, str, str]:
        async with player.stream("once", base_url, client_message_id="same") as events:
            text, seen = await take(events)
        return text, seen[0].data["user_message"]["message_id"], seen[0].data["message_id"]

    wheres = itertools.cycle([servers.here, servers.elsewhere])
    sends = [player.at(next(wheres)).ok("/api/chat/message/send", room_id=player.room_id, content="once",
                                        client_message_id="same") for _ in range(44)]  # fmt: skip
    results, bodies = await asyncio.gather(
        asyncio.gather(*(read(next(wheres)) for _ in range(6))), asyncio.gather(*sends)
    )
    results.append(await read(next(wheres)))
    seen = {(body["message"]["content"], body["user_message"]["message_id"], body["message"]["message_id"])
            for body in bodies}  # fmt: skip
    assert set(results) == seen
    assert len(seen) == 1
    assert provider.calls == 1


async def test_a_client_gone_for_good_gets_its_reply_whole_in_the_history(
    servers: Servers, player: Player, provider: OpenAIStub
) -> None:
    provider.script(Reply(CHUNKS[:50], delay_s=0.01))
    async with player.stream("and gone") as events:
        assert (await anext(events)).name == "message.accepted"

    async def whole() -> bool:
        return not (await player.messages(servers.elsewhere))[1]["is_streaming"]

    await until(whole)
    reply = (await player.messages(servers.elsewhere))[1]
    assert reply["content"] == "".join(CHUNKS[:50])
    assert reply["metadata"]["finish_reason"] == "stop"
    assert (provider.calls, provider.requests[0].finished) == (1, True)


async def test_stop_from_anywhere_ends_a_reply_also_while_model_is_silent(
    servers: Servers, player: Player, provider: OpenAIStub
) -> None:
    """A stop from anywhere ends it at once also while the model is silent."""
    provider.script(Reply(["some ", "words "], hang=True), Reply(["next"]))
    async with player.stream("and then?") as events:
        reply_id = (await anext(events)).data["message_id"]
        await until(lambda: provider.requests and provider.requests[0].tokens_sent == 2)
        seen = [await anext(events)]
        while seen[-1].id < len("some words "):
            seen.append(await anext(events))
        stop = {"room_id": player.room_id, "message_id": reply_id}
        answer = await player.at(servers.elsewhere).ok("/api/chat/message/stop", **stop)
        last = await anext(events)
    assert (last.name, last.id) == ("reply.stopped", len("some words ") + 1)
    assert last.data["message"]["content"] == "some words "
    metadata = answer["message"]["metadata"]
    assert (metadata["finish_reason"], metadata["model"]) == ("stopped", "stub")
    assert metadata["tokens"]["completion"] > 0
    assert metadata["latency_ms"] >= 0
    await until(
        lambda: provider.requests[0].closed_by_client, what="the provider's connection is closed"
    )
    for base_url in (servers.here, servers.elsewhere):
        again = await player.at(base_url).ok("/api/chat/message/stop", **stop)
        assert again["message"] | {"state": ""} == answer["message"] | {"state": ""}
    sent = await player.client.ok("/api/chat/message/send", room_id=player.room_id, content="go on")
    assert sent["message"]["content"] == "next"
    assert [call.messages[-1]["content"] for call in provider.requests] == ["and then?", "go on"]
    assert "some words " in str(provider.requests[1].messages), (
        "what was said before the stop is history"
    )


@pytest.mark.parametrize("silent", [False, True], ids=["speaking", "silent"])
async def test_nothing_is_said_or_paid_for_soon_after_a_stop(
    servers: Servers, player: Player, provider: OpenAIStub, silent: bool
) -> None:
    """300 ms, or, where the machine is slow or does other things too, what a few requests take
    there."""
    ended_s, closed_s, request_s = [], [], []
    for n in range(11):
        asked_s = time.monotonic()
        await player.client.ok("/api/chat/rooms")
        request_s.append(time.monotonic() - asked_s)
        provider.script(Reply(["some "], hang=True) if silent else Reply(CHUNKS * 20, delay_s=0.01))
        async with player.stream(f"question {n}") as events:
            reply_id = (await anext(events)).data["message_id"]
            await anext(events)
            stop = {"room_id": player.room_id, "message_id": reply_id}
            asked_s = time.monotonic()
            stopping = asyncio.create_task(
                player.at(servers.elsewhere).ok("/api/chat/message/stop", **stop)
            )
            _, seen = await take(events)
            ended_s.append(time.monotonic() - asked_s)
            assert seen[-1].name == "reply.stopped"
            await provider.requests[n].ended.wait()
            closed_s.append(time.monotonic() - asked_s)
            assert provider.requests[n].closed_by_client
            await stopping
    for what, took_s in (("the last delta", ended_s), ("the provider's connection", closed_s)):
        assert median(took_s) < max(0.3, 10 * median(request_s)), (
            what,
            sorted(took_s),
            sorted(request_s),
        )


async def test_a_reply_that_waits_can_be_stopped_too(
    servers: Servers, player: Player, provider: OpenAIStub
) -> None:
    provider.script(Reply(["first "], hang=True))
    async with player.stream("one") as first, player.stream("two") as second:
        first_id, second_id = (
            (await anext(first)).data["message_id"],
            (await anext(second)).data["message_id"],
        )
        await until(lambda: provider.calls == 1)
        stop = {"room_id": player.room_id, "message_id": second_id}
        stopped = await player.at(servers.elsewhere).ok("/api/chat/message/stop", **stop)
        text, seen = await take(second)
        assert (text, seen[-1].name, seen[-1].id) == ("", "reply.stopped", 1)
        assert stopped["message"]["metadata"]["finish_reason"] == "stopped"
        await player.client.ok(
            "/api/chat/message/stop", room_id=player.room_id, message_id=first_id
        )
        assert (await take(first))[1][-1].name == "reply.stopped"
    assert provider.calls == 1


async def test_an_interrupt_keeps_what_was_said_and_answers_the_new_question(
    servers: Servers, player: Player, provider: OpenAIStub
) -> None:
    provider.script(Reply(["half of "], hang=True), Reply(["the answer"]))
    async with player.stream("one") as events:
        await anext(events)
        assert (await anext(events)).data["text"] == "half of "
        async with player.stream("two", servers.elsewhere, on_busy="interrupt") as others:
            assert (await take(others))[0] == "the answer"
        _, seen = await take(events)
    assert (seen[-1].name, seen[-1].data["message"]["content"]) == ("reply.stopped", "half of ")
    await until(lambda: provider.requests[0].closed_by_client)
    contents = [message["content"] for message in await player.messages(servers.elsewhere)]
    assert contents == ["one", "half of ", "two", "the answer"]
    assert [message["content"] for message in provider.requests[1].messages][-3:] == [
        "one",
        "half of ",
        "two",
    ]


@pytest.mark.parametrize("what", ["message", "room"])
async def test_deleting_it_ends_its_streams_with_one_event(
    servers: Servers, player: Player, provider: OpenAIStub, what: str
) -> None:
    provider.script(Reply(["so far "], hang=True))
    async with player.stream("one") as events:
        reply_id = (await anext(events)).data["message_id"]
        await anext(events)
        async with player.resume(reply_id, 0, servers.elsewhere) as others:
            await anext(others)
            fields = {"room_id": player.room_id} | (
                {"message_id": reply_id} if what == "message" else {}
            )
            await player.at(servers.elsewhere).ok(f"/api/chat/{what}/delete", **fields)
            ends = [(await take(events))[1], (await take(others))[1]]
    for seen in ends:
        assert [event.name for event in seen] == ["reply.error"]
        assert seen[0].data["error"]["code"] in ("MESSAGE_NOT_FOUND", "ROOM_NOT_FOUND")
        assert seen[0].data["message"] is None
    await until(lambda: provider.requests[0].closed_by_client)


async def test_a_logout_ends_the_sessions_streams_and_not_the_reply(
    servers: Servers, player: Player, provider: OpenAIStub
) -> None:
    provider.script(Reply(["so far "], hang=True))
    async with player.stream("one") as events:
        reply_id = (await anext(events)).data["message_id"]
        await anext(events)
        async with player.resume(reply_id, 0, servers.elsewhere) as others:
            await anext(others)
            await player.at(servers.elsewhere).ok("/api/account/logout")
            servers.token = None
            async with asyncio.timeout(PATIENCE_S):
                left = [[event async for event in stream] for stream in (events, others)]
    assert left == [[], []], "it is closed without a word: who comes back is asked to log in"
    answer = await player.client.post(
        "/api/chat/message/resume", room_id=player.room_id, message_id=reply_id
    )
    assert answer["errorCode"] == 10000
    assert not provider.requests[0].closed_by_client


async def test_a_failing_provider_is_told_before_or_after_the_first_words(
    servers: Servers, player: Player, provider: OpenAIStub
) -> None:
    provider.script(Reply(status=500), Reply(["half "], cut="reset"))
    for content, said in (("one", ""), ("two", "half ")):
        async with player.stream(content) as events:
            text, seen = await take(events)
        assert text == said
        last = seen[-1]
        assert (last.name, last.data["error"]["code"], last.id) == (
            "reply.error",
            "AI_UNAVAILABLE",
            len(said) + 1,
        )
        assert last.data["message"]["metadata"]["finish_reason"] == "error"
        async with player.resume(
            last.data["message"]["message_id"], None, servers.elsewhere
        ) as events:
            again, ends = await take(events)
        assert (again, ends[-1].name, ends[-1].id) == (said, "reply.error", last.id)


async def test_what_cannot_be_followed_is_an_envelope_with_its_status(
    servers: Servers, player: Player, provider: OpenAIStub
) -> None:
    sent = await player.client.ok("/api/chat/message/send", room_id=player.room_id, content="é")
    reply_id, question_id = sent["message"]["message_id"], sent["user_message"]["message_id"]
    resume, stream = "/api/chat/message/resume", "/api/chat/message/stream"
    room = {"room_id": player.room_id}
    cases = [
        (resume, room | {"message_id": reply_id, "last_event_id": 1000}, 400, 1002),
        (
            resume,
            room | {"message_id": reply_id, "last_event_id": 7},
            400,
            1002,
        ),  # inside the é of "stub: é"
        (resume, room | {"message_id": reply_id, "last_event_id": "nonsense"}, 400, 1002),
        (resume, room | {"message_id": reply_id, "last_event_id": -1}, 400, 1002),
        (resume, room | {"message_id": question_id}, 409, 1008),
        (resume, room | {"message_id": "unknown"}, 404, 1005),
        (resume, {"room_id": "unknown", "message_id": reply_id}, 404, 1004),
        ("/api/chat/message/stop", room | {"message_id": question_id}, 409, 1008),
        ("/api/chat/message/stop", room | {"message_id": "unknown"}, 404, 1005),
        (stream, {"room_id": "unknown", "content": "x"}, 404, 1004),
        (stream, room | {"content": ""}, 400, 1002),
    ]
    for path, body, status, code in cases:
        headers = {"Authorization": f"Bearer {player.client.token}"}
        async with player.http.post(servers.elsewhere + path, json=body, headers=headers) as answer:
            envelope = await answer.json()
        assert (answer.status, envelope["errorCode"]) == (status, code), (path, body, envelope)
        assert answer.content_type == "application/json"


async def test_last_event_id_in_header_and_protocol_id_in_path(
    servers: Servers, player: Player, provider: OpenAIStub
) -> None:
    """The place to go on may stand in the header and the id of the protocol in the path."""
    sent = await player.client.ok("/api/chat/message/send", room_id=player.room_id, content="hello")
    body = {"room_id": player.room_id, "message_id": sent["message"]["message_id"]}
    headers = {"Authorization": f"Bearer {player.client.token}", "Last-Event-ID": "6"}
    for path, fields, rest in (
        ("/api/chat/message/resume", {}, "hello"),
        ("/api/protocol/6013", {}, "hello"),
        ("/api/protocol/6013", {"last_event_id": "0"}, "stub: hello"),
    ):
        async with player.http.post(
            servers.here + path, json=body | fields, headers=headers
        ) as answer:
            text = await answer.text()
        assert f'"text":"{rest}"' in text, (path, fields, text)
        assert text.count("event: reply.done") == 1

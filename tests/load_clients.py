"""Players that chat while things are broken under them, and what must be true of their chat
afterwards.

Every player works on its own account, one request after the other, and writes down what was
acknowledged, what was refused for certain and what has an unknown outcome; what was not answered it
repeats with the same ids. Every text carries a nonce that begins with its player's name, so a text
that is missing, doubled, out of order, revived or somebody else's is found, wherever it is read.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.server_process import Client
from tests.waiting import PATIENCE_S

NONCE = re.compile(r"(p\d+x[0-9a-f]{6})-[0-9a-f]{32}")
_NOTHING_STORED, _SERVICE_DOWN, _TOO_MANY, _NO_SESSION = 1001, 5003, 1010, 10000
_AI_FAILED = (1020, 1021)
_GONE = (1004, 1005)


class Unanswered(Exception):
    """No answer, or one that says "try again": the player repeats the request."""


class Findings:
    """Broken promises by kind, and the first sentences about each."""

    KINDS = (
        "lost",
        "duplicated",
        "reordered",
        "revived",
        "foreign",
        "unasked",
        "empty",
        "stuck",
        "unexpected",
    )
    """unasked: a stored question that the provider never saw. empty: a success without its text.
    stuck: a backlog that does not drain, a dead letter that cannot be replayed, a room that takes
    no more sends."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.details: list[str] = []

    def add(self, kind: str, what: str) -> None:
        assert kind in self.KINDS
        self.counts[kind] += 1
        self.details.append(f"{kind}: {what}")

    def expect(self, condition: object, kind: str, what: str) -> None:
        if not condition:
            self.add(kind, what)

    def clear(self) -> None:
        self.counts.clear()
        self.details.clear()

    def raise_if_any(self) -> None:
        assert not self.details, "\n".join(self.details[:20])


@dataclass(frozen=True)
class Known:
    """What a player knew at one moment: of each room how many texts were acknowledged, and its
    titles; deletes."""

    sent: dict[str, int]
    titles: dict[str, set[str]]
    deleted: set[str]
    deleted_rooms: set[str]


@dataclass
class RoomRecord:
    """What a player knows of a room: texts acknowledged in order, texts of unknown outcome, titles
    and deletes."""

    room_id: str
    sent: list[str] = field(default_factory=list)
    maybe_sent: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    maybe_deleted: set[str] = field(default_factory=set)
    titles: set[str] = field(default_factory=set)
    given_titles: list[str] = field(default_factory=list)
    """All of them, in order: of two that a store lost the first may have come to the other one."""
    ids: dict[str, str] = field(default_factory=dict)
    forgiven: set[str] = field(default_factory=set)
    """Texts that a store may have lost, or their replies alone."""
    has_gaps: bool = False
    """A database lost some of its rows: their numbers are not given again."""

    def forgive(self, before: Known, keep: int) -> None:
        """See :meth:`Player.forgive_since`."""
        first = before.sent[self.room_id]
        last = max(first, len(self.sent) - keep)
        forgiven = set(self.sent[first:last])
        self.forgiven |= forgiven
        self.maybe_sent |= forgiven
        self.sent = self.sent[:first] + self.sent[last:]
        self.deleted &= before.deleted | set(self.sent[first:])
        self.titles |= self.possible_titles(before)

    def possible_titles(self, before: Known) -> set[str]:
        """Those that it may have when a store came back as it was at ``before``."""
        return before.titles.get(self.room_id, set()) | set(self.given_titles)


class Player:
    """``url`` gives the address for each request, a server of any; ``findings`` takes what is
    wrong."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: Callable[[], str],
        *,
        number: int,
        seed: int,
        findings: Findings,
        persona: str = "DEMO",
    ) -> None:
        self.name = f"p{number}x{uuid.uuid4().hex[:6]}"
        self.client = Client(http, "")
        self.findings = findings
        self.rooms: dict[str, RoomRecord] = {}
        self.maybe_rooms: set[str] = set()
        self.deleted_rooms: set[str] = set()
        self._deleted_records: dict[str, RoomRecord] = {}
        self.maybe_deleted_rooms: set[str] = set()
        self.replies: dict[str, dict[str, Any]] = {}
        """By question: the AI's message as it was answered."""
        self.acknowledged = 0
        self.last_success_s = 0.0
        self.history: list[str] = []
        """One line a request, to find out what happened."""
        self._url = url
        self._pinned: str | None = None
        self._random = random.Random(seed)
        self._persona = persona
        self._pending: Callable[[], Awaitable[None]] | None = None
        self._sends: Callable[[], Awaitable[None]] | None = None

    def pin(self, url: str | None) -> None:
        """Ask this server only, until ``pin(None)``."""
        self._pinned = url

    async def sign_in(self) -> None:
        """For as long as a busy machine needs."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            self.client.base_url = self._pinned or self._url()
            try:
                return await self.client.sign_in(self.name)
            except (aiohttp.ClientError, TimeoutError, AssertionError):
                if time.monotonic() > deadline_s:
                    raise
                await asyncio.sleep(0.2)

    async def play(self, stop: asyncio.Event) -> None:
        """Act until ``stop``; what is not answered is repeated, also when played again."""
        while not stop.is_set():
            try:
                await (self._pending or self._choose())()
            except Unanswered:
                if (
                    self._pending is not None
                    and self._pending is self._sends
                    and self._random.random() < 0.02
                ):
                    self.give_up()
                await asyncio.sleep(0.05)

    def give_up(self) -> None:
        """Never repeat what was not answered: a question that is stored all the same must be asked
        nevertheless."""
        self._pending = None

    def known(self) -> Known:
        """What :meth:`forgive_since` goes by."""
        records = self.rooms.values()
        return Known(
            {record.room_id: len(record.sent) for record in records},
            {record.room_id: set(record.titles) for record in records},
            {text for record in records for text in record.deleted},
            set(self.deleted_rooms),
        )

    def forgive_since(self, before: Known, *, keep: int = 0) -> None:
        """A store came back as it was at ``before``: what was acknowledged since may be gone, or
        not, but for the last ``keep`` texts of each room, which another store has. With ``keep``
        rooms and their titles are kept, too."""
        if not keep:
            for room_id in self.rooms.keys() - before.sent.keys():
                self.maybe_rooms |= self.rooms.pop(room_id).possible_titles(before)
                self.maybe_deleted_rooms.add(room_id)
            # A room whose delete is lost is there again, as it was.
            for room_id in (
                self.deleted_rooms - before.deleted_rooms
            ) & self._deleted_records.keys():
                self.maybe_rooms |= self._deleted_records[room_id].possible_titles(before)
            self.deleted_rooms &= before.deleted_rooms
        for room_id, record in self.rooms.items():
            before.sent.setdefault(room_id, 0)
            before.titles.setdefault(room_id, set())
            record.forgive(before, keep)

    async def act(self, deed: Callable[[], Awaitable[None]] | None = None) -> None:
        """Do it until it is answered; without ``deed`` what was not answered before."""
        while (doing := deed or self._pending) is not None:
            deed = None
            try:
                await doing()
            except Unanswered:
                deed = doing
                await asyncio.sleep(0.05)

    def _choose(self) -> Callable[[], Awaitable[None]]:
        live = list(self.rooms)
        roll = self._random.random()
        if not live or (roll < 0.1 and len(live) < 4):
            return self.creating()
        room_id = self._random.choice(live)
        if roll < 0.7:
            return self.sending(room_id)
        if roll < 0.77:
            return self.renaming(room_id)
        if roll < 0.87:
            return self.deleting_message(room_id)
        if roll < 0.9 and len(live) > 1:
            return self.deleting_room(room_id)
        return lambda: self.check_room(self.rooms[room_id])

    def nonce(self) -> str:
        return f"{self.name}-{uuid.uuid4().hex}"

    def creating(self) -> Callable[[], Awaitable[None]]:
        title, request_id = self.nonce(), str(uuid.uuid4())
        self.maybe_rooms.add(title)

        async def act() -> None:
            self._pending = act
            fields = {"ai_persona": self._persona, "title": title, "client_request_id": request_id}
            answer = await self._post("/api/chat/room/create", **fields)
            self._pending = None
            if self._succeeded("create", answer):
                self.maybe_rooms.discard(title)
                room_id = answer["room"]["room_id"]
                self.findings.expect(
                    room_id not in self.rooms, "duplicated", f"{self.name}: room {room_id}"
                )
                self.rooms[room_id] = RoomRecord(room_id, titles={title}, given_titles=[title])

        return act

    def sending(
        self, room_id: str, text: str = "", client_id: str = ""
    ) -> Callable[[], Awaitable[None]]:
        """A send that can be repeated; with a new nonce unless ``text`` is given."""
        text = text or f"{self.nonce()} 한글 🎲"
        client_id = client_id or (str(uuid.uuid4()) if self._random.random() < 0.5 else uuid7())
        record = self.rooms[room_id]
        tries = 0

        async def act() -> None:
            nonlocal tries
            self._pending = self._sends = act
            record.maybe_sent.add(text)
            tries += 1
            answer = await self._post(
                "/api/chat/message/send", room_id=room_id, content=text, client_message_id=client_id
            )
            if answer["errorCode"] == _NOTHING_STORED:
                if tries == 1 and self._random.random() < 0.3:
                    # Told that nothing was stored, and gives up: it must never be seen.
                    self._pending = None
                    record.maybe_sent.discard(text)
                    record.refused.add(text)
                    return
                raise Unanswered
            self._pending = None
            question = answer.get("user_message")
            if question is None:
                # A room that was perhaps deleted; anything else is a finding.
                busy = answer["errorCode"] == 1006
                if not busy and not (
                    answer["errorCode"] in _GONE and room_id in self.maybe_deleted_rooms
                ):
                    self._succeeded("send", answer)
                return
            if answer["errorCode"] not in _AI_FAILED:
                self._succeeded("send", answer)
                self._check_reply(answer["message"])
            self.findings.expect(
                question["content"] == text, "foreign", f"{self.name}: {question['content']!r}"
            )
            record.maybe_sent.discard(text)
            record.sent.append(text)
            record.ids[text] = question["message_id"]
            self.replies[text] = answer.get("message", {})

        return act

    def _check_reply(self, reply: dict[str, Any]) -> None:
        """A success has a text, unless the reply was cut short; if its question was asked at all is
        seen elsewhere."""
        whole = reply["metadata"].get("finish_reason") not in ("interrupted", "stopped")
        self.findings.expect(
            reply["content"] or not whole, "empty", f"{self.name}: a send answered 0 with {reply}"
        )

    def renaming(self, room_id: str) -> Callable[[], Awaitable[None]]:
        title, record = self.nonce(), self.rooms[room_id]
        tries = 0

        async def act() -> None:
            nonlocal tries
            self._pending = act
            tries += 1
            record.titles.add(title)
            record.given_titles.append(title)
            answer = await self._post("/api/chat/room/update", room_id=room_id, new_title=title)
            self._pending = None
            # An attempt that was not answered may still be on its way and come after a later one.
            if (
                self._succeeded("rename", answer, gone=room_id in self.maybe_deleted_rooms)
                and tries == 1
            ):
                record.titles = {title}

        return act

    def deleting_message(self, room_id: str) -> Callable[[], Awaitable[None]]:
        record = self.rooms[room_id]
        candidates = [text for text in record.sent if text not in record.deleted]
        if not candidates:
            return self.sending(room_id)
        text = self._random.choice(candidates)

        async def act() -> None:
            self._pending = act
            record.maybe_deleted.add(text)
            answer = await self._post(
                "/api/chat/message/delete", room_id=room_id, message_id=record.ids[text]
            )
            self._pending = None
            gone = room_id in self.maybe_deleted_rooms or text not in record.sent
            if self._succeeded("delete message", answer, gone=gone):
                record.deleted.add(text)

        return act

    def deleting_room(self, room_id: str) -> Callable[[], Awaitable[None]]:
        async def act() -> None:
            self._pending = act
            self.maybe_deleted_rooms.add(room_id)
            answer = await self._post("/api/chat/room/delete", room_id=room_id)
            self._pending = None
            if self._succeeded("delete room", answer):
                self.deleted_rooms.add(room_id)
                if (record := self.rooms.pop(room_id, None)) is not None:
                    self._deleted_records[room_id] = record

        return act

    def _succeeded(self, what: str, answer: dict[str, Any], *, gone: bool = False) -> bool:
        if answer["errorCode"] == 0:
            self.acknowledged += 1
            return True
        self.findings.expect(
            gone and answer["errorCode"] in _GONE, "unexpected", f"{self.name}: {what}: {answer}"
        )
        return False

    async def _post(self, path: str, **fields: Any) -> dict[str, Any]:
        """The answer, with everything in it looked at for others' nonces; :class:`Unanswered` when
        to be repeated."""
        self.client.base_url = self._pinned or self._url()
        said = f"{time.time():.3f} {self.client.base_url} {path} {fields}"
        try:
            answer = await self.client.post(path, **fields)
        except (aiohttp.ClientError, TimeoutError) as error:
            self.history.append(f"{said} -> {type(error).__name__}")
            raise Unanswered from error
        code = answer["errorCode"]
        seen = set(NONCE.findall(str(answer)))
        self.history.append(f"{said} -> {code} {answer.get('error') or ''}")
        self.findings.expect(seen <= {self.name}, "foreign", f"{self.name} saw {seen}")
        if code == _NO_SESSION:
            # A Redis that came back empty has forgotten the sessions.
            try:
                await self.client.sign_in(self.name)
            except (aiohttp.ClientError, TimeoutError, AssertionError) as error:
                raise Unanswered from error
            raise Unanswered
        if code == _TOO_MANY:
            await asyncio.sleep(min(1.0, answer["error"].get("retry_after_s") or 0.0))
        if code in (_SERVICE_DOWN, _TOO_MANY):
            raise Unanswered
        if code != _NOTHING_STORED:
            self.last_success_s = time.monotonic()
        return answer

    async def check(self, *, ended: bool = False) -> None:
        """Everything acknowledged is there, once, in order; nothing else but what has an unknown
        outcome.

        ``ended``: no reply may be running any more. Raises :class:`Unanswered`."""
        rooms: list[dict[str, Any]] = []
        while True:
            page = await self._post("/api/chat/rooms", page=len(rooms) // 100 + 1, limit=100)
            rooms += page["rooms"]
            if not page["has_more"]:
                break
        listed = {room["room_id"]: room for room in rooms}
        self.findings.expect(
            len(listed) == len(rooms), "duplicated", f"{self.name}: a room is listed twice"
        )
        self.findings.expect(
            not self.deleted_rooms & listed.keys(), "revived", f"{self.name}: a deleted room"
        )
        for room_id in self.maybe_deleted_rooms - self.deleted_rooms - listed.keys():
            self.deleted_rooms.add(room_id)
            self.rooms.pop(room_id, None)
        missing = self.rooms.keys() - listed.keys()
        self.findings.expect(not missing, "lost", f"{self.name}: rooms {missing}")
        titles = [
            listed[room_id]["title"]
            for room_id in listed.keys() - self.rooms.keys() - self.deleted_rooms
        ]
        self.findings.expect(
            set(titles) <= self.maybe_rooms, "unexpected", f"{self.name}: rooms that nobody made"
        )
        self.findings.expect(
            len(titles) == len(set(titles)), "duplicated", f"{self.name}: rooms {titles}"
        )
        for room_id in self.rooms.keys() & listed.keys():
            record, title = self.rooms[room_id], listed[room_id]["title"]
            self.findings.expect(
                title in record.titles, "lost", f"{self.name}: title {title} is not {record.titles}"
            )
            await self.check_room(record, ended=ended)

    async def check_room(self, record: RoomRecord, *, ended: bool = False) -> None:
        """Read a room, whole, and compare it with what is known of it."""
        messages: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            page = await self._post(
                "/api/chat/messages", room_id=record.room_id, limit=100, **cursor
            )
            if page["errorCode"] in _GONE and record.room_id in self.maybe_deleted_rooms:
                return
            if page["errorCode"] != 0:
                self._succeeded("list", page)
                return
            if page.get("stale"):
                return
            messages[:0] = page["messages"]
            if not page["has_more"]:
                break
            cursor = {"cursor": page["next_cursor"]}
        where = f"{self.name}, room {record.room_id}"
        running = [message for message in messages if message["is_streaming"]]
        self.findings.expect(
            not (ended and running), "unexpected", f"{where}: replies without an end: {running}"
        )
        check_messages(where, record, messages, self.findings)


def check_messages(
    where: str, record: RoomRecord, messages: list[dict[str, Any]], findings: Findings
) -> None:
    """``messages`` (seq, sender_type, content, message_id, parent_message_id), visible ones in
    order."""
    seqs = [message["seq"] for message in messages]
    findings.expect(seqs == sorted(set(seqs)), "reordered", f"{where}: {seqs}")
    texts = [message["content"] for message in messages if message["sender_type"] == "USER"]
    twice = [text for text, times in Counter(texts).items() if times > 1]
    findings.expect(not twice, "duplicated", f"{where}: {twice}")
    revived = record.deleted & set(texts)
    findings.expect(not revived, "revived", f"{where}: {revived}")
    expected = [text for text in record.sent if text not in record.deleted]
    lost = set(expected) - set(texts) - record.maybe_deleted
    findings.expect(not lost, "lost", f"{where}: {lost}")
    there = [text for text in texts if text in record.sent]
    findings.expect(
        there == [text for text in expected if text in there], "reordered", f"{where}: {there}"
    )
    strange = set(texts) - set(record.sent) - record.maybe_sent
    findings.expect(
        not strange, "unexpected", f"{where}: refused, or never sent, yet there: {strange}"
    )
    seq_of = {message["message_id"]: message["seq"] for message in messages}
    for message in messages:
        if (
            message["sender_type"] == "AI"
            and (question := seq_of.get(message["parent_message_id"])) is not None
        ):
            findings.expect(
                message["seq"] == question + 1,
                "reordered",
                f"{where}: reply {message['message_id']}",
            )


def uuid7() -> str:
    """A time-ordered id, as clients should send (RFC 9562)."""
    head = int(time.time() * 1000).to_bytes(6, "big")
    tail = bytearray(os.urandom(10))
    tail[0], tail[2] = tail[0] & 0x0F | 0x70, tail[2] & 0x3F | 0x80
    return str(uuid.UUID(bytes=head + bytes(tail)))

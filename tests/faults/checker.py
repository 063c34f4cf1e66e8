"""What must be true when the fault is over: over HTTP from every server, in MySQL, in Redis, at the
provider.

Beside what was acknowledged: every question that is stored was asked, once; every backlog drains;
every dead letter can be replayed; every room takes a new question and gets all of its reply.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from tests.faults.harness import FaultServer, ServerHarness
from tests.faults.provider import full_reply, is_beginning_of_reply, marker_of
from tests.load_clients import NONCE, Player, RoomRecord, Unanswered, check_messages
from tests.waiting import PATIENCE_S

_SEND_S = PATIENCE_S
_QUESTIONS_AT_MOST = 3
"""Until a room has a whole reply. Two may fail, and their ends say so: the first call of a server's
HTTP client may go out on a connection that the provider closed in the fault (`error`: what was sent
may have been read, so it is not sent again), and on a slow machine a server may stand still for
longer than its lease of 2 s (`interrupted`)."""


async def check_everything(harness: ServerHarness, load_clients: list[Player]) -> None:
    """Settle, use every room once more, then compare; all that is wrong goes to
    ``harness.findings``."""
    load_clients = [*load_clients, *harness.guests]
    if not await _drained(harness):
        return
    await _replay_letters(harness)
    await asyncio.gather(*(_use_every_room(harness, player) for player in load_clients))
    if not await _drained(harness):
        return
    for server in harness.servers:
        await asyncio.gather(*(_read_through(server, player, harness) for player in load_clients))
    await harness.settled()
    for player in load_clients:
        _check_rows(harness, player)
    harness.provider.check(harness.findings)
    for server in harness.servers:
        server.cut_off = 0


async def _drained(harness: ServerHarness) -> bool:
    try:
        await harness.settled()
    except AssertionError:
        waiting = f"{harness.waiting_events()} events, {harness.open_turns()} open replies"
        harness.findings.add("stuck", f"after the fault these never went away: {waiting}")
        return False
    return True


async def _replay_letters(harness: ServerHarness) -> None:
    """Nothing that these faults do makes an event unacceptable; what is there all the same must go
    back by a replay."""
    letters = harness.dead_letters()
    for letter in letters:
        harness.findings.add("stuck", f"a dead letter: {letter}")
    if letters:
        await harness.manage("dlq", "replay", "--all")
        if await _drained(harness) and (left := harness.dead_letters()):
            harness.findings.add(
                "stuck", f"{len(left)} dead letters cannot be replayed, the first: {left[0]}"
            )


async def _use_every_room(harness: ServerHarness, player: Player) -> None:
    """What was not answered is repeated; then each room takes a question, and its reply is
    whole."""
    try:
        async with asyncio.timeout(_SEND_S):
            await player.act()
            for room_id in player.rooms.keys() - player.maybe_deleted_rooms:
                reply: dict[str, Any] = {}
                for _ in range(_QUESTIONS_AT_MOST):
                    text = player.nonce()
                    await player.act(player.sending(room_id, text))
                    reply = player.replies.get(text, {})
                    if reply.get("content") == full_reply(text):
                        break
                else:
                    harness.findings.add(
                        "stuck", f"{player.name}: room {room_id} answered only {reply}"
                    )
    except TimeoutError:
        last = player.history[-1] if player.history else "nothing"
        harness.findings.add(
            "stuck", f"{player.name}: a room takes no question for {_SEND_S:g} s: {last}"
        )


async def _read_through(server: FaultServer, player: Player, harness: ServerHarness) -> None:
    player.pin(server.process.base_url)
    try:
        give_up_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                await player.check(ended=True)
                return
            except Unanswered:
                # A connection of before the fault; a new session after a Redis that came back
                # empty.
                await asyncio.sleep(0.2)
                if time.monotonic() > give_up_s:
                    harness.findings.add(
                        "unexpected",
                        f"{player.name}: no answer when all is fixed: {player.history[-1]}",
                    )
                    return
    finally:
        player.pin(None)


def _check_rows(harness: ServerHarness, player: Player) -> None:
    account = harness.global_rows(
        f"SELECT account_db_key FROM accounts WHERE account_id = '{player.name}'"
    )
    if not account:
        harness.findings.add("lost", f"account {player.name}")
        return
    owner = account[0]["account_db_key"]
    rooms: dict[str, dict[str, Any]] = {}
    for shard_id in harness.shard_ids:
        for row in harness.shard_rows(
            shard_id, f"SELECT * FROM chat_rooms WHERE account_db_key = {owner}"
        ):
            rooms[row["room_id"]] = row | {"shard_id": shard_id}
    live = {room_id for room_id, row in rooms.items() if row["deleted"] == 0}
    findings = harness.findings
    findings.expect(
        not live & player.deleted_rooms,
        "revived",
        f"{player.name}: room row {live & player.deleted_rooms}",
    )
    for record in player.rooms.values():
        if record.room_id not in live:
            if record.room_id not in player.maybe_deleted_rooms:
                findings.add("lost", f"{player.name}: row of room {record.room_id}")
            continue
        _check_room_rows(harness, player, record, rooms[record.room_id], owner)


def _check_room_rows(
    harness: ServerHarness, player: Player, record: RoomRecord, room: dict[str, Any], owner: int
) -> None:
    where, findings = f"{player.name}, rows of room {record.room_id}", harness.findings
    query = f"SELECT * FROM chat_messages WHERE room_id = '{record.room_id}' ORDER BY seq"
    rows = harness.shard_rows(room["shard_id"], query)
    findings.expect(
        {row["account_db_key"] for row in rows} <= {owner}, "foreign", f"{where}: other owners"
    )
    seqs = [row["seq"] for row in rows]
    whole = seqs == sorted(set(seqs)) if record.has_gaps else seqs == list(range(1, len(rows) + 1))
    findings.expect(whole, "reordered", f"{where}: gaps or repeats in {seqs}")
    visible = [row for row in rows if not row["deleted"]]
    findings.expect(
        room["message_count"] == len(visible),
        "unexpected",
        f"{where}: {room['message_count']} != {len(visible)}",
    )
    seen = {name for row in visible for name in NONCE.findall(row["content"])}
    findings.expect(seen <= {player.name}, "foreign", f"{where}: {seen}")
    check_messages(where, record, visible, findings)
    replies = {row["parent_message_id"]: row for row in rows if row["sender_type"] == "AI"}
    for row in visible:
        if row["sender_type"] == "USER" and NONCE.search(row["content"]):
            reply = replies.get(row["message_id"])
            # A batch on its way brings the question, while Redis loses its reply.
            if reply is not None or row["content"] not in record.forgiven:
                _check_asked(harness, where, row, reply)


def _check_asked(
    harness: ServerHarness, where: str, question: dict[str, Any], reply: dict[str, Any] | None
) -> None:
    """A stored question that nobody deleted was asked, and has a reply that is what the provider
    said."""
    text, findings = question["content"], harness.findings
    where = f"{where}, question {question['seq']} {marker_of(text)}"
    asked = harness.provider.asked[marker_of(text)]
    if reply is None:
        findings.add("unasked", f"{where} has no reply; the provider was asked {asked} times")
        return
    if reply["deleted"]:
        return
    facts = json.loads(reply["metadata"] or "{}")
    end = facts.get("finish_reason")
    if not asked:
        refused = end == "error" and facts.get("called") is False
        if not refused and not harness.excuse(question["message_id"], end):
            findings.add(
                "unasked",
                f"{where} was never asked; its reply ended as {facts}: {reply['content']!r}",
            )
        return
    said = reply["content"]
    findings.expect(
        is_beginning_of_reply(said, text),
        "unexpected",
        f"{where}: the provider did not say {said!r}",
    )
    if end == "stop":
        findings.expect(
            said == full_reply(text),
            "empty",
            f"{where}: only {said!r} of a reply that ended as {facts}",
        )

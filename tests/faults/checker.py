"""What must be true when the fault is over: over HTTP from every server, in MySQL, in Redis, at the provider.

Beside what was acknowledged: every question that is stored was asked, once; every backlog drains; every dead letter can
be replayed; every room takes a new question and gets all of its reply.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from tests.faults.provider import full_reply, is_beginning_of_reply, marker_of
from tests.faults.world import FaultServer, World
from tests.players import NONCE, Player, RoomRecord, Unanswered, check_messages
from tests.waiting import PATIENCE_S

_SEND_S = PATIENCE_S
_QUESTIONS_AT_MOST = 3
"""Until a room has a whole reply. Two may fail, and their ends say so: the first call of a server's HTTP client may go
out on a connection that the provider closed in the fault (`error`: what was sent may have been read, so it is not sent
again), and on a slow machine a server may stand still for longer than its lease of 2 s (`interrupted`)."""


async def check_everything(world: World, players: list[Player]) -> None:
    """Settle, use every room once more, then compare; all that is wrong goes to ``world.findings``."""
    players = [*players, *world.guests]
    if not await _drained(world):
        return
    await _replay_letters(world)
    await asyncio.gather(*(_use_every_room(world, player) for player in players))
    if not await _drained(world):
        return
    for server in world.servers:
        await asyncio.gather(*(_read_through(server, player, world) for player in players))
    await world.settled()
    for player in players:
        _check_rows(world, player)
    world.provider.check(world.findings)
    for server in world.servers:
        server.cut_off = 0


async def _drained(world: World) -> bool:
    try:
        await world.settled()
    except AssertionError:
        waiting = f"{world.waiting_events()} events, {world.open_turns()} open replies"
        world.findings.add("stuck", f"after the fault these never went away: {waiting}")
        return False
    return True


async def _replay_letters(world: World) -> None:
    """Nothing that these faults do makes an event unacceptable; what is there all the same must go back by a replay."""
    letters = world.dead_letters()
    for letter in letters:
        world.findings.add("stuck", f"a dead letter: {letter}")
    if letters:
        await world.manage("dlq", "replay", "--all")
        if await _drained(world) and (left := world.dead_letters()):
            world.findings.add(
                "stuck", f"{len(left)} dead letters cannot be replayed, the first: {left[0]}"
            )


async def _use_every_room(world: World, player: Player) -> None:
    """What was not answered is repeated; then each room takes a question, and its reply is whole."""
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
                    world.findings.add(
                        "stuck", f"{player.name}: room {room_id} answered only {reply}"
                    )
    except TimeoutError:
        last = player.history[-1] if player.history else "nothing"
        world.findings.add(
            "stuck", f"{player.name}: a room takes no question for {_SEND_S:g} s: {last}"
        )


async def _read_through(server: FaultServer, player: Player, world: World) -> None:
    player.pin(server.process.base_url)
    try:
        give_up_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                await player.check(ended=True)
                return
            except Unanswered:
                # A connection of before the fault; a new session after a Redis that came back empty.
                await asyncio.sleep(0.2)
                if time.monotonic() > give_up_s:
                    world.findings.add(
                        "unexpected",
                        f"{player.name}: no answer when all is fixed: {player.history[-1]}",
                    )
                    return
    finally:
        player.pin(None)


def _check_rows(world: World, player: Player) -> None:
    account = world.global_rows(
        f"SELECT account_db_key FROM accounts WHERE account_id = '{player.name}'"
    )
    if not account:
        world.findings.add("lost", f"account {player.name}")
        return
    owner = account[0]["account_db_key"]
    rooms: dict[str, dict[str, Any]] = {}
    for shard_id in world.shard_ids:
        for row in world.shard_rows(
            shard_id, f"SELECT * FROM chat_rooms WHERE account_db_key = {owner}"
        ):
            rooms[row["room_id"]] = row | {"shard_id": shard_id}
    live = {room_id for room_id, row in rooms.items() if row["deleted"] == 0}
    findings = world.findings
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
        _check_room_rows(world, player, record, rooms[record.room_id], owner)


def _check_room_rows(
    world: World, player: Player, record: RoomRecord, room: dict[str, Any], owner: int
) -> None:
    where, findings = f"{player.name}, rows of room {record.room_id}", world.findings
    query = f"SELECT * FROM chat_messages WHERE room_id = '{record.room_id}' ORDER BY seq"
    rows = world.shard_rows(room["shard_id"], query)
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
            _check_asked(world, where, row, replies.get(row["message_id"]))


def _check_asked(
    world: World, where: str, question: dict[str, Any], reply: dict[str, Any] | None
) -> None:
    """A stored question that nobody deleted was asked, and has a reply that is what the provider said."""
    text, findings = question["content"], world.findings
    where = f"{where}, question {question['seq']} {marker_of(text)}"
    asked = world.provider.asked[marker_of(text)]
    if reply is None:
        findings.add("unasked", f"{where} has no reply; the provider was asked {asked} times")
        return
    if reply["deleted"]:
        return
    facts = json.loads(reply["metadata"] or "{}")
    end = facts.get("finish_reason")
    if not asked:
        refused = end == "error" and facts.get("called") is False
        if not refused and not world.excuse(question["message_id"], end):
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

"""What must be true when everything is mended: over HTTP from every server, in MySQL, in Redis, at the provider."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.faults.world import FaultServer, World
from tests.players import NONCE, Player, RoomRecord, Unanswered, check_messages
from tests.waiting import PATIENCE_S


async def check_everything(world: World, players: list[Player]) -> None:
    """Settle, then compare; all that is wrong goes to ``world.findings``."""
    try:
        await world.settled()
    except AssertionError:
        world.findings.add(
            "unexpected", f"never settled: {world.waiting_events()} events, {world.open_turns()} open turns"
        )
        return
    for server in world.servers:
        await asyncio.gather(*(_read_through(server, player, world) for player in players))
    await world.settled()
    for player in players:
        _check_rows(world, player)
    for letter in world.dead_letters():
        world.findings.add("lost", f"a dead letter: {letter}")
    world.provider.check(world.findings)


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
                        "unexpected", f"{player.name}: no answer when all is mended: {player.history[-1]}"
                    )
                    return
    finally:
        player.pin(None)


def _check_rows(world: World, player: Player) -> None:
    account = world.global_rows(f"SELECT account_db_key FROM accounts WHERE account_id = '{player.name}'")
    if not account:
        world.findings.add("lost", f"account {player.name}")
        return
    owner = account[0]["account_db_key"]
    rooms: dict[str, dict[str, Any]] = {}
    for shard_id in world.shard_ids:
        for row in world.shard_rows(shard_id, f"SELECT * FROM chat_rooms WHERE account_db_key = {owner}"):
            rooms[row["room_id"]] = row | {"shard_id": shard_id}
    live = {room_id for room_id, row in rooms.items() if row["deleted"] == 0}
    findings = world.findings
    findings.expect(
        not live & player.deleted_rooms, "revived", f"{player.name}: room row {live & player.deleted_rooms}"
    )
    for record in player.rooms.values():
        if record.room_id not in live:
            if record.room_id not in player.maybe_deleted_rooms:
                findings.add("lost", f"{player.name}: row of room {record.room_id}")
            continue
        _check_room_rows(world, player, record, rooms[record.room_id], owner)


def _check_room_rows(world: World, player: Player, record: RoomRecord, room: dict[str, Any], owner: int) -> None:
    where, findings = f"{player.name}, rows of room {record.room_id}", world.findings
    query = f"SELECT * FROM chat_messages WHERE room_id = '{record.room_id}' ORDER BY seq"
    rows = world.shard_rows(room["shard_id"], query)
    findings.expect({row["account_db_key"] for row in rows} <= {owner}, "foreign", f"{where}: other owners")
    seqs = [row["seq"] for row in rows]
    findings.expect(seqs == list(range(1, len(rows) + 1)), "reordered", f"{where}: gaps or repeats in {seqs}")
    visible = [row for row in rows if not row["deleted"]]
    findings.expect(
        room["message_count"] == len(visible), "unexpected", f"{where}: {room['message_count']} != {len(visible)}"
    )
    seen = {name for row in visible for name in NONCE.findall(row["content"])}
    findings.expect(seen <= {player.name}, "foreign", f"{where}: {seen}")
    check_messages(where, record, visible, findings)

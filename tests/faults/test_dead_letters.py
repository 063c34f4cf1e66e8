"""Messages that MariaDB always refuses, from the question to the operator's commands and back."""

from __future__ import annotations

import json

import pytest

from tests.faults.shared_harness import SharedHarness
from tests.load_clients import Player
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="package")
BEHIND = "waits behind the dead letters of its room"


async def letters_of(harness: SharedHarness, room_id: str, count: int) -> list[str]:
    """The lines of ``dlq list`` for a room, when there are so many."""

    def there() -> bool:
        found = [fields for _, fields in harness.dead_letters() if fields["dead_group"] == room_id]
        return len(found) == count and harness.waiting_events() == 0

    await until(there, what=f"{count} dead letters of the room")
    *lines, total = (await harness.manage("dlq", "list", "--room", room_id)).splitlines()
    assert total == f"{count} dead letters."
    return lines


def rows(harness: SharedHarness, room_id: str) -> list[tuple[int, str]]:
    query = f"SELECT seq, content FROM chat_messages WHERE room_id = '{room_id}' AND sender_type = 'USER' ORDER BY seq"
    return [
        (row["seq"], row["content"])
        for shard in harness.shard_ids
        for row in harness.shard_rows(shard, query)
    ]


async def texts(player: Player, room_id: str) -> list[str]:
    page = await player.client.ok("/api/chat/messages", room_id=room_id, limit=100)
    return [message["content"] for message in page["messages"] if message["sender_type"] == "USER"]


async def complains(harness: SharedHarness, count: str | None) -> bool:
    """Whether readiness tells of so many dead letters; the server serves on. What it says may be a
    second old."""
    async with harness.http.get(f"{harness.servers[0].process.base_url}/readyz?verbose") as answer:
        assert answer.status == 200
        checks = (await answer.json())["checks"]
    said = [check["reason"] for check in checks if check["name"] == "chat_dead_letters"]
    return not said if count is None else any(reason.startswith(f"{count} ") for reason in said)


async def test_refused_event_waits_in_order_and_blocks_no_other_room(
    harness: SharedHarness, load_clients: list[Player]
) -> None:
    """What MariaDB refuses waits in order is replayed or dropped and stops no other room."""
    player, other, _ = load_clients
    for each in (player, other):
        await each.act(each.creating())
    (room_id,), (healthy_id,) = player.rooms, other.rooms
    good, poison, behind, healthy = (p.nonce() for p in (player, player, player, other))
    await player.act(player.sending(room_id, good))
    await harness.settled()
    with harness.refusing(f"NEW.content = '{poison}'"):
        for text in (poison, behind):
            await player.act(player.sending(room_id, text))
        await other.act(other.sending(healthy_id, healthy))
        lines = await letters_of(harness, room_id, 4)
        # The reason, and who is to blame; nothing of what was said.
        assert "1644" in lines[0]
        assert [BEHIND in line for line in lines] == [False, True, True, True]
        assert not any(poison in line or behind in line for line in lines)
        name = lines[0].split()[0]
        assert poison in json.dumps(json.loads(await harness.manage("dlq", "show", "--id", name)))
        # Readable all the while; the other room is in the database.
        assert await texts(player, room_id) == [good, poison, behind]
        assert rows(harness, room_id) == [(1, good)]
        assert rows(harness, healthy_id) == [(1, healthy)]
        await until(lambda: complains(harness, "4"))
        # Nothing is fixed yet: what is put back comes back, in the same order.
        await harness.manage("dlq", "replay", "--room", room_id)
        again = await letters_of(harness, room_id, 4)
        assert [BEHIND in line for line in again] == [False, True, True, True]
    await harness.manage("dlq", "replay", "--all")
    await harness.settled()
    assert harness.dead_letters() == []
    assert rows(harness, room_id) == [(1, good), (3, poison), (5, behind)]
    await until(lambda: complains(harness, None))

    thrown, after = player.nonce(), player.nonce()
    with harness.refusing(f"NEW.content = '{thrown}'"):
        # Said past the player's own books: an operator throws it away.
        await player.client.ok("/api/chat/message/send", room_id=room_id, content=thrown)
        await letters_of(harness, room_id, 2)
        await harness.manage("dlq", "drop", "--room", room_id, "--yes")
    assert harness.dead_letters() == []
    assert await texts(player, room_id) == [good, poison, behind]
    await player.act(player.sending(room_id, after))
    await harness.settled()
    assert [text for _, text in rows(harness, room_id)] == [good, poison, behind, after]

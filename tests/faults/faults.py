"""The faults: each breaks something in the harness while players play, and fixes it before it
returns.

``FAULTS`` has them by name. Those that lose something are in ``losses.py``.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from tests.faults.commands import Command
from tests.faults.fault_proxy import Action, FaultProxy, Trap
from tests.faults.harness import FaultServer
from tests.faults.shared_harness import CACHE_TIMEOUT_S, SharedHarness
from tests.load_clients import Player, RoomRecord
from tests.waiting import PATIENCE_S, until

Fault = Callable[[SharedHarness, random.Random], Awaitable[None]]

BULK = {
    "fp_chat_room_batch_create",
    "fp_chat_message_batch_save",
    "fp_chat_room_batch_update_title",
    "fp_chat_message_batch_soft_delete",
    "fp_chat_room_batch_soft_delete",
}
OF_REQUESTS = {
    "GETEX", "accept_send", "create_room", "update_room", "delete_room", "delete_message", "append_delta", "end_reply",
    "begin_load", "finish_room_load", "finish_account_load", "read_messages", "read_rooms", "claim_slot",
}  # fmt: skip
_CONNECTION_FAULTS: tuple[Action, ...] = ("cut", "cut answer", "half close", "swallow")


async def server_killed(harness: SharedHarness, chance: random.Random) -> None:
    victim = chance.choice(harness.servers)
    await asyncio.sleep(chance.uniform(0.2, 1))
    await victim.kill()
    await asyncio.sleep(chance.uniform(0, 1))
    await victim.start()


async def both_servers_killed(harness: SharedHarness, chance: random.Random) -> None:
    await asyncio.sleep(chance.uniform(0.2, 1))
    await asyncio.gather(*(server.kill() for server in harness.servers))
    await harness.start_all()


async def server_killed_in_a_request(harness: SharedHarness, chance: random.Random) -> None:
    """Between two of its commands to Redis, or between a command and its answer."""
    victim = chance.choice(harness.servers)
    action: Action = chance.choice(["hold", "hold answer"])
    await _kill_at(
        victim,
        [victim.redis.trap(action, lambda c: c.name in OF_REQUESTS, at=chance.randint(1, 12))],
    )


async def consumer_killed_between_steps(
    harness: SharedHarness, chance: random.Random, *, step: str = "", action: Action | None = None
) -> None:
    """Read, PROCESSING, each procedure, settle: before the step or before its answer, whichever
    server writes next."""
    step = step or chance.choice(["XRANGE", "mark_processing", *sorted(BULK), "acknowledge_events"])
    action = action or chance.choice(["hold", "hold answer"])
    traps: dict[Trap, FaultServer] = {}
    for server in harness.servers:
        proxies = server.databases if step in BULK else (server.redis,)
        for proxy in proxies:
            traps[proxy.trap(action, lambda c: c.name == step)] = server
    first = await _first_reached(list(traps), 10)
    if first is None:
        harness.heal_proxies()
        return
    victim = traps[first]
    for trap, server in traps.items():
        if server is not victim:
            trap.disarm()
    await victim.kill()
    await asyncio.sleep(chance.uniform(0, 1))
    for proxy in victim.proxies:
        proxy.drop_all()
    harness.heal_proxies()
    await victim.start()


async def server_paused(harness: SharedHarness, chance: random.Random) -> None:
    """SIGSTOP for longer than its leases and locks last: it wakes up as somebody who was taken for
    dead."""
    with chance.choice(harness.servers).paused():
        await asyncio.sleep(chance.uniform(1, 5))


async def redis_killed(harness: SharedHarness, chance: random.Random) -> None:
    await asyncio.sleep(chance.uniform(0.2, 1))
    harness.redis.kill()
    await asyncio.sleep(chance.choice([0, 0.5, 3]))
    await asyncio.to_thread(harness.redis.start)


async def redis_and_servers_killed(harness: SharedHarness, chance: random.Random) -> None:
    await asyncio.sleep(chance.uniform(0.2, 1))
    await asyncio.gather(*(server.kill() for server in harness.servers))
    harness.redis.kill()
    await asyncio.to_thread(harness.redis.start)
    await harness.start_all()


async def redis_paused(harness: SharedHarness, chance: random.Random) -> None:
    harness.pause_redis()
    try:
        await asyncio.sleep(CACHE_TIMEOUT_S * chance.uniform(0.5, 1.5))
    finally:
        harness.resume_redis()


async def redis_paused_beyond_its_time_out(harness: SharedHarness, chance: random.Random) -> None:
    """It goes on with what it was sent when nobody waits for that any more."""
    await asyncio.sleep(chance.uniform(0, 0.5))
    harness.pause_redis()
    try:
        await asyncio.sleep(CACHE_TIMEOUT_S * chance.uniform(1.2, 3))
    finally:
        harness.resume_redis()


async def server_killed_with_sends_under_way(harness: SharedHarness, chance: random.Random) -> None:
    """Redis has taken what the server sent, and the server dies before it knows."""
    victim = chance.choice(harness.servers)
    trap = victim.redis.trap(
        "hold answer", lambda command: command.name == "accept_send", at=chance.randint(1, 4)
    )
    await _kill_at(victim, [trap])


async def redis_full_with_a_backlog(harness: SharedHarness, chance: random.Random) -> None:
    """MySQL is away while events gather, Redis is full when it is back: they are written all the
    same."""
    harness.mariadb.pause()
    try:
        await asyncio.sleep(chance.uniform(1, 3))
        harness.ask_redis("CONFIG", "SET", "maxmemory", "1")
    finally:
        harness.mariadb.resume()
    try:
        await until(lambda: harness.waiting_events() == 0, 60)
    except AssertionError:
        harness.findings.add("stuck", f"{harness.waiting_events()} events wait while Redis is full")
    finally:
        harness.ask_redis("CONFIG", "SET", "maxmemory", "0")


async def redis_out_of_memory(harness: SharedHarness, chance: random.Random) -> None:
    harness.ask_redis("CONFIG", "SET", "maxmemory", "1")
    try:
        await asyncio.sleep(chance.uniform(1, 3))
    finally:
        harness.ask_redis("CONFIG", "SET", "maxmemory", "0")


async def redis_scripts_flushed(harness: SharedHarness, chance: random.Random) -> None:
    for _ in range(chance.randint(50, 150)):
        harness.ask_redis("SCRIPT", "FLUSH")
        await asyncio.sleep(0.01)


async def redis_clients_killed(harness: SharedHarness, chance: random.Random) -> None:
    for _ in range(chance.randint(10, 30)):
        harness.ask_redis("CLIENT", "KILL", "TYPE", "normal")
        await asyncio.sleep(chance.uniform(0, 0.1))


async def redis_connections_broken(harness: SharedHarness, chance: random.Random) -> None:
    """Cut before a command, after it, half closed, or swallowed, many times over."""
    await _break_connections(
        [server.redis for server in harness.servers], OF_REQUESTS | {"acknowledge_events"}, chance
    )


async def redis_cut_off(harness: SharedHarness, chance: random.Random) -> None:
    """One server sees its Redis fall silent, be slow, or refuse it; the other does not."""
    await _cut_off([chance.choice(harness.servers).redis], chance)


async def mysql_killed(harness: SharedHarness, chance: random.Random) -> None:
    await asyncio.sleep(chance.uniform(0.2, 1))
    harness.mariadb.kill()
    await asyncio.sleep(chance.choice([0, 1, 4, 60]))
    await asyncio.to_thread(harness.mariadb.start)


async def mysql_restarted(harness: SharedHarness, chance: random.Random) -> None:
    await asyncio.to_thread(harness.mariadb.stop)
    await asyncio.to_thread(harness.mariadb.start)


async def mysql_paused(harness: SharedHarness, chance: random.Random) -> None:
    harness.mariadb.pause()
    try:
        await asyncio.sleep(chance.uniform(1, 5))
    finally:
        harness.mariadb.resume()


async def mysql_read_only(harness: SharedHarness, chance: random.Random) -> None:
    harness.mariadb.sql("SET GLOBAL read_only = 1")
    try:
        await asyncio.sleep(chance.uniform(1, 3))
    finally:
        harness.mariadb.sql("SET GLOBAL read_only = 0")


async def mysql_answer_lost(harness: SharedHarness, chance: random.Random) -> None:
    """The connection is cut exactly after a procedure was sent: it committed, and nobody was
    told."""
    proxies = [proxy for server in harness.servers for proxy in server.databases]
    await _break_connections(proxies, BULK, chance, actions=("cut answer",))


async def mysql_connections_broken(harness: SharedHarness, chance: random.Random) -> None:
    proxies = [proxy for server in harness.servers for proxy in server.databases]
    await _break_connections(proxies, None, chance)


async def shard_away(harness: SharedHarness, chance: random.Random) -> None:
    """The second shard's database, for everybody; the first goes on."""
    for server in harness.servers:
        server.second_shard.refusing = True
        server.second_shard.cut_all()
    await asyncio.sleep(chance.uniform(1, 4))
    harness.heal_proxies()


async def mysql_cut_off(harness: SharedHarness, chance: random.Random) -> None:
    await _cut_off(list(chance.choice(harness.servers).databases), chance)


async def mysql_refuses_messages(harness: SharedHarness, chance: random.Random) -> None:
    """Some permanently, by a trigger. Without it an operator replays what waits, and drops one
    room's."""
    outcast = harness.player(chance.getrandbits(32), number=99)
    await outcast.sign_in()
    room_id = (await outcast.client.ok("/api/chat/room/create", ai_persona="GPT4O"))["room"][
        "room_id"
    ]
    thrown = outcast.nonce()
    some = f"MOD(CRC32(NEW.content), 9) = {chance.randrange(9)}"
    with harness.refusing(f"{some} OR NEW.content = '{thrown}'"):
        await outcast.client.ok("/api/chat/message/send", room_id=room_id, content=thrown)
        await until(
            lambda: any(fields["dead_group"] == room_id for _, fields in harness.dead_letters())
        )
        await asyncio.sleep(chance.uniform(0.5, 3))
        await harness.manage("dlq", "drop", "--room", room_id, "--yes")
        await harness.manage("dlq", "list")
    page = await outcast.client.ok("/api/chat/messages", room_id=room_id)
    harness.findings.expect(
        thrown not in str(page), "revived", f"{outcast.name}: {thrown} was thrown away"
    )
    deadline_s = time.monotonic() + PATIENCE_S
    while harness.dead_letters() and time.monotonic() < deadline_s:
        await harness.manage("dlq", "replay", "--all")
        await asyncio.sleep(0.5)


async def host_calls(harness: SharedHarness, chance: random.Random) -> None:
    """Documented state calls and events of a process beside the servers, about the rooms of a
    player of its own."""
    guest = harness.player(chance.getrandbits(32), number=98)
    await guest.sign_in()
    for _ in range(4):
        await guest.act(guest.creating())
        await guest.act(guest.sending(list(guest.rooms)[-1]))
    by_state, by_event, thinned, renamed = guest.rooms.values()
    owner = _owner(harness, guest)
    for record in (thinned, renamed):
        await guest.act(guest.sending(record.room_id))
    (by_call, by_its_event), title = thinned.sent, guest.nonce()
    said = {"message_id": str(uuid.uuid4()), "sender_type": "USER", "content": "said by the host"}

    def event(message_type: str, record: RoomRecord, **fields: Any) -> list[Any]:
        return ["send_message", message_type, {"room_id": record.room_id, **owner, **fields}]

    await harness.host_calls(
        ["transition_room", by_state.room_id, "DELETING"],
        event("CHAT_ROOM_DELETE", by_event),
        ["smart_delete_message", thinned.ids[by_call]],
        event("CHAT_MESSAGE_DELETE", thinned, message_id=thinned.ids[by_its_event]),
        event("CHAT_ROOM_UPDATE", renamed, title=title),
        event(
            "chat_save",
            renamed,
            type="save_user_message",
            message_data={**said, "room_id": renamed.room_id},
        ),
    )
    for gone in (by_state, by_event):
        guest.deleted_rooms.add(gone.room_id)
        guest.rooms.pop(gone.room_id)
    thinned.deleted |= {by_call, by_its_event}
    thinned.maybe_deleted |= thinned.deleted
    renamed.titles = {title}
    renamed.maybe_sent.add(said["content"])
    harness.guests.append(guest)


def _owner(harness: SharedHarness, player: Player) -> dict[str, Any]:
    """Of a payload: whose it is."""
    (account,) = harness.global_rows(
        f"SELECT account_db_key FROM accounts WHERE account_id = '{player.name}'"
    )
    key = account["account_db_key"]
    (shard,) = harness.global_rows(
        f"SELECT shard_id FROM account_shards WHERE account_db_key = {key}"
    )
    return {"account_id": player.name, **account, **shard}


async def provider_misbehaves(harness: SharedHarness, chance: random.Random) -> None:
    harness.provider.misbehave = 0.5
    await asyncio.sleep(chance.uniform(2, 5))
    harness.provider.misbehave = 0.0


FAULTS: dict[str, Fault] = {
    fault.__name__.replace("_", " "): fault
    for fault in (
        server_killed, both_servers_killed, server_killed_in_a_request, consumer_killed_between_steps, server_paused,
        redis_killed, redis_and_servers_killed, redis_paused, redis_out_of_memory, redis_scripts_flushed,
        redis_clients_killed, redis_connections_broken, redis_cut_off,
        mysql_killed, mysql_restarted, mysql_paused, mysql_read_only, mysql_answer_lost, mysql_connections_broken,
        shard_away, mysql_cut_off, mysql_refuses_messages, provider_misbehaves,
        redis_paused_beyond_its_time_out, server_killed_with_sends_under_way, redis_full_with_a_backlog, host_calls,
    )
}  # fmt: skip


async def _kill_at(victim: FaultServer, traps: list[Trap]) -> None:
    if await _first_reached(traps, PATIENCE_S) is not None:
        await victim.kill()
        for proxy in victim.proxies:
            proxy.drop_all()
        await victim.start()
    for proxy in victim.proxies:
        proxy.heal()


async def _first_reached(traps: list[Trap], timeout_s: float) -> Trap | None:
    waits = {asyncio.create_task(trap.reached.wait()): trap for trap in traps}
    await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    return next((trap for trap in traps if trap.reached.is_set()), None)


async def _break_connections(
    proxies: list[FaultProxy],
    names: set[str] | None,
    chance: random.Random,
    *,
    actions: tuple[Action, ...] = _CONNECTION_FAULTS,
) -> None:
    """Spring traps on commands with these names (None: any), one after the other."""

    def wanted(command: Command) -> bool:
        return names is None or command.name in names

    for _ in range(chance.randint(3, 10)):
        proxy = chance.choice(proxies)
        trap = proxy.trap(chance.choice(actions), wanted, at=chance.randint(1, 5))
        await _first_reached([trap], 1)
        proxy.remove(trap)


async def _cut_off(proxies: list[FaultProxy], chance: random.Random) -> None:
    how = chance.choice(["silent", "slow", "refused"])
    for proxy in proxies:
        proxy.silent = how == "silent"
        proxy.delay_s = 0.2 if how == "slow" else 0.0
        proxy.refusing = how == "refused"
        if proxy.refusing:
            proxy.cut_all()
    await asyncio.sleep(chance.uniform(1, 4))
    for proxy in proxies:
        proxy.heal()

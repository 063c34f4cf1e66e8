"""How fast acknowledged messages reach MySQL: from the streams to rows to SENT, beside plain
``executemany``.

Both on one private MariaDB that flushes at every commit, one after the other in every round; the
figure to look at is the ratio, for it moves less with the machine than the rates do. ``python -m
benchmarks.persistence [--messages N]``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
import uvloop

from base_server.service.db.databases import Databases, apply_all
from base_server.service.db.db_settings import DatabaseSettings
from base_server.service.llm.llm_settings import LlmSettings
from base_server.service.service_container import ServiceContainer, ServiceSettings
from base_server.template.chat.cache.load import LoadContext
from base_server.template.chat.cache.loaders import Loaders
from base_server.template.chat.chat_persistence_consumer import ChatPersistenceConsumer
from base_server.template.chat.chat_state_machine import ChatStateMachine
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.events import MESSAGE_COLUMNS, QUEUE_NAME
from base_server.template.chat.domain.states import MessageState
from base_server.template.chat.messages.repository import MessageRepository, NewMessage
from base_server.template.chat.persistence.batch_writer import BatchWriter
from base_server.template.chat.persistence.event_streams import EventStreams
from base_server.template.chat.replies.slots import ReplySlots
from base_server.template.chat.rooms.directory import ChatDirectory
from base_server.template.chat.rooms.repository import RoomRepository
from base_server.template.chat.settings import ChatSettings
from benchmarks.processes import cpu_s
from tests.backends_mariadb import MariaDbServer, mariadb_settings
from tests.backends_redis import RedisServer, find_server
from tests.waiting import until

QUESTION = (
    "안녕하세요! What would you take along on a walk of three days through the mountains in autumn?"
)
ANSWER = (
    "Warm layers, a light rain jacket, two pairs of socks, a map, a lamp and more water than you think you need. "
    "If the huts are closed already, add a sleeping bag that is good to five degrees below zero, and tell somebody "
    "which way you go. 즐거운 여행 되세요!"
)
METADATA = {
    "model": "gpt-4o",
    "tokens": {"prompt": 120, "completion": 74, "total": 194},
    "finish_reason": "stop",
    "latency_ms": 812,
}
PEER_ROWS = 200
ACCOUNTS = 64


@dataclass(frozen=True)
class Round:
    """Messages and rows a second, and the CPU that one message took: of the server, of Redis, of
    MySQL."""

    ours: float
    peer: float
    cpu_us: list[float]

    @property
    def ratio(self) -> float:
        return self.ours / self.peer


class Servers:
    """A private Redis (append-only file) and MariaDB (flush at every commit) with empty databases
    of our own."""

    def __init__(self) -> None:
        self.redis = RedisServer(find_server("redis"))
        self.mariadb = MariaDbServer(memory_mb=512)

    @contextmanager
    def running(self) -> Iterator[DatabaseSettings]:
        try:
            self.redis.start()
            self.mariadb.start()
            yield mariadb_settings(self.mariadb)
        finally:
            self.redis.remove()
            self.mariadb.remove()

    def cpu_s(self) -> list[float]:
        """CPU seconds so far: of this process, of Redis, of MySQL."""
        return [time.process_time(), cpu_s(self.redis.pid), cpu_s(self.mariadb.pid)]


class Executemany:
    """The peer: the same rows by ``executemany`` of 200, one connection, a commit after each;
    nothing else is kept."""

    _VALUES = ", ".join(["%s"] * len(MESSAGE_COLUMNS))
    _INSERT = f"INSERT INTO chat_messages ({', '.join(MESSAGE_COLUMNS)}) VALUES ({_VALUES})"

    def __init__(self, port: int, database: str) -> None:
        self._connection = pymysql.connect(
            host="127.0.0.1", port=port, user="root", database=database, charset="utf8mb4"
        )

    def run(self, count: int) -> float:
        """Insert ``count`` messages of new rooms; rows a second."""
        rooms = [str(uuid.uuid4()) for _ in range(ACCOUNTS)]
        rows = [self._row(rooms[n % ACCOUNTS], n // ACCOUNTS + 1) for n in range(count)]
        start_s = time.perf_counter()
        with self._connection.cursor() as cursor:
            for first in range(0, count, PEER_ROWS):
                cursor.executemany(self._INSERT, rows[first : first + PEER_ROWS])
                self._connection.commit()
        return count / (time.perf_counter() - start_s)

    def _row(self, room_id: str, seq: int) -> tuple[Any, ...]:
        is_user = seq % 2 == 1
        return (
            str(uuid.uuid4()), room_id, 1, seq, "USER" if is_user else "AI", QUESTION if is_user else ANSWER,
            None if is_user else str(uuid.uuid4()), json.dumps({"ai_persona": "GPT4O"} | ({} if is_user else METADATA)),
            f"2026-11-25 10:00:{seq % 60:02}.000",
            str(uuid.uuid4()) if is_user else None, "0" * 32 if is_user else None,
        )  # fmt: skip


class Chat:
    """What a server process has between accepting a message and its row, without HTTP and without
    an AI.

    The stores' streams wake nobody, so that filling is not writing."""

    def __init__(self, container: ServiceContainer, settings: ChatSettings) -> None:
        hot, bulk = container.cache.get_client(), container.cache.get_bulk_client()
        streams = EventStreams(
            container.queue,
            hot.partitions.of_id,
            lambda: container.database.shard_ids,
            default_shard_id=1,
            batch_size=settings.batch_size,
            max_backlog=container.settings.queue.max_backlog,
        )
        self.turns = ReplySlots(hot, streams, settings)
        self.states = ChatStateMachine(hot, settings)
        directory = ChatDirectory(hot, container.database)
        writer = BatchWriter(
            container.queue, container.database, bulk, self.states, directory, settings
        )
        context = LoadContext(bulk, container.database, streams, settings)
        loaders = Loaders.of(
            context, writer.marks.check_stream, self.turns.interrupt, directory, container.tasks
        )
        self.rooms = RoomRepository(hot, container.database, loaders, streams, settings)
        self.messages = MessageRepository(hot, container.database, loaders, streams, settings)
        self.consumer = ChatPersistenceConsumer(
            container.queue, writer, container.scheduler, settings, container.tasks
        )
        self._container = container
        self._partitions = hot.partitions

    async def _is_empty(self) -> bool:
        return not any((await self._container.queue.backlog(QUEUE_NAME)).values())

    async def make_rooms(self) -> list[tuple[Caller, str]]:
        """A room each for ACCOUNTS accounts, spread over the shards."""
        made = []
        for n in range(ACCOUNTS):
            account_id = f"bench{n}"
            rows = await self._container.database.call_global_procedure(
                "fp_account_create", (account_id, "hash", account_id, "", "")
            )
            caller = Caller(
                account_id,
                rows[0]["account_db_key"],
                rows[0]["shard_id"],
                self._partitions.of_id(account_id),
            )
            made.append((caller, (await self.rooms.create(caller, "GPT4O", "bench", None)).room_id))
        return made

    async def converse(self, caller: Caller, room_id: str, turns: int) -> str:
        """``turns`` questions with their replies, into Redis; the last reply's id."""
        reply_id = ""
        for _ in range(turns):
            question_id, reply_id, token = (
                self._partitions.new_id(caller.partition) for _ in range(3)
            )
            message = NewMessage(
                question_id, reply_id, token, QUESTION, None, str(uuid.uuid4()), "reject"
            )
            accepted = await self.messages.accept(caller, room_id, message)
            assert accepted.slot is not None
            await self.turns.end(accepted.slot, "", ANSWER, METADATA)
        return reply_id

    async def write_all(self) -> None:
        """Have the consumer write everything, as its job would begin it."""
        await self.consumer.write_waiting()
        await until(self._is_empty, 120, "the streams are written")


async def measure(messages: int, rounds: int, **chat_changes: Any) -> list[Round]:
    """Fill the streams with ``messages`` and have them written, ``rounds`` times, each beside
    ``executemany``."""
    turns = max(messages // ACCOUNTS // 2, 1)
    messages = turns * 2 * ACCOUNTS
    servers, results = Servers(), []
    with servers.running() as databases:
        no_limits = {"sends_per_minute": 1e9, "sends_at_once": 10**9, "max_open_replies": 10**6}
        settings = ServiceSettings(
            app_id="bench",
            env="BENCH",
            data_dir=Path("/nonexistent"),
            cache=servers.redis.settings(),
            database=databases,
            llm=LlmSettings(demo_without_key=True),
        )
        await apply_all(
            Databases(databases, data_dir=settings.data_dir, scripts_dir=settings.scripts_dir),
            databases,
        )
        container = ServiceContainer(settings)
        await container.start()
        try:
            chat = Chat(container, ChatSettings.model_validate(no_limits | chat_changes))
            rooms = await chat.make_rooms()
            gc.collect()
            gc.freeze()  # as a server process does
            peer = Executemany(servers.mariadb.port, databases.shards[0].database)
            for _ in range(rounds):
                peer_rate = peer.run(messages)
                last = await asyncio.gather(
                    *(chat.converse(caller, room_id, turns) for caller, room_id in rooms)
                )
                before_s, start_s = servers.cpu_s(), time.perf_counter()
                await chat.write_all()
                took_s = time.perf_counter() - start_s
                cpu_us = [
                    (after - before) / messages * 1e6
                    for before, after in zip(before_s, servers.cpu_s(), strict=True)
                ]
                results.append(Round(messages / took_s, peer_rate, cpu_us))
                for reply_id in last:
                    assert await chat.states.get_message_state(reply_id) is MessageState.SENT
            await check_rows(container, rooms, rounds * turns * 2)
            await chat.consumer.stop()
        finally:
            await container.stop()
    return results


async def check_rows(
    container: ServiceContainer, rooms: Sequence[tuple[Caller, str]], count: int
) -> None:
    """Every room's row knows ``count`` messages."""
    for caller, room_id in rooms:
        (row,) = await container.database.call_shard_procedure(
            caller.shard_id, "fp_chat_room_get", (room_id,)
        )
        assert (row["message_count"], row["last_seq"]) == (count, count), row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=12_000, help="messages a round (12000)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    results = uvloop.run(measure(arguments.messages, arguments.rounds))
    print("persistence: stream → MySQL → SENT, beside executemany of 200 on the same MariaDB")
    for result in results:
        server, redis, mysql = result.cpu_us
        print(
            f"  {result.ours:8,.0f} messages/s  {result.peer:8,.0f} rows/s  ratio {result.ratio:.2f}"
            f"  CPU a message: server {server:.0f}, Redis {redis:.0f}, MySQL {mysql:.0f} µs"
        )
    print(
        f"  median ratio {statistics.median(result.ratio for result in results):.2f} (target 0.5)"
    )


if __name__ == "__main__":
    main()

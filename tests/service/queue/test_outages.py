"""Redis killed and processes killed: nothing accepted is lost, nothing stays stuck."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.queue.event_stream import EventStream
from base_server.service.queue.message_queue import QueueEntry, QueueMessage
from base_server.service.queue.queue_service import QueueService
from tests.backends_redis import RedisServer, make_cache
from tests.service.queue.queue_harness import QueueHarness
from tests.waiting import until

ROOT = Path(__file__).parents[3]


def declare(queue: QueueService) -> EventStream:
    queue.declare("rows", streams=["1"], route=lambda message: (0, "1"))
    return queue.stream("rows", 0, "1")


async def test_a_drain_goes_on_after_redis_was_killed_in_the_middle(
    private_harness: QueueHarness, private_server: RedisServer
) -> None:
    queue = await private_harness.queue()
    stream, got = declare(queue), []
    for number in range(4):
        await queue.send_message("rows", {"n": number}, "row")

    async def handler(stream: EventStream, entries: list[QueueEntry]) -> None:
        got.append(entries[0].payload["n"])
        if len(got) == 2:
            private_server.kill()
        await queue.remove(stream, [entries[0].entry_id])

    with pytest.raises(ServiceUnavailable):
        await queue.drain_stream(stream, handler, batch=1, lock_ttl_s=3600)
    with pytest.raises(ServiceUnavailable):
        await queue.drain_stream(stream, handler, batch=1, lock_ttl_s=3600)
    private_server.start()
    # At once: the lock that could not be given back is not waited for.
    assert await queue.drain_stream(stream, handler, batch=1, lock_ttl_s=3600) == 3
    assert got == [0, 1, 1, 2, 3]


async def test_consumers_and_senders_go_on_after_redis_was_killed(
    private_harness: QueueHarness, private_server: RedisServer
) -> None:
    queue = await private_harness.queue(lock_ttl_s=0.5)
    done: list[int] = []

    async def handler(message: QueueMessage) -> bool:
        done.append(message.payload["n"])
        return True

    await queue.register_message_consumer("mail", "a", handler)
    accepted = []
    for number in range(60):
        if number == 20:
            private_server.kill()
        if number == 40:
            private_server.start()
        try:
            await queue.send_message("mail", {"n": number}, "letter", partition_key="k")
            accepted.append(number)
        except ServiceUnavailable:
            assert 20 <= number < 40
    await until(lambda: set(accepted) <= set(done))
    first_seen = list(dict.fromkeys(done))
    assert [number for number in first_seen if number in accepted] == accepted
    assert set(range(20)) | set(range(40, 60)) <= set(accepted)


class AnswerThief:
    """A proxy before a server: ``steal`` times it passes a command on and breaks the connection at
    the answer."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._serving: set[asyncio.Task[None]] = set()
        self.steal = 0
        self.stolen = 0

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[int]:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        yield listener.sockets[0].getsockname()[1]
        listener.close()
        await asyncio.gather(*self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.current_task())  # type: ignore[arg-type]
        server_reader, server_writer = await asyncio.open_unix_connection(str(self._socket_path))
        asking = asyncio.create_task(_pump(reader, server_writer))
        while data := await server_reader.read(65536):
            if self.stolen < self.steal:
                self.stolen += 1
                break
            writer.write(data)
        writer.close()
        await writer.wait_closed()
        await asking


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()
    await writer.wait_closed()


async def test_consumer_logs_an_outage_at_its_begin_and_end(
    private_harness: QueueHarness, private_server: RedisServer
) -> None:
    queue = await private_harness.queue()
    calls: list[int] = []

    async def handler(message: QueueMessage) -> bool:
        calls.append(1)
        if len(calls) < 4:
            raise ServiceUnavailable("database", "away")
        return True

    with structlog.testing.capture_logs() as logs:
        await queue.send_message("mail", {"n": 1}, "mail")
        await queue.register_message_consumer("mail", "one", handler)
        await until(lambda: len(calls) == 4)
        private_server.kill()
        await asyncio.sleep(1)
        private_server.start()
        await until(lambda: any("consumer works again" in line["event"] for line in logs))
    events = [line["event"] for line in logs if line["event"].startswith("a queue ")]
    assert events == [
        "a queue handler has to wait",
        "a queue handler works again",
        "a queue consumer cannot work",
        "a queue consumer works again",
    ]


async def test_a_message_whose_answer_was_lost_is_stored_once(
    private_server: RedisServer, app_id: str
) -> None:
    thief = AnswerThief(private_server.socket)
    async with thief.listen() as port:
        cache = make_cache(
            private_server.settings(unix_socket_path=None, port=port), app_id, partitions=4
        )
        await cache.start()
        harness = QueueHarness(cache)
        queue = await harness.queue()
        await queue.send_message("mail", {"n": 0}, "letter", partition_key="k")
        thief.steal = 1
        await queue.send_message("mail", {"n": 1}, "letter", partition_key="k")
        assert thief.stolen == 1
        assert await harness.waiting("mail") == 2
        await harness.close()
        await cache.stop()


PROCESS = """
import asyncio, os, signal, sys
from pathlib import Path
from base_server.service.cache.cache_service import CacheService
from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.core.tasks import TaskRegistry
from base_server.service.lock.lock_service import LockService
from base_server.service.queue.queue_service import QueueService
from base_server.service.queue.queue_settings import QueueSettings

async def handler(message):
    print("begun", flush=True)
    if message.payload["n"] == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.Event().wait()

async def main():
    settings = CacheSettings(type="redis", unix_socket_path=sys.argv[1])
    cache = CacheService(settings, app_id=sys.argv[2], env="TEST", partitions=4, data_dir=Path("/nonexistent"))
    await cache.start()
    queue = QueueService(QueueSettings(lock_ttl_s=0.5), cache, LockService(cache), TaskRegistry())
    await queue.start()
    await queue.register_message_consumer("mail", "dies", handler)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def start_process(server: RedisServer, app_id: str) -> asyncio.subprocess.Process:
    """A process with a consumer of the queue "mail"; returns when its handler has begun."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROCESS, str(server.socket), app_id),
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'base_server'}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    async for line in process.stdout:
        if line.strip() == b"begun":
            break
    return process


async def test_the_message_of_a_killed_process_is_delivered_by_another(
    private_harness: QueueHarness, private_server: RedisServer, app_id: str
) -> None:
    queue, done = await private_harness.queue(), []
    await queue.send_message("mail", {"n": 1}, "letter", partition_key="k")
    process = await start_process(private_server, app_id)
    stream = queue.stream("mail", private_harness.cache.partitions.of_id("k"), "2")
    assert (
        await private_harness.locks.acquire(stream.lock_key, 1, 0, partition=stream.partition)
        is None
    )
    process.send_signal(signal.SIGKILL)
    await process.communicate()

    async def handler(message: QueueMessage) -> bool:
        done.append(message.payload["n"])
        return True

    await queue.register_message_consumer("mail", "lives", handler)
    await until(lambda: done == [1])


async def test_a_message_that_kills_its_process_ends_in_the_dead_letters(
    private_harness: QueueHarness, private_server: RedisServer, app_id: str
) -> None:
    queue, done = await private_harness.queue(max_attempts=2), []
    await queue.send_message("mail", {"n": "deadly"}, "letter", partition_key="k")
    await queue.send_message("mail", {"n": "behind"}, "letter", partition_key="k")
    for _ in range(2):
        await (await start_process(private_server, app_id)).communicate()

    async def handler(message: QueueMessage) -> bool:
        done.append(message.payload["n"])
        return True

    await queue.register_message_consumer("mail", "lives", handler)
    await until(lambda: done == ["behind"])
    (letter,) = await queue.dead_letters("mail")
    assert letter.reason == "its last deliveries never ended: their process died"


async def test_a_full_redis_refuses_sends_and_is_still_drained(
    private_harness: QueueHarness, private_server: RedisServer
) -> None:
    queue = await private_harness.queue(max_attempts=2)
    stream, drained, tries = declare(queue), [], []
    for number in range(3):
        await queue.send_message("rows", {"n": number}, "row")
        await queue.send_message("mail", {"n": number}, "letter", partition_key="k")
    execute = private_harness.cache.get_client().execute
    await execute("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(ServiceUnavailable, match="OOM"):
        await queue.send_message("rows", {"n": 4}, "row")

    async def drain(stream: EventStream, entries: list[QueueEntry]) -> None:
        drained.append(entries[0].payload["n"])
        await queue.remove(stream, [entries[0].entry_id])

    async def consume(message: QueueMessage) -> bool:
        tries.append(message.payload["n"])
        return message.payload["n"] != 1

    assert await queue.drain_stream(stream, drain, batch=1) == 3
    await queue.register_message_consumer("mail", "a", consume)
    await until(lambda: tries == [0, 1, 1, 2])
    await until(lambda: _is_dead(queue, 1))
    await execute("CONFIG", "SET", "maxmemory", 0)
    assert await queue.send_message("rows", {"n": 4}, "row")


async def _is_dead(queue: QueueService, count: int) -> bool:
    return len(await queue.dead_letters("mail")) == count

"""Connections without a task or a stream, against a server that sends what a test wants."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from base_server.service.cache.cache_settings import CacheSettings
from base_server.service.core.errors import OutcomeUnknown, ServiceUnavailable
from base_server.service.core.tasks import TaskRegistry
from base_server.service.redis_client.auto_pipeline import CallOptions
from base_server.service.redis_client.calls import Effect
from base_server.service.redis_client.client import RedisClient
from base_server.service.redis_client.connection import Connector, RedisConnection
from base_server.service.redis_client.connection_pool import ConnectionPool
from tests.backends_redis import RedisServer, find_server, free_port, missing_backend, running_cache
from tests.certificates import make_certificate
from tests.open_files import open_files
from tests.waiting import PATIENCE_S, until


class ToldServer:
    """Each connection is a :class:`Visit`; it answers nothing by itself."""

    def __init__(self) -> None:
        self.visits: list[Visit] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        """Its port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        yield server.sockets[0].getsockname()[1]
        server.close()
        for visit in self.visits:
            visit.writer.transport.abort()
        await server.wait_closed()

    async def visit(self, number: int = 0) -> Visit:
        await until(lambda: len(self.visits) > number, what=f"connection {number}")
        return self.visits[number]

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits.append(Visit(reader, writer))


class Visit:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def asked(self, word: str) -> None:
        """Read until something with ``word`` in it came."""
        await asyncio.wait_for(self._reader.readuntil(word.encode()), PATIENCE_S)

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    def close(self, *, reset: bool = False) -> None:
        if reset:
            options = struct.pack("ii", 1, 0)
            self.writer.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, options
            )
        self.writer.transport.abort()

    async def is_closed(self) -> bool:
        """By the other end."""
        with suppress(ConnectionError):
            await asyncio.wait_for(self._reader.read(), PATIENCE_S)
        return True


class Client:
    """A client of a :class:`ToldServer`."""

    def __init__(self, port: int, max_connections: int = 4, **options: Any) -> None:
        connector = Connector(port=port, timeout_s=10 * PATIENCE_S, **options)
        self.tasks = TaskRegistry()
        self.pool = ConnectionPool(
            connector.connect, max_connections=max_connections, timeout_s=10 * PATIENCE_S
        )
        options = CallOptions(timeout_s=0.3, tasks=self.tasks, waits=TaskRegistry())
        self.redis = RedisClient(self.pool, options)

    def ask(self, *words: str, effect: Effect = Effect.ONCE) -> asyncio.Task[list[Any]]:
        """One command for each word."""
        return asyncio.create_task(self.redis.run([("ECHO", word) for word in words], effect))


@pytest.fixture
async def server() -> ToldServer:
    return ToldServer()


@pytest.fixture
async def client(server: ToldServer) -> AsyncIterator[Client]:
    async with server.running() as port:
        client = Client(port)
        yield client
        assert not len(client.tasks)
        assert not client.pool.in_use
        client.pool.close_idle()


async def test_answers_come_in_any_pieces(client: Client, server: ToldServer) -> None:
    calls = [client.ask("a"), client.ask("b", "c"), client.ask("d")]
    visit = await server.visit()
    await visit.asked("d")
    for byte in "$3\r\n€\r\n:7\r\n*2\r\n+x\r\n$-1\r\n+é\r\n".encode():
        visit.say(bytes([byte]))
        await asyncio.sleep(0.001)
    assert await asyncio.gather(*calls) == [["€"], [7, ["x", None]], ["é"]]
    assert (client.redis.writes, client.redis.round_trips) == (1, 3)


async def test_the_place_of_a_caller_that_left_stays_its_own(
    client: Client, server: ToldServer
) -> None:
    calls = [client.ask("a"), client.ask("b", "c"), client.ask("d")]
    visit = await server.visit()
    await visit.asked("d")
    calls[1].cancel()
    await asyncio.sleep(0)
    visit.say(b"+a\r\n+b\r\n+c\r\n+d\r\n")
    assert (await calls[0], await calls[2]) == (["a"], ["d"])
    assert calls[1].cancelled()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_idle_connection_closed_by_the_server_is_not_used_again(
    client: Client, server: ToldServer, reset: bool
) -> None:
    """A connection that the server closed while it idled is not used again."""
    await _idle(client, server)
    server.visits[0].close(reset=reset)
    await until(lambda: not client.pool.idle[-1].clean)
    call = client.ask("b")
    visit = await server.visit(1)
    await visit.asked("b")
    visit.say(b"+b\r\n")
    assert await call == ["b"], "a write: on a dead connection its outcome would be unknown"
    assert client.redis.round_trips == 2


async def test_idle_connection_with_unasked_bytes_is_not_used_again(
    client: Client, server: ToldServer
) -> None:
    """A connection that says something unasked while it idles is not used again."""
    await _idle(client, server)
    server.visits[0].say(b"+of another\r\n")
    await until(lambda: not client.pool.idle[-1].clean)
    call = client.ask("b")
    visit = await server.visit(1)
    await visit.asked("b")
    visit.say(b"+b\r\n")
    assert await call == ["b"]
    assert await server.visits[0].is_closed()


@pytest.mark.parametrize(
    "more", [b"+of another\r\n", b"$20\r\nhalf"], ids=["an answer", "half an answer"]
)
async def test_connection_with_more_replies_than_asked_is_not_reused(
    client: Client, server: ToldServer, more: bytes
) -> None:
    call = client.ask("a")
    visit = await server.visit()
    await visit.asked("a")
    visit.say(b"+a\r\n" + more)
    assert await call == ["a"]
    assert await visit.is_closed()


async def test_new_connection_with_unasked_data_is_not_used(
    server: ToldServer,
) -> None:
    async def greet(connection: RedisConnection) -> None:
        assert await connection.ask(("PING",)) == ["PONG"]

    async with server.running() as port:
        client = Client(port, on_connect=greet)
        call = client.ask("a")
        visit = await server.visit()
        await visit.asked("PING")
        visit.say(b"+PONG\r\n+of another\r\n")
        with pytest.raises(ServiceUnavailable, match="nobody asked for") as refused:
            await call
        assert not isinstance(refused.value, OutcomeUnknown)
        assert client.redis.round_trips == 0
        assert await visit.is_closed()


async def test_late_batch_keeps_its_answers_and_closes_its_connection(
    client: Client, server: ToldServer
) -> None:
    """A batch that is late keeps the answers it has and closes its connection."""
    calls = [client.ask("a"), client.ask("b", "c"), client.ask("d", effect=Effect.READ)]
    visit = await server.visit()
    await visit.asked("d")
    visit.say(b"+a\r\n+b\r\n$5\r\nhal")
    first, half, read = await asyncio.gather(*calls, return_exceptions=True)
    assert first == ["a"]
    assert isinstance(half, OutcomeUnknown)
    assert "within 0.3 s" in str(half)
    assert isinstance(read, ServiceUnavailable)
    assert not isinstance(read, OutcomeUnknown)
    visit.say(b"of another\r\n")
    assert await visit.is_closed()
    assert client.redis.round_trips == 3, "a slow server is not asked again"


async def test_a_read_that_was_half_answered_is_repeated_whole(
    client: Client, server: ToldServer
) -> None:
    call = client.ask("a", "b", effect=Effect.READ)
    first = await server.visit()
    await first.asked("b")
    first.say(b"+old\r\n")
    first.writer.close()
    second = await server.visit(1)
    await second.asked("b")
    second.say(b"+a\r\n+b\r\n")
    assert await call == ["a", "b"]


async def test_what_is_no_answer_at_all_is_a_lost_connection(
    client: Client, server: ToldServer, caplog: pytest.LogCaptureFixture
) -> None:
    calls = [client.ask("a"), client.ask("b")]
    visit = await server.visit()
    await visit.asked("b")
    visit.say(b"+a\r\nHTTP/1.1 400 Bad Request\r\n")
    assert await calls[0] == ["a"]
    with pytest.raises(OutcomeUnknown, match="connection lost"):
        await calls[1]
    assert await visit.is_closed()
    assert not caplog.records, "the loop complains of nothing"


async def test_a_transport_that_takes_nothing_is_a_lost_connection(
    client: Client, server: ToldServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _idle(client, server)
    connection = client.pool.idle[-1]

    def refuse(pieces: object) -> None:
        raise RuntimeError("unable to perform operation on a closed transport")

    monkeypatch.setattr(
        connection,
        "_transport",
        SimpleNamespace(writelines=refuse, abort=connection._transport.abort),
    )
    read, write = client.ask("read", effect=Effect.READ), client.ask("write")
    with pytest.raises(OutcomeUnknown):
        await asyncio.wait_for(
            write, PATIENCE_S
        )  # at once, not when the time for an answer is over
    visit = await server.visit(1)
    await visit.asked("read")
    visit.say(b"+a\r\n")
    assert await read == ["a"]


async def test_a_server_that_does_not_even_read_holds_no_descriptor(
    client: Client, server: ToldServer
) -> None:
    call = client.ask("x" * 20_000_000)
    visit = await server.visit()
    visit.writer.transport.pause_reading()  # type: ignore[attr-defined]
    files = open_files()
    with pytest.raises(OutcomeUnknown, match="within"):
        await call
    await until(lambda: open_files() < files, what="its end here is closed")


@pytest.mark.parametrize(
    ("text", "kind", "fields"),
    [
        ("ERR unknown command", ResponseError, {}),
        ("WRONGTYPE Operation", ResponseError, {}),
        ("NOSCRIPT No matching script", NoScriptError, {}),
        (
            "MOVED 3999 127.0.0.1:6381",
            MovedError,
            {"slot_id": 3999, "host": "127.0.0.1", "port": 6381},
        ),
        ("ASK 3999 127.0.0.1:6381", AskError, {"slot_id": 3999, "host": "127.0.0.1", "port": 6381}),
        ("TRYAGAIN Multiple keys", TryAgainError, {}),
        ("CLUSTERDOWN Hash slot not served", ClusterDownError, {}),
    ],
)
async def test_a_refusal_is_redis_pys_error_and_the_connection_goes_on(
    client: Client, server: ToldServer, text: str, kind: type[RedisError], fields: dict[str, object]
) -> None:
    calls = [client.ask("a"), client.ask("b")]
    visit = await server.visit()
    await visit.asked("b")
    visit.say(f"-{text}\r\n+b\r\n".encode())
    (refusal,) = await calls[0]
    assert type(refusal) is kind
    assert {name: getattr(refusal, name) for name in fields} == fields
    assert await calls[1] == ["b"]
    assert client.pool.idle[-1].clean


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("LOADING Redis is loading", BusyLoadingError),
        ("NOAUTH required", AuthenticationError),
        ("READONLY You can't write against a read only replica.", ReadOnlyError),
        ("MASTERDOWN Link with MASTER is down", MasterDownError),
    ],
)
async def test_refusal_of_the_whole_connection_is_raised_and_closes_it(
    client: Client, server: ToldServer, text: str, kind: type[RedisError]
) -> None:
    """A refusal of the whole connection is an answer after which it is closed."""
    calls = [client.ask("a"), client.ask("b")]
    visit = await server.visit()
    await visit.asked("b")
    visit.say(f"-{text}\r\n+b\r\n".encode())
    (refusal,) = await calls[0]
    assert type(refusal) is kind
    assert await calls[1] == ["b"]
    assert await visit.is_closed()


async def test_stop_fails_calls_to_a_silent_server(client: Client, server: ToldServer) -> None:
    files, tasks = open_files(), len(asyncio.all_tasks())
    call = client.ask("a")
    visit = await server.visit()
    await visit.asked("a")
    assert await client.tasks.drain(0.01) == 1
    with pytest.raises(OutcomeUnknown, match="stopped"):
        await call
    assert await visit.is_closed()
    visit.close()
    await until(lambda: open_files() <= files)
    assert len(asyncio.all_tasks()) <= tasks


async def test_connection_for_a_leaving_waiter_goes_to_the_next(
    server: ToldServer,
) -> None:
    """A connection that comes just as its waiter leaves goes to the next."""
    async with server.running() as port:
        pool = Client(port, max_connections=1).pool
        connection = await pool.take()
        leaving, staying = asyncio.create_task(pool.take()), asyncio.create_task(pool.take())
        await asyncio.sleep(0)
        pool.give(connection)
        leaving.cancel()
        assert await asyncio.wait_for(staying, PATIENCE_S) is connection
        assert leaving.cancelled()
        waiting = asyncio.create_task(pool.take())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        pool.give(connection)
        assert await pool.take() is connection
        pool.timeout_s = 0.01
        with pytest.raises(RedisConnectionError, match="in use"):
            await pool.take()
        pool.give(connection)
        pool.close_idle()


@pytest.fixture(scope="module")
def tls_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheSettings]:
    certificate = make_certificate(tmp_path_factory.mktemp("tls"), "127.0.0.1")
    port = free_port()
    files = (
        "--tls-cert-file",
        str(certificate),
        "--tls-key-file",
        str(certificate.with_suffix(".key")),
    )
    server = RedisServer(
        find_server("redis"), "--tls-port", str(port), *files, "--tls-auth-clients", "no"
    )
    try:
        try:
            server.start()
        except AssertionError:
            missing_backend("this redis-server speaks no TLS")
        yield server.settings(
            unix_socket_path=None, port=port, tls=True, tls_ca_file=str(certificate)
        )
    finally:
        server.remove()


async def test_over_tls_too(tls_settings: CacheSettings, app_id: str) -> None:
    heard: list[str] = []
    async with running_cache(tls_settings, app_id) as service:
        redis = service.get_client()
        texts = [f"{n}é" * (n * 40_000) for n in range(1, 6)]
        await asyncio.gather(*(redis.set_string(f"a:{n}", text) for n, text in enumerate(texts)))
        assert await asyncio.gather(*(redis.get_string(f"a:{n}") for n in range(5))) == texts
        async with redis._client.pipeline() as pipe:
            await pipe.watch(redis.key("a:1"))
            pipe.multi()
            pipe.set(redis.key("a:1"), "watched")
            assert await pipe.execute() == [True]
        assert await redis.get_string("a:1") == "watched"
        assert await service.subscribe("stop:*", lambda channel, text: heard.append(text))
        await redis.publish("stop:1", "now")
        await until(lambda: heard == ["now"])


async def _idle(client: Client, server: ToldServer) -> Visit:
    """The first connection, after a batch that was answered on it."""
    call = client.ask("a")
    visit = await server.visit()
    await visit.asked("a")
    visit.say(b"+a\r\n")
    assert await call == ["a"]
    return visit

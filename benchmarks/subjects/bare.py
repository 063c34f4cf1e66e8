"""Limits: what aiohttp, pydantic, a Lua script and a LangChain model cost alone.

POST /empty, /parsed, /script, /ainvoke: each does one thing more than the one before; the last runs
a second script. POST /sketch/send, /sketch/list: our own path stripped of all that it is for. A
session is read, two scripts run (or one that reads 20 entries), and calls go out as ours do, in one
write a tick of the loop.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from pathlib import Path
from typing import Any, cast

import hiredis
import uvloop
from aiohttp import web
from langchain_core.messages import HumanMessage
from pydantic import BaseModel
from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from benchmarks.subjects.fake_model import OneChunkModel

# As many commands as accepting a message takes.
_APPEND = """
redis.call('HMGET', KEYS[1], 'len', 'owner')
local n = redis.call('HINCRBY', KEYS[1], 'len', 1)
redis.call('RPUSH', KEYS[2], ARGV[1])
redis.call('LTRIM', KEYS[2], -200, -1)
redis.call('SET', KEYS[3], 'PENDING')
redis.call('PERSIST', KEYS[1])
redis.call('PERSIST', KEYS[2])
redis.call('XADD', KEYS[4], 'MAXLEN', '~', 1000, '*', 'd', ARGV[1])
return n
"""

_READ = """
redis.call('HMGET', KEYS[1], 'len', 'owner')
redis.call('GET', KEYS[3])
redis.call('LLEN', KEYS[2])
return redis.call('LRANGE', KEYS[2], -20, -1)
"""
_ENTRY = f'{{"message_id":"01932b5c-8f00-8000-8000-000000000000","seq":1,"sender_type":"USER","content":"{"x" * 120}"}}'


class OneWriteATick(asyncio.Protocol):
    """A connection to Redis: what is asked in one tick of the loop goes out in one write. No
    errors, no time-outs."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(encoding="utf-8")
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._packed: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        self._loop = asyncio.get_running_loop()

    def ask(self, *command: Any) -> asyncio.Future[Any]:
        if not self._packed:
            self._loop.call_soon(self._write)
        self._packed.append(hiredis.pack_command(command))
        self._waiting.append(answer := self._loop.create_future())
        return answer

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not False:
            self._waiting.popleft().set_result(answer)

    def _write(self) -> None:
        packed, self._packed = self._packed, []
        self._transport.writelines(packed)


class Ask(BaseModel):
    accessToken: str = ""
    sequence: int = 0
    room_id: str = ""
    content: str = ""


class Reply(BaseModel):
    errorCode: int = 0
    sequence: int = 0
    content: str = ""


class Listed(BaseModel):
    errorCode: int = 0
    sequence: int = 0


async def sketch(app: web.Application, redis_socket: Path) -> None:
    """Add the routes of our own path without what it is for."""
    _, redis = await asyncio.get_running_loop().create_unix_connection(
        OneWriteATick, str(redis_socket)
    )
    append = await redis.ask("SCRIPT", "LOAD", _APPEND)
    read = await redis.ask("SCRIPT", "LOAD", _READ)
    await redis.ask("SET", "session", "an account")
    for number in range(64):
        await redis.ask("RPUSH", f"l:room{number}", *[_ENTRY] * 20)

    async def send(request: web.Request) -> web.Response:
        ask = Ask.model_validate_json(await request.read(), strict=True)
        await redis.ask("GETEX", "session", "EX", 3600)
        keys = f"b:{ask.room_id}", f"m:{ask.room_id}", f"s:{ask.room_id}", "q"
        for _ in range(2):
            await redis.ask("EVALSHA", append, 4, *keys, ask.content)
        body = Reply(sequence=ask.sequence, content=ask.content).model_dump_json().encode()
        return web.Response(body=body, content_type="application/json")

    async def read_list(request: web.Request) -> web.Response:
        ask = Ask.model_validate_json(await request.read(), strict=True)
        await redis.ask("GETEX", "session", "EX", 3600)
        entries = await redis.ask(
            "EVALSHA", read, 3, f"b:{ask.room_id}", f"l:{ask.room_id}", f"s:{ask.room_id}"
        )
        head = Listed(sequence=ask.sequence).model_dump_json()
        body = f'{head[:-1]},"messages":[{",".join(entries)}]}}'.encode()
        return web.Response(body=body, content_type="application/json")

    app.router.add_post("/sketch/send", send)
    app.router.add_post("/sketch/list", read_list)


async def main(redis_socket: str) -> None:
    redis = Redis(unix_socket_path=redis_socket, decode_responses=True)
    script: AsyncScript = redis.register_script(_APPEND)
    model = OneChunkModel()

    async def run_script(ask: Ask) -> None:
        room = ask.room_id
        await script(keys=[f"b:{room}", f"m:{room}", f"s:{room}", "q"], args=[ask.content])

    def answer(reply: Reply) -> web.Response:
        return web.Response(body=reply.model_dump_json().encode(), content_type="application/json")

    async def empty(request: web.Request) -> web.Response:
        return web.Response(body=b"{}", content_type="application/json")

    async def parsed(request: web.Request) -> web.Response:
        ask = Ask.model_validate_json(await request.read(), strict=True)
        return answer(Reply(sequence=ask.sequence))

    async def scripted(request: web.Request) -> web.Response:
        ask = Ask.model_validate_json(await request.read(), strict=True)
        await run_script(ask)
        return answer(Reply(sequence=ask.sequence))

    async def ainvoked(request: web.Request) -> web.Response:
        ask = Ask.model_validate_json(await request.read(), strict=True)
        await run_script(ask)
        said = await model.ainvoke([HumanMessage(ask.content)])
        await run_script(ask)
        return answer(Reply(sequence=ask.sequence, content=str(said.content)))

    app = web.Application()
    for path, handler in (
        ("/empty", empty),
        ("/parsed", parsed),
        ("/script", scripted),
        ("/ainvoke", ainvoked),
    ):
        app.router.add_post(path, handler)
    await sketch(app, Path(redis_socket))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"Ready at http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))

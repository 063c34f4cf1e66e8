"""Limits: what aiohttp, pydantic, a Lua script and a LangChain model cost alone.

POST /empty, /parsed, /script, /ainvoke: each does one thing more than the one before; the last runs a second script.
"""

from __future__ import annotations

import asyncio
import sys

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


class Ask(BaseModel):
    accessToken: str = ""
    sequence: int = 0
    room_id: str = ""
    content: str = ""


class Reply(BaseModel):
    errorCode: int = 0
    sequence: int = 0
    content: str = ""


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
    for path, handler in (("/empty", empty), ("/parsed", parsed), ("/script", scripted), ("/ainvoke", ainvoked)):
        app.router.add_post(path, handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"Ready at http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))

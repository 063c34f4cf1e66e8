"""A server as many write it: redis-py's client shared by all handlers, and handlers that end when
their client leaves.

Run as a process with a redis-py of its own on the path (the test uses 4.5.1): ``careless_server.py
REDIS_PORT``. Prints the version of redis-py and the port that it listens on.
"""

from __future__ import annotations

import asyncio
import sys

import redis
import redis.asyncio
from aiohttp import web


async def serve(redis_port: int) -> None:
    client = redis.asyncio.Redis(port=redis_port, max_connections=8, decode_responses=True)

    async def mine(request: web.Request) -> web.Response:
        try:
            return web.Response(text=await client.get((await request.json())["key"]) or "")
        except redis.RedisError as error:
            return web.Response(text=type(error).__name__, status=500)

    app = web.Application()
    app.router.add_post("/mine", mine)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(redis.__version__, runner.addresses[0][1], flush=True)  # noqa: T201 - the test reads it
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))

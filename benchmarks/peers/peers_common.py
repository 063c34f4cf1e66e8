"""Serves a peer on a free port with uvicorn, uvloop and httptools, one process, no access log."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        assert sockets is not None
        print(f"Ready at http://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)


def run(app: FastAPI) -> None:
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
    _Server(config).run(sockets=[bound])

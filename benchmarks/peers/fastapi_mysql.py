"""A peer: plain FastAPI that reads the last 20 rows of the room and writes question and answer in
one transaction."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiomysql
from fastapi import FastAPI
from peers_common import run
from pydantic import BaseModel

_TABLE = """
CREATE TABLE IF NOT EXISTS messages (
  id BIGINT AUTO_INCREMENT PRIMARY KEY,
  room_id VARCHAR(64) CHARACTER SET ascii NOT NULL,
  sender VARCHAR(8) NOT NULL,
  content TEXT NOT NULL,
  KEY by_room (room_id, id)
)
"""
_LAST = "SELECT sender, content FROM messages WHERE room_id = %s ORDER BY id DESC LIMIT 20"
_ADD = "INSERT INTO messages (room_id, sender, content) VALUES (%s, %s, %s)"


class Ask(BaseModel):
    room_id: str
    content: str


@asynccontextmanager
async def life(app: FastAPI) -> AsyncIterator[None]:
    async with aiomysql.create_pool(
        host="127.0.0.1",
        port=int(os.environ["MYSQL_PORT"]),
        user="root",
        db="peer_fastapi",
        minsize=8,
        maxsize=32,
    ) as pool:
        async with pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute(_TABLE)
        app.state.pool = pool
        yield


app = FastAPI(lifespan=life)


@app.post("/send")
async def send(ask: Ask) -> dict[str, str]:
    async with app.state.pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.execute(_LAST, (ask.room_id,))
        history = await cursor.fetchall()
        answer = f"An answer of forty characters, turn {len(history):03d}."
        await cursor.execute(_ADD, (ask.room_id, "USER", ask.content))
        await cursor.execute(_ADD, (ask.room_id, "AI", answer))
        await connection.commit()
    return {"content": answer}


run(app)

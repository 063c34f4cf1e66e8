"""A peer: LangGraph with its MySQL checkpointer behind FastAPI. The room is the thread; the model
answers at once."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiomysql
from fastapi import FastAPI
from langchain_core.messages import AIMessage
from langgraph.checkpoint.mysql.aio import AIOMySQLSaver
from langgraph.graph import START, MessagesState, StateGraph
from peers_common import run
from pydantic import BaseModel


class Ask(BaseModel):
    room_id: str
    content: str


async def answer(state: MessagesState) -> dict[str, list[AIMessage]]:
    return {"messages": [AIMessage("An answer of forty characters, no more...")]}


@asynccontextmanager
async def life(app: FastAPI) -> AsyncIterator[None]:
    async with aiomysql.create_pool(
        host="127.0.0.1", port=int(os.environ["MYSQL_PORT"]), user="root", db="peer_langgraph",
        minsize=8, maxsize=32, autocommit=True,
    ) as pool:  # fmt: skip
        saver = AIOMySQLSaver(pool)
        await saver.setup()
        graph = StateGraph(MessagesState)
        graph.add_node("answer", answer)
        graph.add_edge(START, "answer")
        app.state.graph = graph.compile(checkpointer=saver)
        yield


app = FastAPI(lifespan=life)


@app.post("/send")
async def send(ask: Ask) -> dict[str, str]:
    config = {"configurable": {"thread_id": ask.room_id}}
    state = await app.state.graph.ainvoke(
        {"messages": [{"role": "user", "content": ask.content}]}, config
    )
    return {"content": state["messages"][-1].content}


run(app)

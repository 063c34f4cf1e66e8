"""An OpenAI-compatible provider on a real socket, scripted by the test that uses it.

In a test::

    async with OpenAIStub() as stub:
        stub.script(Reply(["Hel", "lo"]), Reply(status=429, headers={"Retry-After": "0"}))
        … settings with base_url=stub.base_url …
        assert stub.calls == 2

As a process (prints its base_url, ends on SIGTERM)::

    python tests/openai_stub.py [--port N] [--delay SECONDS]

    curl -X POST HOST/_script -d '[{"tokens": ["a", "b"], "delay_s": 0.1}]'   queue replies
    curl HOST/_calls                                                         what was asked so far
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web

Cut = Literal["mid_json", "clean", "reset"]


@dataclass(frozen=True)
class Reply:
    """One scripted answer. Without a script the stub echoes the question, word by word."""

    tokens: list[str] = field(default_factory=lambda: ["Hello", " ", "world"])
    delay_s: float = 0.0
    """Before each token."""
    usage: tuple[int, int] | None = (11, 7)
    """(prompt, completion) in a chunk of its own; None sends none, as servers without
    stream_options do."""
    finish_reason: str | None = "stop"
    """None: the last chunk has none, as some servers send it."""
    done: bool = True
    """Whether ``[DONE]`` ends the stream."""
    keep_alive: str = ""
    """Sent as it is before each token and before the end: comments, ``id:`` and ``retry:`` lines,
    empty events."""
    line_end: str = "\n"
    """Of every line: the standard knows LF, CR and CRLF."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    """Body of a status other than 200; ``{"error": error}``."""
    raw: str | None = None
    """Sent as the whole body in place of everything else (garbage)."""
    content_type: str = "text/event-stream"
    cut: Cut | None = None
    """After the tokens: end in the middle of a JSON text, end without finish_reason, or reset the
    connection."""
    hang: bool = False
    """After the tokens: say nothing more until the client leaves."""
    endless: str = ""
    """After the tokens: this again and again, without a pause, until the client leaves."""
    silent: bool = False
    """Not even headers, until the client leaves."""


@dataclass
class Call:
    """One request as the stub saw it."""

    body: dict[str, Any]
    headers: dict[str, str]
    tokens_sent: int = 0
    finished: bool = False
    closed_by_client: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def messages(self) -> list[dict[str, Any]]:
        return list(self.body["messages"])


class OpenAIStub:
    """``async with OpenAIStub() as stub``; ``stub.base_url`` ends in ``/v1``."""

    _path = "/v1/chat/completions"
    _base_path = "/v1"

    def __init__(self, port: int = 0, *, delay_s: float = 0.0) -> None:
        self.port = port
        self._delay_s = delay_s
        self._scripted: deque[Reply] = deque()
        self._runner: web.AppRunner | None = None
        self._stopping = False
        self.responder: Callable[[dict[str, Any]], Reply] = self._echo
        """Makes the reply when the script is empty."""
        self.refuse: Callable[[dict[str, Any]], Reply | None] = lambda _: None
        """Looks at each request before its reply: :func:`refuse_unlike_roles`,
        :func:`context_of`."""
        self.requests: list[Call] = []
        self.running = 0
        self.most_running = 0
        self.base_url = ""

    @property
    def calls(self) -> int:
        """Requests for a reply so far, refused ones included."""
        return len(self.requests)

    def script(self, *replies: Reply) -> None:
        """Queue replies, one a call."""
        self._scripted.extend(replies)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post(self._path, self._completions)
        app.router.add_post("/_script", self._script_over_http)
        app.router.add_get("/_calls", self._calls_over_http)
        # handler_cancellation: the handler learns at once that its client has gone.
        self._runner = web.AppRunner(
            app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.base_url = f"http://127.0.0.1:{self.port}{self._base_path}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        if self._runner is not None:
            await self._runner.cleanup()

    def _echo(self, body: dict[str, Any]) -> Reply:
        words = f"stub: {texts_of(body)[-1]}".split(" ")
        return Reply(
            [word if i == 0 else f" {word}" for i, word in enumerate(words)], delay_s=self._delay_s
        )

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        call = Call(body, dict(request.headers))
        self.requests.append(call)
        if (refusal := self.refuse(body)) is not None:
            reply = refusal
        else:
            reply = self._scripted.popleft() if self._scripted else self.responder(body)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return await self._answer(request, call, reply)
        except (asyncio.CancelledError, ConnectionError):
            call.closed_by_client = not self._stopping
            raise
        finally:
            self.running -= 1
            call.ended.set()

    async def _answer(self, request: web.Request, call: Call, reply: Reply) -> web.StreamResponse:
        if reply.silent:
            await asyncio.Event().wait()
        if reply.status != 200:
            error = reply.error or {
                "message": "scripted failure",
                "type": "stub",
                "code": "scripted",
            }
            text = json.dumps({"error": error}) if reply.raw is None else reply.raw
            return web.Response(
                text=text,
                status=reply.status,
                headers=reply.headers,
                content_type="application/json",
            )
        if not call.body.get("stream"):
            return web.json_response(_whole(call, reply))
        response = web.StreamResponse(headers={"Content-Type": reply.content_type, **reply.headers})
        await response.prepare(request)
        async for piece in self._body(call, reply):
            await response.write(piece)
        while reply.endless:
            await response.write(reply.endless.encode())
        if reply.hang:
            await asyncio.Event().wait()
        if reply.cut == "reset" and request.transport is not None:
            request.transport.abort()
        call.finished = reply.cut is None
        await response.write_eof()
        return response

    async def _body(self, call: Call, reply: Reply) -> AsyncIterator[bytes]:
        if reply.raw is not None:
            yield reply.raw.encode("utf-8", "surrogateescape")
            return
        line_end = reply.line_end.encode()
        async for piece in self._events(call, reply):
            yield piece.replace(b"\n", line_end)

    async def _events(self, call: Call, reply: Reply) -> AsyncIterator[bytes]:
        """The protocol's own: a reply's tokens and its end as server-sent events."""
        model = call.body["model"]
        yield _event(_chunk(model, {"role": "assistant", "content": ""}))
        async for token in spoken(call, reply):
            yield reply.keep_alive.encode() + _event(_chunk(model, {"content": token}))
        if reply.cut == "mid_json":
            yield _event(_chunk(model, {"content": "never seen"}))[:-30]
        if reply.cut is not None or reply.hang or reply.endless:
            return
        yield reply.keep_alive.encode() + _event(_chunk(model, {}, reply.finish_reason))
        if reply.usage is not None:
            yield _event({**_chunk(model, {}), "choices": [], "usage": _usage(reply.usage)})
        if reply.done:
            yield b"data: [DONE]\n\n"

    async def _script_over_http(self, request: web.Request) -> web.Response:
        self.script(*(Reply(**fields) for fields in await request.json()))
        return web.json_response({"queued": len(self._scripted)})

    async def _calls_over_http(self, _: web.Request) -> web.Response:
        shown = ("body", "tokens_sent", "finished", "closed_by_client")
        calls = [{name: getattr(call, name) for name in shown} for call in self.requests]
        return web.json_response({"calls": calls, "most_running": self.most_running})


def texts_of(body: dict[str, Any]) -> list[str]:
    """The texts of a prompt, the question last: what the server has joined is taken apart."""
    return [text for message in body["messages"] for text in str(message["content"]).split("\n\n")]


def refuse_unlike_roles(body: dict[str, Any]) -> Reply | None:
    """As the chat templates of Mistral and Gemma do: 400 unless user and assistant alternate, a
    user first and last."""
    roles = [message["role"] for message in body["messages"]]
    spoken_roles = roles[1:] if roles[0] == "system" else roles
    expected = ["user" if place % 2 == 0 else "assistant" for place in range(len(spoken_roles))]
    texts = [message["content"] for message in body["messages"]]
    if (
        spoken_roles == expected
        and len(expected) % 2 == 1
        and all(isinstance(t, str) and t.strip() for t in texts)
    ):
        return None
    problem = "Conversation roles must alternate user/assistant/user/assistant/..."
    return Reply(status=400, error={"message": problem, "type": "BadRequestError", "code": 400})


def context_of(tokens: int, chars_a_token: float = 4.0) -> Callable[[dict[str, Any]], Reply | None]:
    """Refuses prompts of more than ``tokens`` as vLLM does, with both counts."""

    def refuse(body: dict[str, Any]) -> Reply | None:
        count = round(sum(len(message["content"]) for message in body["messages"]) / chars_a_token)
        if count <= tokens:
            return None
        problem = (
            f"This model's maximum context length is {tokens} tokens. However, your request has {count} input tokens."
            " Please reduce the length of the input messages."
        )
        return Reply(status=400, error={"message": problem, "type": "BadRequestError", "code": 400})

    return refuse


async def spoken(call: Call, reply: Reply) -> AsyncIterator[str]:
    """The reply's tokens at its pace."""
    for token in reply.tokens:
        if reply.delay_s:
            await asyncio.sleep(reply.delay_s)
        call.tokens_sent += 1
        yield token


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def _chunk(model: str, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-stub",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": f"{model}-stub",
        "choices": [choice],
    }


def _whole(call: Call, reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": "".join(reply.tokens)}
    call.finished = True
    return {
        "id": "chatcmpl-stub",
        "object": "chat.completion",
        "created": 1,
        "model": f"{call.body['model']}-stub",
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason}],
        "usage": _usage(reply.usage or (0, 0)),
    }


def _usage(usage: tuple[int, int]) -> dict[str, int]:
    prompt, completion = usage
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


async def _serve(port: int, delay_s: float) -> None:
    async with OpenAIStub(port, delay_s=delay_s) as stub:
        print(stub.base_url, flush=True)  # noqa: T201 - read by the process that started this one
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An OpenAI-compatible stub provider.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each token")
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.port, arguments.delay))

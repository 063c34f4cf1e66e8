"""The stub provider with Anthropic's messages protocol in place of OpenAI's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from tests.openai_stub import Call, OpenAIStub, Reply, spoken


class AnthropicStub(OpenAIStub):
    """``finish_reason`` of a Reply is Anthropic's ``stop_reason``, ``stop`` stands for
    ``end_turn``."""

    _path = "/v1/messages"
    _base_path = ""

    async def _events(self, call: Call, reply: Reply) -> AsyncIterator[bytes]:
        prompt, completion = reply.usage or (0, 0)
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "content": [],
            "stop_reason": None,
        }
        usage = {"input_tokens": prompt, "output_tokens": 1}
        yield _event(
            "message_start",
            message={**message, "model": f"{call.body['model']}-stub", "usage": usage},
        )
        yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        async for token in spoken(call, reply):
            yield reply.keep_alive.encode() + _delta(token)
        if reply.cut == "mid_json":
            yield _delta("never seen")[:-30]
        if reply.cut is not None or reply.hang:
            return
        yield _event("content_block_stop", index=0)
        reason = "end_turn" if reply.finish_reason == "stop" else reply.finish_reason
        usage = {"input_tokens": prompt, "output_tokens": completion}
        yield _event("message_delta", delta={"stop_reason": reason}, usage=usage)
        yield _event("message_stop")


def _delta(text: str) -> bytes:
    return _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()

"""The reference clients on a bad network: every reply whole, every message and every question to the AI once."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.backends_redis import missing_backend
from tests.examples.cutting_proxy import CuttingProxy
from tests.openai_stub import OpenAIStub, Reply
from tests.server_process import Client, running_server

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
REPLIES = ["Guten Tag! 안녕하세요 👋 ", "Ünïcödé, line\nbreak and </script>", "x" * 3000]


def command(language: str) -> list[str]:
    if language == "python":
        return [sys.executable, "-I", str(EXAMPLES / "python/chat_client.py")]
    node = shutil.which("node")
    if node is None:
        missing_backend("node is not on PATH (Debian: apt-get install nodejs)")
    assert node is not None
    return [node, str(EXAMPLES / "javascript/chat_client.mjs")]


def pieces(text: str) -> list[str]:
    """Some tokens of about 1/12 of the text."""
    size = max(1, len(text) // 12)
    return [text[at : at + size] for at in range(0, len(text), size)]


@pytest.mark.parametrize("language", ["python", "javascript"])
async def test_a_client_gets_every_reply_whole_sends_every_message_once_and_tells_a_refusal(
    language: str, tmp_path: Path
) -> None:
    words = command(language)
    async with OpenAIStub() as provider:
        provider.script(*(Reply(pieces(text), delay_s=0.05) for text in REPLIES))
        changes = {
            "BASE_SERVER__LLMCONFIG__PROVIDERS__OPENAI__BASE_URL": provider.base_url,
            "BASE_SERVER__LLMCONFIG__PROVIDERS__OPENAI__API_KEY": "of-the-test",
        }
        with running_server(tmp_path / "data", **changes) as server:
            async with CuttingProxy(server.base_url, lost_answers=1, cuts=3) as network:
                client = await asyncio.create_subprocess_exec(
                    *words, network.base_url, "alice", "correct horse",
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                )  # fmt: skip
                async with asyncio.timeout(60):
                    said, complained = await client.communicate(b"first\n\nsecond\nthird\n")
                assert (client.returncode, complained) == (0, b"")
                assert said.decode() == "".join(f"{text}\n" for text in REPLIES)
                assert (network.lost_answers, network.cuts) == (0, 0)
                assert network.streams == len(REPLIES) + 3
            assert provider.calls == len(REPLIES)
            refused = await asyncio.create_subprocess_exec(
                *words, server.base_url, "alice", "correct horse", "NOBODY",
                stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            _, complained = await refused.communicate()
            assert refused.returncode == 1
            assert b"ChatError: 1002 INVALID_REQUEST: ai_persona" in complained
            async with aiohttp.ClientSession() as http:
                alice = Client(http, server.base_url)
                await alice.sign_in("alice")
                (room,) = (await alice.ok("/api/chat/rooms"))["rooms"]
                messages = (await alice.ok("/api/chat/messages", room_id=room["room_id"]))["messages"]
    assert [m["content"] for m in messages if m["sender_type"] == "USER"] == ["first", "second", "third"]
    assert [m["content"] for m in messages if m["sender_type"] == "AI"] == REPLIES

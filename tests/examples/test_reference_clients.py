"""The reference clients on a bad network: every reply whole, every message and every question to
the AI once."""

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
from tests.waiting import PATIENCE_S

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
async def test_client_gets_whole_replies_sends_once_and_reports_refusals(
    language: str, tmp_path: Path
) -> None:
    """A client gets every reply whole sends every message once and tells a refusal."""
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
                async with asyncio.timeout(PATIENCE_S):
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
            assert complained.startswith(
                f"{Path(words[-1]).name}: 1002 INVALID_REQUEST: ai_persona".encode()
            )
            assert complained.count(b"\n") == 1
            refused = await asyncio.create_subprocess_exec(
                *words, server.base_url, "alice", "another password",
                stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            _, complained = await refused.communicate()
            assert refused.returncode == 1
            assert b"alice" in complained
            assert b"the name is somebody else's" in complained
            assert complained.count(b"\n") == 1
            async with aiohttp.ClientSession() as http:
                alice = Client(http, server.base_url)
                await alice.sign_in("alice")
                (room,) = (await alice.ok("/api/chat/rooms"))["rooms"]
                messages = (await alice.ok("/api/chat/messages", room_id=room["room_id"]))[
                    "messages"
                ]
    assert [m["content"] for m in messages if m["sender_type"] == "USER"] == [
        "first",
        "second",
        "third",
    ]
    assert [m["content"] for m in messages if m["sender_type"] == "AI"] == REPLIES


WRONG_PLACES = {
    "no server": ("http://127.0.0.1:1", "is a server running at http://127.0.0.1:1?"),
    "no address": ("127.0.0.1:8080", "usage: chat_client.py http://HOST:PORT ACCOUNT_ID PASSWORD"),
    "another server": ("http://127.0.0.1:{port}", "does not answer as a chat server does"),
}


@pytest.mark.parametrize(("base_url", "said"), WRONG_PLACES.values(), ids=WRONG_PLACES)
async def test_a_wrong_address_is_one_line(base_url: str, said: str) -> None:
    async def strange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        await writer.drain()
        writer.close()

    hurried = "import sys, time, runpy; time.sleep = lambda _: None; sys.argv.pop(0); "
    hurried += "runpy.run_path(sys.argv[0], run_name='__main__')"
    async with await asyncio.start_server(strange, "127.0.0.1", 0) as server:
        url = base_url.format(port=server.sockets[0].getsockname()[1])
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-c", hurried, command("python")[-1], url, "alice", "correct horse",
            stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, complained = await client.communicate()
    assert client.returncode == 1
    assert said in complained.decode()
    assert complained.count(b"\n") == 1

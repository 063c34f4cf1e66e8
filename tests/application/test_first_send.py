"""U9: who sends first to a process does not wait for what it has to import and build."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from pathlib import Path

import aiohttp
import pytest

from application.base_web_server.config.loading import load_settings
from application.base_web_server.lifecycle import Server
from base_server.service.llm import AIChat_service
from base_server.service.llm.AIChat_service import AIChatService
from base_server.template.base.template_context import TemplateContext
from tests.backends_redis import free_port
from tests.server_process import ROOT, server_environment
from tests.waiting import until


async def test_a_server_is_ready_when_its_models_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """U9"""
    port, built = free_port(), threading.Event()
    build = AIChat_service._import_and_build
    monkeypatch.setattr(
        AIChat_service, "_import_and_build", lambda *args: built.wait() and build(*args)
    )
    wait, all_else_is_up = AIChatService.wait_until_ready, asyncio.Event()

    async def noted_wait(service: AIChatService) -> None:
        all_else_is_up.set()
        await wait(service)

    monkeypatch.setattr(AIChatService, "wait_until_ready", noted_wait)
    for name, value in server_environment(
        tmp_path, {"BASE_SERVER__NETCONFIG__PORT": str(port)}
    ).items():
        monkeypatch.setenv(name, value)
    server, stop = Server(load_settings("LOCAL", None), TemplateContext()), asyncio.Event()
    running = asyncio.create_task(server.run(stop, lambda _: None))

    async with aiohttp.ClientSession() as http:

        async def status() -> tuple[int, str]:
            try:
                async with http.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    return answer.status, json.dumps(await answer.json())
            except aiohttp.ClientConnectionError:
                return 0, ""

        async def answers() -> bool:
            return (await status())[0] == 503

        async def is_ready() -> bool:
            return (await status())[0] == 200

        await until(answers)
        await until(all_else_is_up.is_set)
        assert not await is_ready()
        built.set()
        await until(is_ready)
    stop.set()
    await running


async def test_the_first_call_of_a_ready_service_imports_nothing() -> None:
    """U9"""
    program = """
import asyncio, sys
from base_server.service.core.tasks import TaskRegistry
from base_server.service.llm.AIChat_service import AIChatService
from tests.openai_stub import OpenAIStub
from tests.service.llm.ai_fixtures import stub_settings

async def main():
    async with OpenAIStub() as stub:
        service = AIChatService(stub_settings(stub.base_url), None, TaskRegistry(), "DEBUG", {})
        await service.start()
        await service.wait_until_ready()
        known = set(sys.modules)
        async for _ in service.stream("hi", "session", history=[]):
            pass
        new = (name for name in sys.modules if name not in known)
        print(*(name for name in new if not name.startswith("encodings.")))
        await service.stop()

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert said.decode().splitlines()[-1] == ""

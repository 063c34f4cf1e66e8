"""Our server as it is started by its configuration, except for what answers as the AI: ``python -m
… stub|langchain``.

``stub`` takes the place of all models, so AIChatService works and LangChain does not; a question
that is a JSON object says how its reply comes: ``{"chunks": 100, "bytes": 20, "pause_s": 0.01}``.
``langchain`` is a real LangChain model that answers at once.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Sequence

from application.base_web_server.config.loading import load_settings
from application.base_web_server.serving import run_loop, serve
from base_server.service.core.logger import configure_logging
from base_server.service.llm import AIChat_service
from base_server.service.llm.call_permit import CallPermit
from base_server.service.llm.conversation import (
    HistoryMessage,
    ReplyChunk,
    ReplyEnd,
    ReplyItem,
    ReplyStart,
)
from benchmarks.subjects.fake_model import ANSWER, OneChunkModel


class StubModels:
    """What AIChatService asks for replies."""

    async def stream(
        self, persona: str, history: Sequence[HistoryMessage], question: str, permit: CallPermit
    ) -> AsyncGenerator[ReplyItem, None]:
        await permit.obtain()
        plan = json.loads(question) if question.startswith("{") else {}
        chunks, pause_s = plan.get("chunks", 1), plan.get("pause_s")
        text = ANSWER if not plan else "x" * plan.get("bytes", 20)
        yield ReplyStart("stub", 1)
        for _ in range(chunks):
            yield ReplyChunk(text, 1)
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        yield ReplyEnd("stub", 1, chunks, "stop", 0)

    async def close(self) -> None:
        """Nothing is open."""


def main(ai: str) -> None:
    settings = load_settings("DEBUG")
    configure_logging(settings.netConfig.log_level)
    if ai == "stub":
        setattr(AIChat_service, "_import_and_build", lambda *_: StubModels())  # noqa: B010 - it is no ModelSet
    else:
        import base_server.service.llm.integrations as integrations  # noqa: PLC0415 - imports LangChain
        from base_server.service.llm.model_stream import ModelTraits  # noqa: PLC0415

        traits = ModelTraits(says_why=True, usage_adds_up=False)
        setattr(integrations, "build_model", lambda *_: (OneChunkModel(), traits))  # noqa: B010 - in place of all integrations
    run_loop(serve(settings, lambda url: print(f"Ready at {url}", flush=True)))


if __name__ == "__main__":
    main(sys.argv[1])

"""A host's process beside the servers, with their configuration: documented calls, by name, one
after the other.

    python -m tests.faults.host '[["transition_room", "ROOM", "DELETING"], ["send_message",
    "CHAT_ROOM_UPDATE", {…}]]'

Prints what each call returned, as one JSON list.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from application.base_web_server.config.loading import load_settings
from base_server.service.queue.queue_service import get_queue_service
from base_server.service.service_container import ServiceContainer, ServiceSettings
from base_server.template.chat.chat_state_machine import get_chat_state_machine
from base_server.template.chat.chat_template_impl import create_chat_template
from base_server.template.chat.domain.states import MessageState, RoomState

QUEUE = "chat_persistence"


async def call(name: str, *arguments: Any) -> Any:
    """One documented call; what it says of its success."""
    machine = get_chat_state_machine()
    match name:
        case "transition_room":
            return bool(await machine.transition_room(arguments[0], RoomState[arguments[1]]))
        case "transition_message":
            return bool(await machine.transition_message(arguments[0], MessageState[arguments[1]]))
        case "smart_delete_message":
            return (await machine.smart_delete_message(arguments[0]))[0]
        case "send_message":
            message_type, payload = arguments
            return await get_queue_service().send_message(
                QUEUE, payload, message_type, 2, payload["room_id"]
            )
        case _:
            raise ValueError(name)


async def run(calls: list[list[Any]]) -> list[Any]:
    """Start what a host starts, call, stop."""
    settings = load_settings("DEBUG")
    container = ServiceContainer(
        ServiceSettings(
            app_id=settings.templateConfig.appId,
            env=settings.templateConfig.env,
            data_dir=settings.templateConfig.data_dir.absolute(),
            cache=settings.cacheConfig,
            queue=settings.queueConfig,
            database=settings.databaseConfig,
            llm=settings.llmConfig,
            scheduler=settings.schedulerConfig,
        )
    )
    template = create_chat_template(container, settings.chatConfig)
    await container.start()
    try:
        await template.start()
        try:
            return [await call(*each) for each in calls]
        finally:
            await template.stop()
    finally:
        await container.stop()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(json.loads(sys.argv[1])))))  # noqa: T201 - a command

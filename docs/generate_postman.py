"""Prints docs/postman/chat-template-server.postman_collection.json from the API's description."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from application.base_web_server.config.loading import ServerSettings
from application.base_web_server.http.openapi import describe_api
from application.base_web_server.templates import add_templates, create_session_store
from base_server.service.service_container import ServiceContainer, ServiceSettings
from base_server.template.base.template_context import TemplateContext

# Protocols in an order in which they work: each finds what it needs.
LIFE = (1001, 1002, 6021, 6002, 6001, 6003, 6011, 6012, 6013, 6014, 6015, 6016, 6004, 1003)
# What an answer tells and later requests need: variable → protocol, place in its answer.
_KEPT = {
    "token": (1002, "accessToken"),
    "room_id": (6002, "room.room_id"),
    "message_id": (6011, "message.message_id"),
    "question_id": (6011, "user_message.message_id"),
}
_START = {"base_url": "http://127.0.0.1:8080", "account_id": "alice", "password": "correct horse"}
_ABOUT = (
    "Every request of the chat server, in an order in which they work: run it from top to bottom. "
    "Printed from the server's own description (/openapi.json) by `make docs`."
)


def collection_file() -> str:
    """The whole file, in Postman's collection format 2.1."""
    operations = operations_by_protocol(described_api())
    # An example's own id → the variable that has the real one.
    variables = {
        _at(_answer(operations[protocol][1]), place): name
        for name, (protocol, place) in _KEPT.items()
    }
    variables |= {value: name for name, value in _START.items()}
    collection = {
        "info": {
            "name": "Chat template server",
            "description": _ABOUT,
            "schema": "https://schema.getpostman.com/json/collection/v2.1.0/collection.json",
        },
        "auth": {
            "type": "bearer",
            "bearer": [{"key": "token", "value": "{{token}}", "type": "string"}],
        },
        "variable": [
            {"key": key, "value": value}
            for key, value in (_START | dict.fromkeys(_KEPT, "")).items()
        ],
        "item": [_item(protocol, *operations[protocol], variables) for protocol in LIFE],
    }
    return json.dumps(collection, indent=2, ensure_ascii=False) + "\n"


def described_api() -> dict[str, Any]:
    """``/openapi.json`` of the shipped server; nothing is started."""
    settings = ServerSettings()
    container = ServiceContainer(ServiceSettings("app", "LOCAL", Path("unused")))
    context = TemplateContext()
    add_templates(context, container, settings, create_session_store(container, settings.netConfig))
    return describe_api(context.endpoints())


def operations_by_protocol(document: Mapping[str, Any]) -> dict[int, tuple[str, dict[str, Any]]]:
    """Protocol id → path and operation."""
    found = (
        (path, methods["post"]) for path, methods in document["paths"].items() if "post" in methods
    )
    return {
        operation["x-protocol-id"]: (path, operation)
        for path, operation in found
        if "x-protocol-id" in operation
    }


def _item(
    protocol: int, path: str, operation: dict[str, Any], variables: Mapping[str, str]
) -> dict[str, Any]:
    body = dict(operation["requestBody"]["content"]["application/json"]["example"])
    for name, value in body.items():
        body[name] = f"{{{{{variables[value]}}}}}" if value in variables else value
    if "client_message_id" in body:
        body["client_message_id"] = "{{$guid}}"
    kept = [(name, place) for name, (source, place) in _KEPT.items() if source == protocol]
    return {
        "name": f"{protocol} {operation['summary']}",
        "event": [
            {
                "listen": "test",
                "script": {"type": "text/javascript", "exec": _script(protocol, operation, kept)},
            }
        ],
        "request": {
            "method": "POST",
            "description": operation["description"],
            "header": [{"key": "Content-Type", "value": "application/json"}],
            "body": {"mode": "raw", "raw": json.dumps(body, indent=2, ensure_ascii=False)},
            "url": {
                "raw": f"{{{{base_url}}}}{path}",
                "host": ["{{base_url}}"],
                "path": path.strip("/").split("/"),
            },
        },
        "response": [],
    }


def _script(protocol: int, operation: dict[str, Any], kept: list[tuple[str, str]]) -> list[str]:
    if "text/event-stream" in operation["responses"]["200"]["content"]:
        end = r"/event: reply\.(done|stopped)/"
        return [
            f'pm.test("the reply has an end", () => pm.expect(pm.response.text()).to.match({end}));'
        ]
    good = "[0, 2001]" if protocol == 1001 else "[0]"  # signed up already
    return [
        f'pm.test("it worked", () => pm.expect(pm.response.json().errorCode).to.be.oneOf({good}));',
        *(
            f'pm.collectionVariables.set("{name}", pm.response.json().{place});'
            for name, place in kept
        ),
    ]


def _answer(operation: dict[str, Any]) -> Any:
    return operation["responses"]["200"]["content"]["application/json"]["example"]


def _at(value: Any, place: str) -> str:
    for name in place.split("."):
        value = value[name]
    return str(value)

"""The OpenAPI 3.1 description, made from the protocol tables and the error registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from application.base_web_server import __version__
from template.base.errors import ErrorCode
from template.base.protocol import Access, Protocol
from template.base.wire import Response

_REF = "#/components/schemas/{model}"
_Mode = Literal["validation", "serialization"]


def describe_api(protocols: Sequence[Protocol]) -> dict[str, Any]:
    """The document as JSON values."""
    wanted: list[tuple[type[BaseModel], _Mode]] = [(Response, "serialization")]
    for protocol in protocols:
        wanted += [(protocol.request, "validation"), (protocol.response, "serialization")]
        wanted += [(event, "serialization") for event in protocol.events.values()]
    refs, defs = models_json_schema(list(dict.fromkeys(wanted)), ref_template=_REF)
    errors = _error_responses(refs[(Response, "serialization")])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Chat template server",
            "version": __version__,
            "description": "Requests are POSTs of a JSON envelope; every answer carries `errorCode`, 0 for success.",
        },
        "paths": {protocol.path: {"post": _operation(protocol, refs, errors)} for protocol in protocols},
        "components": {
            "schemas": {**defs.get("$defs", {}), "ErrorCode": _error_code_schema()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(protocol: Protocol, refs: Mapping[Any, Any], errors: dict[str, Any]) -> dict[str, Any]:
    user = protocol.access is Access.USER
    request = refs[(protocol.request, "validation")]
    success = _stream(protocol, refs) if protocol.events else _json(refs[(protocol.response, "serialization")])
    return {
        "operationId": f"protocol_{protocol.id}",
        "summary": protocol.summary,
        "description": f"Protocol {protocol.id}; the same as POST /api/protocol/{protocol.id}.",
        "tags": [protocol.path.strip("/").split("/")[1] if protocol.path.count("/") > 1 else "api"],
        # The token may stand in the body's accessToken too, so the header alone is never required.
        "security": [{"token": []}, {}] if user else [],
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {
            "200": success,
            **errors,
        },
    } | ({"parameters": [_LAST_EVENT_ID]} if "last_event_id" in protocol.request.model_fields else {})


def _json(schema: Any) -> dict[str, Any]:
    return {"description": "Success", "content": {"application/json": {"schema": schema}}}


def _stream(protocol: Protocol, refs: Mapping[Any, Any]) -> dict[str, Any]:
    """The schema is that of one event; its ``data`` is one line of JSON."""
    kinds = [_event(name, refs[(model, "serialization")]) for name, model in protocol.events.items()]
    return {
        "description": (
            "Success: Server-Sent Events; the last `id` is where to resume. Comments (`: ping`, every 15 s) are no "
            "events. A failure before the first event is one of the answers below."
        ),
        "content": {"text/event-stream": {"schema": {"oneOf": kinds}}},
    }


def _event(name: str, data: Any) -> dict[str, Any]:
    return {
        "title": name,
        "type": "object",
        "required": ["id", "event", "data"],
        "properties": {
            "id": {"type": "string", "pattern": "^[0-9]+$"},
            "event": {"const": name},
            "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": data},
        },
    }


_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "Where to go on, as an alternative to `last_event_id` in the body, which wins.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
}


def _error_responses(envelope: Any) -> dict[str, Any]:
    """HTTP status → the codes that come with it."""

    def status(code: ErrorCode) -> int:
        return code.http_status

    # What the door itself refuses carries code 1002 under a status of its own.
    at_the_door = {
        408: "1002 INVALID_REQUEST: the body did not arrive in time",
        413: "1002 INVALID_REQUEST: the body is larger than netConfig.max_body_bytes",
    }
    failures = sorted((code for code in ErrorCode if code is not ErrorCode.OK), key=status)
    described = at_the_door | {
        http_status: " · ".join(f"{int(code)} {code.name}: {code.meaning}" for code in codes)
        for http_status, codes in groupby(failures, key=status)
    }
    return {
        str(http_status): {"description": text, "content": {"application/json": {"schema": envelope}}}
        for http_status, text in sorted(described.items())
    }


def _error_code_schema() -> dict[str, Any]:
    return {
        "description": "`errorCode`, with the name that `error.code` has.",
        "oneOf": [
            {
                "const": int(code),
                "title": code.name,
                "description": f"{code.meaning} (HTTP {code.http_status}{', retryable' if code.retryable else ''})",
            }
            for code in ErrorCode
        ],
    }

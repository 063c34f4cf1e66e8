"""The OpenAPI 3.1 description, made from the endpoint tables and the error registry."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from inspect import getdoc
from itertools import groupby
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from base_server.template.base.endpoint import Access, Endpoint
from base_server.template.base.envelope import Response
from base_server.template.base.errors import ErrorCode

from .. import __version__

_REF = "#/components/schemas/{model}"
_ABOUT = """Every request is a POST of a JSON object; every response has `errorCode`, 0 for success,
and the `sequence` of its request. A failed one has `error` with `code`, `message`, `retryable` and,
where they help, `retry_after_s` and `details`. Unknown fields of a request are ignored; known ones
are validated strictly: `"5"` is not a number.

**Token**: `accessToken` of a login, as `Authorization: Bearer …` or as `accessToken` in the body.
**Retries**: a request without a response may be sent again with the same `client_message_id` or
`client_request_id`; it is executed once.
**Streams**: Server-Sent Events; after a broken connection resume after the last event's `id`."""
_Mode = Literal["validation", "serialization"]


def describe_api(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The document as JSON values."""
    wanted: list[tuple[type[BaseModel], _Mode]] = [(Response, "serialization")]
    for endpoint in endpoints:
        wanted += [(endpoint.request, "validation"), (endpoint.response, "serialization")]
        wanted += [(event, "serialization") for event in endpoint.events.values()]
    refs, defs = models_json_schema(list(dict.fromkeys(wanted)), ref_template=_REF)
    envelope = refs[(Response, "serialization")]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Chat template server",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": {
            **{
                endpoint.path: {"post": _operation(endpoint, refs, envelope)}
                for endpoint in endpoints
            },
            "/api/protocol/{protocol_id}": {"post": _dispatch(endpoints, envelope)},
        },
        "components": {
            "schemas": {**defs.get("$defs", {}), "ErrorCode": _error_code_schema()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: Endpoint, refs: Mapping[Any, Any], envelope: Any) -> dict[str, Any]:
    user = endpoint.access is Access.USER
    request: dict[str, Any] = {"schema": refs[(endpoint.request, "validation")]}
    if endpoint.example is not None:
        request["example"] = dict(endpoint.example.request)
    same = f"Protocol {endpoint.id}; the same as POST /api/protocol/{endpoint.id}."
    return {
        "operationId": f"protocol_{endpoint.id}",
        "x-protocol-id": endpoint.id,
        "x-error-codes": [int(code) for code in endpoint.possible_errors],
        "summary": endpoint.summary,
        "description": "\n\n".join(filter(None, (getdoc(endpoint.handler), same))),
        "tags": [endpoint.path.strip("/").split("/")[1] if endpoint.path.count("/") > 1 else "api"],
        # The token may stand in the body's accessToken too, so the header alone is never required.
        "security": [{"token": []}, {}] if user else [],
        "requestBody": {"required": True, "content": {"application/json": request}},
        "responses": {
            "200": _stream(endpoint, refs) if endpoint.events else _json(endpoint, refs),
            **_error_responses(endpoint.possible_errors, envelope),
        },
    } | (
        {"parameters": [_LAST_EVENT_ID]} if "last_event_id" in endpoint.request.model_fields else {}
    )


def _dispatch(endpoints: Sequence[Endpoint], envelope: Any) -> dict[str, Any]:
    codes = {code for endpoint in endpoints for code in endpoint.possible_errors} | {
        ErrorCode.UNKNOWN_PROTOCOL
    }
    known = {"type": "integer", "enum": [endpoint.id for endpoint in endpoints]}
    return {
        "operationId": "protocol_by_id",
        "x-error-codes": sorted(int(code) for code in codes),
        "summary": "Any endpoint by its protocol id",
        "description": "Request and response are those of the endpoint.",
        "tags": ["protocol"],
        "security": [{"token": []}, {}],
        "parameters": [{"name": "protocol_id", "in": "path", "required": True, "schema": known}],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
        "responses": {
            "200": {
                "description": "Success",
                "content": {
                    "application/json": {"schema": envelope},
                    "text/event-stream": {"schema": {"type": "string"}},
                },
            },
            **_error_responses(codes, envelope),
        },
    }


def _json(endpoint: Endpoint, refs: Mapping[Any, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"schema": refs[(endpoint.response, "serialization")]}
    if endpoint.example is not None:
        answer["example"] = dict(endpoint.example.answer)
    return {"description": "Success", "content": {"application/json": answer}}


def _stream(endpoint: Endpoint, refs: Mapping[Any, Any]) -> dict[str, Any]:
    """The schema is that of one event; its ``data`` is one line of JSON."""
    kinds = [
        _event(name, refs[(model, "serialization")]) for name, model in endpoint.events.items()
    ]
    content: dict[str, Any] = {"schema": {"oneOf": kinds}}
    if endpoint.example is not None:
        content["example"] = b"".join(event.encode() for event in endpoint.example.events).decode()
    return {
        "description": (
            "Success: Server-Sent Events; resume from the last `id`. Comments (`: ping`) are no "
            "events. A failure before the first event is one of the answers below."
        ),
        "content": {"text/event-stream": content},
    }


def _event(name: str, data: Any) -> dict[str, Any]:
    return {
        "title": name,
        "type": "object",
        "required": ["id", "event", "data"],
        "properties": {
            "id": {"type": "string", "pattern": "^[0-9]+$"},
            "event": {"const": name},
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": data,
            },
        },
    }


_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "Where to go on, as an alternative to `last_event_id` in the body, which wins.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
}


def _error_responses(codes: Collection[ErrorCode], envelope: Any) -> dict[str, Any]:
    """HTTP status → the codes that come with it."""

    def status(code: ErrorCode) -> int:
        return code.http_status

    # What request validation refuses carries code 1002 under a status of its own.
    at_the_door = {
        408: "1002 INVALID_REQUEST: the body did not arrive in time",
        413: "1002 INVALID_REQUEST: the body is larger than netConfig.max_body_bytes",
        415: "1002 INVALID_REQUEST: the body is compressed",
    }
    described = at_the_door | {
        http_status: " · ".join(f"{int(code)} {code.name}: {code.described}" for code in same)
        for http_status, same in groupby(sorted(sorted(codes), key=status), key=status)
    }
    return {
        str(http_status): {
            "description": text,
            "content": {"application/json": {"schema": envelope}},
        }
        for http_status, text in sorted(described.items())
    }


def _error_code_schema() -> dict[str, Any]:
    return {
        "description": "`errorCode`, with the name that `error.code` has.",
        "oneOf": [
            {
                "const": int(code),
                "title": code.name,
                "description": f"{code.described} (HTTP {code.http_status}"
                f"{', retryable' if code.retryable else ''})",
            }
            for code in ErrorCode
        ],
    }

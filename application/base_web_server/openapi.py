"""The OpenAPI 3.1 description, made from the protocol tables and the error registry."""

from __future__ import annotations

from collections.abc import Sequence
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
    refs, defs = models_json_schema(list(dict.fromkeys(wanted)), ref_template=_REF)
    errors = _error_responses(refs[(Response, "serialization")])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Chat template server",
            "version": __version__,
            "description": "Requests are POSTs of a JSON envelope; every answer carries `errorCode`, 0 for success.",
        },
        "paths": {
            protocol.path: {
                "post": _operation(
                    protocol, refs[(protocol.request, "validation")], refs[(protocol.response, "serialization")], errors
                )
            }
            for protocol in protocols
        },
        "components": {
            "schemas": {**defs.get("$defs", {}), "ErrorCode": _error_code_schema()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(protocol: Protocol, request: Any, response: Any, errors: dict[str, Any]) -> dict[str, Any]:
    user = protocol.access is Access.USER
    return {
        "operationId": f"protocol_{protocol.id}",
        "summary": protocol.summary,
        "description": f"Protocol {protocol.id}; the same as POST /api/protocol/{protocol.id}.",
        "tags": [protocol.path.strip("/").split("/")[1] if protocol.path.count("/") > 1 else "api"],
        # The token may stand in the body's accessToken too, so the header alone is never required.
        "security": [{"token": []}, {}] if user else [],
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {
            "200": {"description": "Success", "content": {"application/json": {"schema": response}}},
            **errors,
        },
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

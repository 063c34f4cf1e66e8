"""Schemathesis on the running server, from its own /openapi.json, with two accounts.

Every operation gets valid and broken bodies of two accounts and of nobody. Never a 500, never a
status or a body that the description does not tell. ``SCHEMATHESIS_EXAMPLES`` is the number of
examples an operation.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import (
    not_a_server_error,
)
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.server_process import ServerProcess, running_server

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "12"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
_REAL = ("account_id", "password", "room_id", "message_id")
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    changes = {
        "BASE_SERVER__NETCONFIG__SIGNUPS_PER_ADDRESS": "100000",
        "BASE_SERVER__NETCONFIG__LOGIN_ATTEMPTS_PER_ADDRESS": "100000",
    }
    with (
        tempfile.TemporaryDirectory(prefix="s-") as folder,
        running_server(Path(folder) / "data", **changes) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def load_clients(server: ServerProcess) -> list[dict[str, str]]:
    """Two accounts with a token, a room and a message each; their ids are what the bodies are made
    from."""
    made = []
    for _ in range(2):
        account_id = f"schema{uuid.uuid4().hex[:10]}"
        body: dict[str, Any] = {"account_id": account_id, "password": PASSWORD}
        _ok(server, "/api/account/signup", body)
        token = _ok(server, "/api/account/login", body)["accessToken"]
        room = _ok(server, "/api/chat/room/create", {"ai_persona": "DEMO"}, token)["room"]
        sent = _ok(
            server,
            "/api/chat/message/send",
            {"room_id": room["room_id"], "content": "hello"},
            token,
        )
        made.append(
            body
            | {
                "token": token,
                "room_id": room["room_id"],
                "message_id": sent["user_message"]["message_id"],
            }
        )
    return made


def _ok(server: ServerProcess, path: str, body: dict[str, Any], token: str = "") -> dict[str, Any]:
    answer = requests.post(
        server.base_url + path, json=body, headers={"Authorization": f"Bearer {token}"}, timeout=30
    )
    envelope: dict[str, Any] = answer.json()
    assert envelope["errorCode"] == 0, envelope
    return envelope


def test_what_the_server_answers_is_what_it_describes(
    server: ServerProcess, load_clients: list[dict[str, str]]
) -> None:
    description = requests.get(server.base_url + "/openapi.json", timeout=30).json()
    schema = schemathesis.openapi.from_dict(description)
    schema.config.update(base_url=server.base_url)
    statuses: Counter[tuple[str, int]] = Counter()
    # What takes away from the others comes last.
    operations = sorted(
        (result.ok() for result in schema.get_all_operations()),
        key=lambda operation: (
            operation.path.endswith("{protocol_id}"),
            "logout" in operation.path,
            "delete" in operation.path,
        ),
    )
    assert len(operations) >= 11
    with requests.Session() as http:
        for operation in operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                _attack(server, http, operation, mode, load_clients, statuses)
    reached = {path for (path, status) in statuses if status == 200}
    assert len(reached) >= 8, f"only {reached} ever answered 200: {statuses}"


def _attack(
    server: ServerProcess,
    http: requests.Session,
    operation: Any,
    mode: GenerationMode,
    load_clients: list[dict[str, str]],
    statuses: Counter[tuple[str, int]],
) -> None:
    cases = operation.as_strategy(generation_mode=mode)

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        case=cases,
        me=st.sampled_from([0, 1, None]),
        of=st.sampled_from(load_clients),
        real=st.booleans(),
    )
    def run(case: Any, me: int | None, of: dict[str, str], real: bool) -> None:
        if real and isinstance(case.body, dict) and mode is GenerationMode.POSITIVE:
            # What exists, of the caller or of the other account, and a persona that answers.
            case.body |= {name: of[name] for name in _REAL if name in case.body}
            case.body |= {name: "DEMO" for name in ("ai_persona", "persona") if case.body.get(name)}
        headers = {} if me is None else {"Authorization": f"Bearer {load_clients[me]['token']}"}
        response = case.call(base_url=server.base_url, session=http, headers=headers)
        case.validate_response(response, checks=CHECKS)
        statuses[operation.path, response.status_code] += 1

    run()

"""What /openapi.json and the Postman collection say is what the server does: every example is sent
and answered.
"""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema_rs
import pytest

from base_server.template.base.errors import ErrorCode
from docs.generate_postman import LIFE, described_api, operations_by_protocol
from tests.server_process import running_server

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = json.loads(
    (ROOT / "docs/postman/chat-template-server.postman_collection.json").read_text("utf-8")
)
DOCUMENT = described_api()
OPERATIONS = operations_by_protocol(DOCUMENT)


def content(protocol: int, kind: str) -> dict[str, Any]:
    """Schema and example of a protocol's request or answer."""
    _, operation = OPERATIONS[protocol]
    place = operation["requestBody"] if kind == "request" else operation["responses"]["200"]
    (found,) = place["content"].values()
    assert isinstance(found, dict)
    return found


def events(text: str) -> dict[str, Any]:
    """Name → data of the last event of that name."""
    found = {}
    for block in text.strip().split("\n\n"):
        if not block.startswith(":"):
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            found[fields["event"]] = json.loads(fields["data"])
    return found


def is_stream(protocol: int) -> bool:
    return "text/event-stream" in OPERATIONS[protocol][1]["responses"]["200"]["content"]


def complaints(schema: Any, value: Any) -> list[str]:
    validator = jsonschema_rs.validator_for({**schema, "components": DOCUMENT["components"]})
    return [error.message for error in validator.iter_errors(value)]


def shape(value: Any) -> Any:
    """Names all the way down; a list has the shape of its first item."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value[:1]]
    return "value"


def test_every_protocol_is_described_once_by_its_number() -> None:
    assert sorted(OPERATIONS) == sorted(LIFE)
    assert DOCUMENT["paths"]["/api/protocol/{protocol_id}"]["post"]["parameters"][0]["schema"][
        "enum"
    ] == sorted(LIFE)
    for protocol, (_, operation) in OPERATIONS.items():
        assert operation["operationId"] == f"protocol_{protocol}"
        also = f"Protocol {protocol}; the same as POST /api/protocol/{protocol}."
        assert operation["description"].endswith(also)
        assert operation["description"] != also, "the handler says what it does"


def test_every_operation_lists_the_errors_that_it_may_answer() -> None:
    codes = {
        number: set(operation["x-error-codes"]) for number, (_, operation) in OPERATIONS.items()
    }
    any_request, any_chat = {1002, 5000, 5003}, {1000, 1002, 5000, 5003, 10000}
    assert codes[1001] == any_request | {1010, 2001}
    assert codes[6001] == any_chat
    assert codes[6002] == any_chat | {1004, 1007, 1010}
    assert codes[6003] == codes[6004] == codes[6015] == any_chat | {1004}
    assert codes[6016] == any_chat | {1004, 1005}
    assert codes[6013] == codes[6014] == any_chat | {1004, 1005, 1008}
    assert codes[6012] == codes[6013] | {1001, 1006, 1007, 1010}
    assert codes[6011] - codes[6012] == {1020, 1021}, "in a stream the AI's failure is an event"
    for _, operation in OPERATIONS.values():
        told = " ".join(
            answer["description"]
            for status, answer in operation["responses"].items()
            if status != "200"
        )
        assert {int(code) for code in re.findall(r"\b(\d{4,5}) [A-Z]", told)} == set(
            operation["x-error-codes"]
        )
    by_number = DOCUMENT["paths"]["/api/protocol/{protocol_id}"]["post"]
    assert set(by_number["x-error-codes"]) == set().union(*codes.values()) | {1003}
    assert set(by_number["x-error-codes"]) == {int(code) for code in ErrorCode if code}


def test_what_a_field_takes_is_described() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    signup, create = schemas["SignupRequest"]["properties"], schemas["ChatRoomCreateRequest"]
    assert signup["account_id"]["pattern"] == "^[A-Za-z0-9._-]{3,64}$"
    for platform in ("ios", 3, None):
        assert not complaints(signup["platform_type"], platform)
    assert complaints(signup["platform_type"], "i o s")
    assert "stored as text" in json.dumps(signup["platform_type"])
    assert create["required"] == ["ai_persona"]
    assert "default" not in create["properties"]["ai_persona"]
    for request in ("ChatRoomCreateRequest", "ChatMessageSendRequest"):
        assert "`persona`" in schemas[request]["properties"]["ai_persona"]["description"]
    assert "ignored" in DOCUMENT["info"]["description"]


@pytest.mark.parametrize("protocol", LIFE)
def test_examples_are_what_the_schemas_allow(protocol: int) -> None:
    request = content(protocol, "request")
    assert not complaints(request["schema"], request["example"])
    answer = content(protocol, "answer")
    if not is_stream(protocol):
        assert not complaints(answer["schema"], answer["example"])
        return
    kinds = {kind["properties"]["event"]["const"]: kind for kind in answer["schema"]["oneOf"]}
    told = events(answer["example"])
    assert len(told) >= 2
    for name, data in told.items():
        assert not complaints(kinds[name]["properties"]["data"]["contentSchema"], data)


def test_a_wrong_example_would_be_noticed() -> None:
    schema = content(6002, "request")["schema"]
    assert complaints(schema, {"ai_persona": 5})
    assert complaints(
        content(6011, "answer")["schema"],
        {"errorCode": 0, "sequence": 0, "message": {"seq": "one"}},
    )


async def test_collection_runs_and_its_answers_have_the_examples_shapes(
    tmp_path: Path,
) -> None:
    """The collection runs from top to bottom and answers have the examples shapes."""
    variables = {each["key"]: each["value"] for each in COLLECTION["variable"]}
    with running_server(tmp_path / "data") as server:
        variables["base_url"] = server.base_url
        async with aiohttp.ClientSession() as http:
            for protocol, item in zip(LIFE, COLLECTION["item"], strict=True):
                request = item["request"]
                body = filled(request["body"]["raw"], variables)
                headers = {header["key"]: header["value"] for header in request["header"]}
                headers["Authorization"] = f"Bearer {variables['token']}"
                url = filled(request["url"]["raw"], variables)
                async with http.request(
                    request["method"], url, data=body.encode(), headers=headers
                ) as answer:
                    text = await answer.text()
                (script,) = (event["script"]["exec"] for event in item["event"])
                if is_stream(protocol):
                    assert re.search(r"event: reply\.(done|stopped)", text), text
                    answered = events(text)
                else:
                    answered = json.loads(text)
                    assert answered["errorCode"] == 0, (item["name"], answered)
                    for name, place in re.findall(
                        r'set\("(\w+)", pm\.response\.json\(\)\.([\w.]+)\)', "\n".join(script)
                    ):
                        variables[name] = at(answered, place)
                example = content(protocol, "answer")["example"]
                assert shape(answered) == shape(
                    events(example) if is_stream(protocol) else example
                ), item["name"]


def filled(text: str, variables: dict[str, str]) -> str:
    text = text.replace("{{$guid}}", str(uuid.uuid4()))
    return re.sub(r"\{\{(\w+)\}\}", lambda found: variables[found[1]], text)


def at(value: Any, place: str) -> str:
    for name in place.split("."):
        value = value[name]
    return str(value)

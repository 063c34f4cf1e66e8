"""Strict parsing and encoding: what is refused, how the refusal names the field, what is kept byte
for byte.
"""

from __future__ import annotations

import json

import pytest
from pydantic import Field

from base_server.template.base.encoding import encode
from base_server.template.base.envelope import Request, Response
from base_server.template.base.errors import ApiError, ErrorCode, InvalidRequest, RoomBusy
from base_server.template.base.field_types import Identifier, canonical_account_id
from base_server.template.base.request_body import read_json, read_request


class Note(Request):
    text: str = Field(min_length=1, max_length=10)
    room_id: Identifier = "r"
    count: int = 0


class NoteResponse(Response):
    text: str = ""
    raw: object = None


BAD_JSON = {
    "lone surrogate": b'{"text": "\\ud800"}',
    "NaN": b'{"count": NaN}',
    "5000 digits": b'{"count": ' + b"9" * 5000 + b"}",
    "100000 brackets": b"[" * 100_000,
    "duplicate keys": b'{"text": "a", "text": "b"}',
    "invalid UTF-8": b'{"text": "\xff"}',
    "UTF-7": b'+AHs-"text": 1}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "raw control character": b'{"text": "\x01"}',
    "trailing data": b"{} {}",
    "a list": b"[]",
    "a string": b'"text"',
    "a NUL": b'{"text": "a\\u0000b"}',
    "a NUL in a key": b'{"a\\u0000": 1}',
    "a deep NUL": b'{"a": ' + b'{"b": ' * 150 + b'"\\u0000"' + b"}" * 150 + b"}",
}


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON.keys())
def test_a_body_that_is_not_plain_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_json(body)
    assert len(str(refused.value)) < 1200


def test_an_escaped_backslash_before_u0000_is_ordinary_text() -> None:
    assert read_json(b'{"text": "\\\\u0000"}') == {"text": "\\u0000"}


def test_a_nul_is_named_by_its_place() -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_json(b'{"a": {"b": ["x", "\\u0000"]}}')
    assert refused.value.details == {"field": "a.b"}


BAD_FIELDS = {
    "missing": (b"{}", "text"),
    "wrong type": (b'{"text": 5}', "text"),
    "digits for a number": (b'{"text": "a", "count": "5"}', "count"),
    "true for a number": (b'{"text": "a", "count": true}', "count"),
    "too long": (b'{"text": "12345678901"}', "text"),
    "bad id": (b'{"text": "a", "room_id": "a/b"}', "room_id"),
    "id with newline": (b'{"text": "a", "room_id": "a\\n"}', "room_id"),
    "huge sequence": (b'{"text": "a", "sequence": 99999999999999999999}', "sequence"),
}


@pytest.mark.parametrize(("body", "field"), BAD_FIELDS.values(), ids=BAD_FIELDS.keys())
def test_a_bad_field_is_named(body: bytes, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_request(Note, body)
    assert refused.value.message.startswith(f"{field}: ")
    assert refused.value.details is not None
    assert refused.value.details["field"] == field


def test_what_a_pattern_allows_is_said_in_words() -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_request(Note, b'{"text": "a", "room_id": "a/b"}')
    assert refused.value.message == "room_id: must be 1..64 characters of A-Z a-z 0-9 . _ -"


def test_a_refusal_does_not_repeat_the_value() -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_request(Note, b'{"text": "a", "accessToken": ["s3cret"]}')
    assert "s3cret" not in str(refused.value) + str(refused.value.details)


def test_text_comes_back_byte_for_byte() -> None:
    text = '한글 😀 \u2028 </a> \\ " é e\u0301'
    request = read_request(Note, json.dumps({"text": text[:10]}).encode())
    assert json.loads(encode(NoteResponse(text=request.text)))["text"] == text[:10]
    assert json.loads(encode(NoteResponse(text=text)))["text"] == text


def test_stored_json_is_sent_unparsed() -> None:
    response = NoteResponse()
    response.put_stored("raw", '{"content":"é/\\u0041"}', pytest.fail)
    assert b'"raw":{"content":"\xc3\xa9/\\u0041"}' in encode(response)


def test_a_stored_field_that_was_read_or_set_is_sent_as_it_is_then() -> None:
    response = NoteResponse()
    response.put_stored("raw", '["stored"]', lambda: ["read"])
    assert response.raw == ["read"]
    assert json.loads(encode(response))["raw"] == ["read"]
    response.put_stored("raw", '["stored"]', pytest.fail)
    response.raw = ["set"]
    assert json.loads(encode(response))["raw"] == ["set"]


@pytest.mark.parametrize(
    ("given", "canonical"),
    [("Player_One", "player_one"), ("ＡＬＩＣＥ", "alice"), ("a.b-c", "a.b-c"), ("ﬁsh", "fish")],
    ids=["upper case", "full width", "punctuation", "ligature"],
)
def test_account_ids_have_one_form(given: str, canonical: str) -> None:
    assert canonical_account_id(given) == canonical
    assert canonical_account_id(canonical) == canonical


@pytest.mark.parametrize(
    "given", ["ab", "a" * 65, "admin ", "Ádmin", "한글이름", "a\nb", "a:b", "straße\0"]
)
def test_account_ids_of_another_form_are_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"3\.\.64"):
        canonical_account_id(given)


def test_a_failed_response_carries_error_and_status() -> None:
    response = NoteResponse(text="kept")
    response.fail(RoomBusy(retry_after_s=1.5, details={"message_id": "m"}))
    assert response.http_status == 409
    assert json.loads(encode(response)) == {
        "errorCode": 1006,
        "sequence": 0,
        "text": "kept",
        "raw": None,
        "error": {
            "code": "ROOM_BUSY",
            "message": ErrorCode.ROOM_BUSY.meaning,
            "retryable": True,
            "retry_after_s": 1.5,
            "details": {"message_id": "m"},
        },
    }


def test_a_handler_that_sets_only_the_number_is_completed() -> None:
    response = NoteResponse()
    response.errorCode = 1001
    assert response.http_status == 503
    assert json.loads(encode(response))["error"]["code"] == "MESSAGE_NOT_SENT"
    response = NoteResponse(errorCode=4242)
    assert response.http_status == 500
    assert json.loads(encode(response))["errorCode"] == 4242


# The table of the contract, letter for letter.
CONTRACT = {
    0: 200, 1000: 500, 1001: 503, 1002: 400, 1003: 404, 1004: 404, 1005: 404, 1006: 409, 1007: 422,
    1008: 409, 1010: 429, 1020: 502, 1021: 504, 2001: 409, 2002: 401,
    10000: 401, 5000: 500, 5003: 503,
}  # fmt: skip


def test_the_registry_is_the_contract() -> None:
    assert {int(code): code.http_status for code in ErrorCode} == CONTRACT
    classes = {cls.error_code for cls in _all_subclasses(ApiError) if hasattr(cls, "error_code")}
    assert classes == set(ErrorCode) - {ErrorCode.OK}


def _all_subclasses(cls: type) -> set[type]:
    return {sub for direct in cls.__subclasses__() for sub in {direct, *_all_subclasses(direct)}}


@pytest.mark.parametrize("deep", [False, True])
def test_a_copy_of_a_response_has_its_stored_fields_and_its_status(deep: bool) -> None:
    class WordsResponse(Response):
        words: list[str] = Field(default_factory=list)

    told = WordsResponse()
    told.put_stored("words", '["a"]', lambda: ["a"])
    told.fail(InvalidRequest("too large", http_status=413))
    copy = told.model_copy(deep=deep)
    assert (copy.words, copy.http_status) == (["a"], 413)

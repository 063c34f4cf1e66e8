"""The JSON envelope: the envelope's two halves, strict parsing, encoding.

What is accepted here is text that Redis, MySQL and the client give back byte for byte: no lone
surrogates, no NUL, no NaN, no duplicate keys, no other encoding than UTF-8.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import jiter
import ujson
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from base_server.template.base.errors import ApiError, ErrorCode, InvalidRequest

INT64_MAX = 2**63 - 1
MAX_VALUES = 10_000
"""JSON values in a body. Each costs up to 60 bytes of memory, an error of validation twenty times that."""
MAX_KEY_CHARS = 256
"""Of an object's key. Validation copies the keys around each value that it finds wrong."""
_SMALL_BYTES = 4_096
"""A body that cannot hold keys and wrong values enough for these copies to matter."""
# Bounds of what a refusal repeats from the body that it refuses.
MAX_COLLECTED_ERRORS = 1_000
MAX_LISTED_ERRORS = 20
MAX_NAME_CHARS = 100
MAX_REASON_CHARS = 500


@dataclass(frozen=True)
class InWords:
    """Put last into ``Annotated``: whatever is wrong with the value, the refusal says this of it."""

    text: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.custom_error_schema(
            handler(source), custom_error_type="in_words", custom_error_message=self.text
        )


def canonical_account_id(text: str) -> str:
    """The one form of an account id (NFKC, case folded); applying it twice changes nothing.

    Raises ``ValueError`` unless the result is 3..64 of ``a-z 0-9 . _ -``.
    """
    canonical = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if not 3 <= len(canonical) <= 64 or not set(canonical) <= set(
        "abcdefghijklmnopqrstuvwxyz0123456789._-"
    ):
        raise ValueError("must be 3..64 characters of a-z 0-9 . _ -")
    return canonical


AccountId = Annotated[
    str,
    StringConstraints(max_length=512),
    AfterValidator(canonical_account_id),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^[A-Za-z0-9._-]{3,64}$",
            "description": "Kept as NFKC in lower case: 3..64 of `a-z 0-9 . _ -`.",
        },
        mode="validation",
    ),
]
# Ids of rooms, messages and client ids: ours and foreign ones.
Identifier = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$"),
    InWords("must be 1..64 characters of A-Z a-z 0-9 . _ -"),
]
PageNumber = Annotated[int, Field(ge=1, le=1_000_000)]
PageLimit = Annotated[int, Field(ge=1, le=100)]


class Request(BaseModel):
    """The request envelope; an endpoint's request model adds its fields. Unknown fields are ignored.

    It can be changed, but not into something that could not have been made: that is a ``ValidationError``.
    """

    model_config = ConfigDict(
        hide_input_in_errors=True,
        allow_inf_nan=False,
        validate_by_name=True,
        validate_by_alias=True,
        validate_assignment=True,
        use_attribute_docstrings=True,
    )

    accessToken: str = Field(default="", max_length=512, repr=False)
    """Of a login; the header `Authorization: Bearer …` wins over it."""
    sequence: int = Field(default=0, ge=-INT64_MAX - 1, le=INT64_MAX)
    """The client's own counter; the answer gives it back."""


class ErrorBody(BaseModel):
    """The ``error`` of a failed answer."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    code: str
    """Name of the error code."""
    message: str
    """For developers, in English; not to be parsed."""
    retryable: bool
    """The same request may succeed later."""
    retry_after_s: float | None = None
    """Not before so many seconds."""
    details: dict[str, Any] | None = None
    """What helps to fix it: `errors` names each bad field, `message_id` the reply that runs, …"""


class RawJson:
    """JSON text that goes out as it is."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __json__(self) -> str:  # what ujson asks
        return self._text


_OF_FAILURES = {"error"}


class Response(BaseModel):
    """The response envelope. Makeable without arguments and mutable, as handlers in the document's style need."""

    model_config = ConfigDict(
        validate_by_name=True, validate_by_alias=True, use_attribute_docstrings=True
    )

    errorCode: int = 0
    """0 for success."""
    sequence: int = 0
    """That of the request."""
    error: ErrorBody | None = None
    """Only with an `errorCode` other than 0."""
    # Slots: pydantic's private attributes cost a response more than its fields.
    __slots__ = ("_http_status", "_stored")
    if TYPE_CHECKING:
        _http_status: int | None
        _stored: dict[str, tuple[str, Callable[[], Any]]] | None

    def fail(self, error: ApiError) -> None:
        """Make this the answer of ``error``; other fields that are set already go out with it."""
        self.errorCode = int(error.code)
        self.error = error_body(error)
        self._http_status = error.http_status

    @property
    def http_status(self) -> int:
        """The status that belongs to ``errorCode`` (500 for a number that the registry does not know)."""
        if self.errorCode == ErrorCode.OK:
            return 200
        if self._http_status is not None:
            return self._http_status
        try:
            return ErrorCode(self.errorCode).http_status
        except ValueError:
            return 500

    def echo(self, sequence: int) -> None:
        """Give the request's own ``sequence`` back."""
        object.__setattr__(
            self, "sequence", sequence
        )  # what a model does on assignment takes longer than all of this

    def put_stored(self, name: str, text: str, read: Callable[[], Any]) -> None:
        """Let the field ``name`` be what the JSON ``text`` says: sent as it stands, nobody parses it.

        Who looks at the field gets what ``read`` gives, then and from then on, and that is sent.
        """
        self.__dict__.pop(name, None)
        object.__setattr__(
            self, "_stored", {**(self._stored or {}), name: (text, read)}
        )  # as below

    if not TYPE_CHECKING:  # for a type checker the fields are there

        def __getattr__(self, name: str) -> Any:
            if name in Response.__slots__:  # not set yet
                return None
            if name in (stored := self._stored or {}):
                self.__dict__[name] = value = stored.pop(name)[1]()
                return value
            return super().__getattr__(name)

        def __copy__(self) -> Response:
            self._read_stored()
            made = super().__copy__()
            made._http_status = self._http_status
            return made

        def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Response:
            self._read_stored()
            made = super().__deepcopy__(memo)
            made._http_status = self._http_status
            return made

        def model_dump(self, **options: Any) -> dict[str, Any]:
            self._read_stored()
            return super().model_dump(**options)

        def model_dump_json(self, **options: Any) -> str:
            self._read_stored()
            return super().model_dump_json(**options)

    def _read_stored(self) -> None:
        for name in list(self._stored or ()):
            getattr(self, name)

    def to_wire(self) -> dict[str, Any]:
        """The JSON object to send; ujson writes the text that an object's ``__json__()`` returns as it is."""
        fields: dict[str, Any] = self.__pydantic_serializer__.to_python(
            self, mode="json", exclude=_OF_FAILURES
        )
        for name, (text, _) in (self._stored or {}).items():
            if name not in self.__dict__:
                fields[name] = RawJson(text)
        if self.errorCode:
            error = self.error or self._plain_error()
            fields["error"] = error.model_dump(mode="json", exclude_none=True)
        return fields

    def _plain_error(self) -> ErrorBody:
        """The error of a handler that has set only ``errorCode``."""
        try:
            error = ApiError(ErrorCode(self.errorCode))
        except ValueError:
            error = ApiError(ErrorCode.SERVER_ERROR, f"error {self.errorCode}")
        return error_body(error)


def error_body(error: ApiError) -> ErrorBody:
    """``error`` as a client sees it."""
    return ErrorBody(
        code=error.code.name,
        message=error.message,
        retryable=error.code.retryable,
        retry_after_s=error.retry_after_s,
        details=error.details,
    )


RequestT = TypeVar("RequestT", bound=Request)


def read_json(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body`` (an empty body is an empty object); anything else is :class:`InvalidRequest`."""
    if not body:
        return {}
    try:
        data = jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(data, dict):
        raise InvalidRequest("the body must be a JSON object")
    if (
        len(body) > MAX_VALUES
        and _may_have_too_many(body)
        and _count_values(data, MAX_VALUES) > MAX_VALUES
    ):
        raise InvalidRequest.of("body", f"must not have more than {MAX_VALUES} values")
    if len(body) > _SMALL_BYTES and _has_long_key(data):
        raise InvalidRequest.of(
            "body", f"must not have keys of more than {MAX_KEY_CHARS} characters"
        )
    # A raw NUL is refused by the parser; only its escape can get here.
    if b"\\u0000" in body and (keys := _find_nul(data)) is not None:
        raise InvalidRequest.of(_field_name(keys), "must not contain the character U+0000")
    return data


def read_request(model: type[RequestT], body: bytes) -> RequestT:
    """``body``, which :func:`read_json` has accepted, as ``model``, without converting types.

    Raises :class:`InvalidRequest` that names the first bad field, and the first of them in ``details.errors``.
    """
    try:
        request: RequestT = model.__pydantic_validator__.validate_json(body or b"{}", strict=True)
    except ValidationError as error:
        raise _named(error) from None
    return request


def encode(response: Response) -> bytes:
    """The answer's body: UTF-8 JSON on one line."""
    return ujson.dumps(
        response.to_wire(), ensure_ascii=False, escape_forward_slashes=False
    ).encode()


def _named(error: ValidationError) -> InvalidRequest:
    if error.error_count() > MAX_COLLECTED_ERRORS:  # pydantic gives all or nothing, at 1 KB each
        return InvalidRequest.of("body", f"has {error.error_count()} errors: too many to list")
    reasons: dict[str, str] = {}
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        field = _field_name(problem["loc"]) or "body"
        reasons.setdefault(field, problem["msg"].removeprefix("Value error, ")[:MAX_REASON_CHARS])
        if len(reasons) == MAX_LISTED_ERRORS:
            break
    first, reason = next(iter(reasons.items()))
    return InvalidRequest.of(first, reason, errors=reasons)


def _field_name(keys: Iterable[str | int]) -> str:
    """Dotted path of a field for a refusal. The client chose the keys, so each, and the whole, is cut to a limit."""
    path = ".".join(str(key)[:MAX_NAME_CHARS] for key in keys).replace("\0", "")
    return path if len(path) <= MAX_NAME_CHARS else f"{path[:MAX_NAME_CHARS]}..."


def _may_have_too_many(body: bytes) -> bool:
    """Every value but the first follows one of these bytes. Text may contain them too: the parsed value decides."""
    return body.count(b",") + body.count(b"[") + body.count(b"{") >= MAX_VALUES


def _count_values(value: Any, enough: int) -> int:
    """How many values are in ``value``, itself included. Counting stops soon after ``enough``."""
    inside: Iterable[Any] = ()
    if isinstance(value, list):
        inside = value
    elif isinstance(value, dict):
        inside = value.values()
    count = 1
    for item in inside:
        count += _count_values(item, enough - count)
        if count > enough:
            break
    return count


def _has_long_key(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_long_key, value))
    if isinstance(value, dict):
        return any(len(key) > MAX_KEY_CHARS or _has_long_key(item) for key, item in value.items())
    return False


def _find_nul(value: Any) -> tuple[str, ...] | None:
    """Keys that lead to the first NUL in a parsed value, or None. Depth is the parser's limit.

    The path is built on the way back from what was found: building it on the way down copies the long key of an
    object once for each of its members (0.6 GB for a body of 140 KB).
    """
    if isinstance(value, str):
        return () if "\0" in value else None
    if isinstance(value, list):
        for item in value:
            if (found := _find_nul(item)) is not None:
                return found
    elif isinstance(value, dict):
        for key, item in value.items():
            if "\0" in key:
                return (key,)
            if (found := _find_nul(item)) is not None:
                return (key, *found)
    return None

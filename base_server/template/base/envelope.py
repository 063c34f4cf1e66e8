"""The envelope of every request and response."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from base_server.service.core.renamed import old_names
from base_server.template.base.errors import ApiError, ErrorCode

INT64_MAX = 2**63 - 1


class Request(BaseModel):
    """The request envelope; an endpoint's model adds its fields. Unknown fields are ignored.

    Assignments are validated too and raise ``ValidationError``.
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
    """The client's own counter; the response repeats it."""


class ErrorBody(BaseModel):
    """The ``error`` of a failed response."""

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


def error_body(error: ApiError) -> ErrorBody:
    """``error`` as a client sees it."""
    return ErrorBody(
        code=error.code.name,
        message=error.message,
        retryable=error.code.retryable,
        retry_after_s=error.retry_after_s,
        details=error.details,
    )


class Response(BaseModel):
    """The response envelope: mutable and created without arguments, as the document does."""

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
        """Make this the response of ``error``; fields that are set already are sent with it."""
        self.errorCode = int(error.code)
        self.error = error_body(error)
        self._http_status = error.http_status

    @property
    def http_status(self) -> int:
        """The status of ``errorCode`` (500 for a number that the registry does not know)."""
        if self.errorCode == ErrorCode.OK:
            return 200
        if self._http_status is not None:
            return self._http_status
        try:
            return ErrorCode(self.errorCode).http_status
        except ValueError:
            return 500

    def echo(self, sequence: int) -> None:
        """Set ``sequence`` to that of the request."""
        # pydantic's own assignment costs more than everything else that runs here.
        object.__setattr__(self, "sequence", sequence)

    def put_stored(self, name: str, text: str, read: Callable[[], Any]) -> None:
        """Set the field ``name`` to the JSON ``text``, which is sent as it is, without parsing.

        The first read of the field replaces the text by what ``read`` returns; that is sent then.
        """
        self.__dict__.pop(name, None)
        object.__setattr__(self, "_stored", {**(self._stored or {}), name: (text, read)})

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

    def unread_texts(self) -> Iterable[tuple[str, str]]:
        """Name and JSON text of the fields that :meth:`put_stored` set and nobody has read."""
        stored = (self._stored or {}).items()
        return [(name, text) for name, (text, _) in stored if name not in self.__dict__]

    def plain_error(self) -> ErrorBody:
        """The error of a handler that has set only ``errorCode``."""
        try:
            error = ApiError(ErrorCode(self.errorCode))
        except ValueError:
            error = ApiError(ErrorCode.SERVER_ERROR, f"error {self.errorCode}")
        return error_body(error)


if not TYPE_CHECKING:
    _FIELD_TYPES = "base_server.template.base.field_types"
    _BODY = "base_server.template.base.request_body"
    __getattr__ = old_names(
        __name__,
        AccountId=f"{_FIELD_TYPES}.AccountId",
        Identifier=f"{_FIELD_TYPES}.Identifier",
        InWords=f"{_FIELD_TYPES}.InWords",
        PageLimit=f"{_FIELD_TYPES}.PageLimit",
        PageNumber=f"{_FIELD_TYPES}.PageNumber",
        read_json=f"{_BODY}.read_json",
        read_request=f"{_BODY}.read_request",
        encode="base_server.template.base.encoding.encode",
    )

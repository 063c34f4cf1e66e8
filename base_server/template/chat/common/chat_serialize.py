"""Requests and responses of the chat protocols."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, StringConstraints

from base_server.template.base.envelope import INT64_MAX, ErrorBody, Request, Response
from base_server.template.base.field_types import Identifier, InWords, PageLimit, PageNumber
from base_server.template.chat.common.chat_model import ChatMessage, ChatRoom

MAX_CONTENT_BYTES = 64 * 1024


def _fits(content: str) -> str:
    if len(content.encode()) > MAX_CONTENT_BYTES:
        raise ValueError(f"must be at most {MAX_CONTENT_BYTES} bytes of UTF-8")
    return content


def _storable(text: str) -> str:
    # The endpoint refuses it too, but a host's own code may call the handler directly.
    if "\0" in text:
        raise ValueError("must not contain the character U+0000")
    return text


Title = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_storable)]
Content = Annotated[
    str,
    StringConstraints(min_length=1, max_length=16_000),
    AfterValidator(_fits),
    AfterValidator(_storable),
]
# `persona` is accepted wherever `ai_persona` is.
_PERSONA_NAMES = AliasChoices("ai_persona", "persona")
PersonaName = Annotated[str, StringConstraints(min_length=1, max_length=64)]


# The ids of a stream's events are numbers; clients that pass on what they got send them as text.
EventId = Annotated[
    Annotated[int, Field(ge=0, le=INT64_MAX)]
    | Annotated[str, StringConstraints(pattern=r"^[0-9]{1,18}$")],
    InWords("must be the id of an event of this reply, as the stream gave it"),
]


def _with_persona(schema: dict[str, Any]) -> None:
    schema["required"] = ["ai_persona"]
    del schema["properties"]["ai_persona"]["default"]


class ChatRoomListRequest(Request):
    page: PageNumber = 1
    """From 1 on."""
    limit: PageLimit = 20
    """Rooms a page."""


class ChatRoomListResponse(Response):
    """``stale``: answered from MySQL because Redis could not be reached."""

    rooms: list[ChatRoom] = Field(default_factory=list)
    total_count: int = 0
    """All live rooms of the account."""
    has_more: bool = False
    stale: bool = False


class ChatRoomCreateRequest(Request):
    model_config = ConfigDict(json_schema_extra=_with_persona)

    # Required; that it is missing is said by who knows which there are.
    ai_persona: Annotated[str, StringConstraints(max_length=64)] = Field(
        default="", validation_alias=_PERSONA_NAMES
    )
    """Who answers; `persona` is accepted too. See 6021."""
    title: Title | None = None
    """Without one the first message gives it."""
    client_request_id: Identifier | None = None
    """Repeated with the same id, the request makes one room. A UUIDv7 is best."""


class ChatRoomCreateResponse(Response):
    room: ChatRoom | None = None
    """Also when it was made by an earlier attempt."""


class ChatRoomUpdateRequest(Request):
    room_id: Identifier
    new_title: Title


class ChatRoomUpdateResponse(Response):
    message: str = ""
    new_title: str = ""


class ChatRoomDeleteRequest(Request):
    room_id: Identifier


class ChatRoomDeleteResponse(Response):
    message: str = ""


class ChatMessageSendRequest(Request):
    room_id: Identifier
    content: Content
    """At most 16,000 characters and 64 KiB."""
    ai_persona: PersonaName | None = Field(default=None, validation_alias=_PERSONA_NAMES)
    """Another persona than the room's, for this message; `persona` is accepted too."""
    client_message_id: Identifier | None = None
    """Repeated with the same id and body, the message is stored and answered once. A UUIDv7 is
    best."""
    on_busy: Literal["queue", "reject", "interrupt"] = "queue"
    """While a reply runs: wait for it, be refused with 1006, or stop it and be answered instead."""


class ChatMessageSendResponse(Response):
    """``message`` is the AI's; both stand in an answer 1020 or 1021 too, for the question was
    stored."""

    message: ChatMessage | None = None
    user_message: ChatMessage | None = None


class ChatMessageResumeRequest(Request):
    """``last_event_id``: the id of the last event that the client has (also as the header
    Last-Event-ID); without it the reply is told from its beginning."""

    room_id: Identifier
    message_id: Identifier
    last_event_id: EventId | None = None


class MessageAcceptedEvent(BaseModel):
    """``message.accepted``: the question is stored; ``message_id`` is that of the reply."""

    user_message: ChatMessage
    message_id: str


class ReplyDeltaEvent(BaseModel):
    """``reply.delta``: the next piece of the reply's text."""

    text: str


class ReplyEndEvent(BaseModel):
    """``reply.done``, and ``reply.stopped`` for one that was stopped or interrupted: the whole
    reply."""

    message: ChatMessage


class ReplyErrorEvent(BaseModel):
    """``reply.error``: why there is no more, and the reply with what it has said (None when it was
    deleted)."""

    error: ErrorBody
    message: ChatMessage | None


class ChatMessageStopRequest(Request):
    room_id: Identifier
    message_id: Identifier


class ChatMessageStopResponse(Response):
    """``message``: the reply as it stands."""

    message: ChatMessage | None = None


class ChatMessageListRequest(Request):
    room_id: Identifier
    page: PageNumber = 1
    """1 is the newest page, full unless there are no older messages. A later one may be short where
    old messages were deleted: go on while `has_more`, or better by `cursor`."""
    limit: PageLimit = 50
    before_timestamp: datetime | None = None
    """Only messages strictly earlier."""
    cursor: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    """The `next_cursor` of a page: its messages come before that page's, also while new ones
    arrive."""


class ChatMessageListResponse(Response):
    """Oldest first. ``has_more`` is exact; ``next_cursor`` asks for the messages before these, None
    if none are."""

    messages: list[ChatMessage] = Field(default_factory=list)
    has_more: bool = False
    next_cursor: str | None = None
    stale: bool = False


class ChatMessageDeleteRequest(Request):
    room_id: Identifier
    message_id: Identifier


class ChatMessageDeleteResponse(Response):
    message: str = ""


class PersonasRequest(Request):
    pass


class PersonaView(BaseModel):
    ai_persona: str
    title: str
    description: str
    model: str
    default: bool


class PersonasResponse(Response):
    personas: list[PersonaView] = Field(default_factory=list)

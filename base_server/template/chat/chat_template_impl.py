"""ChatTemplateImpl: the chat endpoints. Each handler checks, calls one operation, and answers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from base_server.service.core.errors import OutcomeUnknown, ServiceUnavailable
from base_server.service.llm.llm_errors import UnknownPersona
from base_server.service.service_container import ServiceContainer
from base_server.template.base.base_template import BaseTemplate
from base_server.template.base.client_session import ClientSession
from base_server.template.base.endpoint import Endpoint
from base_server.template.base.envelope import Response
from base_server.template.base.error_response import error_to_response
from base_server.template.base.errors import (
    ErrorCode,
    InvalidRequest,
    MessageNotFound,
    MessageNotSent,
    SessionMissing,
)
from base_server.template.base.event_stream import Events, StreamEvent
from base_server.template.base.readiness import Health, ReadinessCheck
from base_server.template.chat.common.chat_examples import EXAMPLES
from base_server.template.chat.common.chat_model import ChatMessage
from base_server.template.chat.common.chat_protocol import KEPT_IDS, ChatProtocol
from base_server.template.chat.common.chat_serialize import (
    ChatMessageDeleteRequest,
    ChatMessageDeleteResponse,
    ChatMessageListRequest,
    ChatMessageListResponse,
    ChatMessageResumeRequest,
    ChatMessageSendRequest,
    ChatMessageSendResponse,
    ChatMessageStopRequest,
    ChatMessageStopResponse,
    ChatRoomCreateRequest,
    ChatRoomCreateResponse,
    ChatRoomDeleteRequest,
    ChatRoomDeleteResponse,
    ChatRoomListRequest,
    ChatRoomListResponse,
    ChatRoomUpdateRequest,
    ChatRoomUpdateResponse,
    PersonasRequest,
    PersonasResponse,
    PersonaView,
)
from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.message_format import (
    finish_reason_of,
    from_json,
    is_running,
    message_prefix,
    read_message,
    wire_message,
)
from base_server.template.chat.domain.metrics import RESUMES, STOPS
from base_server.template.chat.domain.states import MessageState
from base_server.template.chat.messages.pages import MessagePage
from base_server.template.chat.messages.repository import Accepted, NewMessage
from base_server.template.chat.replies.ending import ReplyHandedOver
from base_server.template.chat.replies.events import RESUME_EVENTS, STREAM_EVENTS, reply_events
from base_server.template.chat.replies.events import accepted as accepted_event
from base_server.template.chat.replies.metadata import failure_of
from base_server.template.chat.replies.reader import Reading
from base_server.template.chat.replies.slot import ReplyRef
from base_server.template.chat.replies.slots import SlotQuestion
from base_server.template.chat.settings import ChatSettings
from base_server.template.chat.wiring import ChatParts, ChatWiring


class ChatTemplateImpl(BaseTemplate):
    """``ai_service`` is the AIChatService. Handlers work between :meth:`start` and :meth:`stop`."""

    kept_ids = KEPT_IDS

    def __init__(self, wiring: ChatWiring) -> None:
        self.wiring = wiring
        self._running: ChatParts | None = None
        self.ai_service = wiring.ai

    def endpoints(self) -> Sequence[Endpoint]:
        def row(
            which: ChatProtocol, request: Any, response: Any, handler: Any, events: Any = None
        ) -> Endpoint:
            return Endpoint(
                which.id,
                which.path,
                request,
                response,
                handler,
                summary=which.summary,
                events=events or {},
                example=EXAMPLES[which],
                verifies_session=which is not ChatProtocol.PERSONAS,
                errors=which.errors,
            )

        c = ChatProtocol
        return (
            row(c.ROOM_LIST, ChatRoomListRequest, ChatRoomListResponse, self.on_chat_room_list_req),
            row(
                c.ROOM_CREATE,
                ChatRoomCreateRequest,
                ChatRoomCreateResponse,
                self.on_chat_room_create_req,
            ),
            row(
                c.ROOM_UPDATE,
                ChatRoomUpdateRequest,
                ChatRoomUpdateResponse,
                self.on_chat_room_update_req,
            ),
            row(
                c.ROOM_DELETE,
                ChatRoomDeleteRequest,
                ChatRoomDeleteResponse,
                self.on_chat_room_delete_req,
            ),
            row(
                c.MESSAGE_SEND,
                ChatMessageSendRequest,
                ChatMessageSendResponse,
                self.on_chat_message_send_req,
            ),
            row(
                c.MESSAGE_STREAM,
                ChatMessageSendRequest,
                ChatMessageSendResponse,
                self.on_chat_message_stream_req,
                STREAM_EVENTS,
            ),
            row(
                c.MESSAGE_RESUME,
                ChatMessageResumeRequest,
                Response,
                self.on_chat_message_resume_req,
                RESUME_EVENTS,
            ),
            row(
                c.MESSAGE_STOP,
                ChatMessageStopRequest,
                ChatMessageStopResponse,
                self.on_chat_message_stop_req,
            ),
            row(
                c.MESSAGE_LIST,
                ChatMessageListRequest,
                ChatMessageListResponse,
                self.on_chat_message_list_req,
            ),
            row(
                c.MESSAGE_DELETE,
                ChatMessageDeleteRequest,
                ChatMessageDeleteResponse,
                self.on_chat_message_delete_req,
            ),
            row(c.PERSONAS, PersonasRequest, PersonasResponse, self.on_chat_personas_req),
        )

    async def start(self) -> None:
        self._running = await self.wiring.start()

    async def quiet(self) -> None:
        self.parts.replies.quiet()
        # Other processes go on with these: who reads them resumes there.
        self.parts.readers.close(include_local=False)

    async def drain(self, timeout_s: float) -> None:
        await self.parts.replies.stop(timeout_s)
        self.parts.readers.close(include_local=True)

    async def stop(self) -> None:
        if self._running is not None:
            parts, self._running = self._running, None
            await self.wiring.stop(parts, 0.0)

    async def readiness(self) -> Sequence[ReadinessCheck]:
        try:
            return await self.parts.health.checks()
        except ServiceUnavailable as outage:
            return [ReadinessCheck("chat_backlog", Health.FAILED, str(outage))]

    @error_to_response(ChatRoomListResponse, ErrorCode.CHAT_FAILED)
    async def on_chat_room_list_req(
        self, client_session: ClientSession, request: ChatRoomListRequest
    ) -> ChatRoomListResponse:
        """Rooms of the account, most recent first; from MySQL, marked stale, without Redis."""
        caller = await self.caller_of(client_session)
        page = await self.parts.rooms.page(caller, request.page, request.limit)
        more = request.page * request.limit < page.total
        response = ChatRoomListResponse(total_count=page.total, has_more=more, stale=page.stale)
        response.put_stored("rooms", page.json, page.rooms)
        return response

    @error_to_response(ChatRoomCreateResponse, ErrorCode.CHAT_FAILED)
    async def on_chat_room_create_req(
        self, client_session: ClientSession, request: ChatRoomCreateRequest
    ) -> ChatRoomCreateResponse:
        """A new room; the same room again for the same client_request_id."""
        caller = await self.caller_of(client_session)
        persona = self._persona(request.ai_persona)
        room = await self.parts.rooms.create(
            caller, persona, request.title, request.client_request_id
        )
        return ChatRoomCreateResponse(room=room)

    @error_to_response(ChatRoomUpdateResponse, ErrorCode.CHAT_FAILED)
    async def on_chat_room_update_req(
        self, client_session: ClientSession, request: ChatRoomUpdateRequest
    ) -> ChatRoomUpdateResponse:
        """Change a room's title."""
        caller = await self.caller_of(client_session)
        await self.parts.rooms.rename(caller, request.room_id, request.new_title)
        return ChatRoomUpdateResponse(
            message="The room's title was changed.", new_title=request.new_title
        )

    @error_to_response(ChatRoomDeleteResponse, ErrorCode.CHAT_FAILED)
    async def on_chat_room_delete_req(
        self, client_session: ClientSession, request: ChatRoomDeleteRequest
    ) -> ChatRoomDeleteResponse:
        """Delete a room with its messages; a running reply ends. Idempotent."""
        caller = await self.caller_of(client_session)
        await self.parts.rooms.delete(caller, request.room_id)
        return ChatRoomDeleteResponse(message="The room was deleted.")

    @error_to_response(ChatMessageSendResponse, ErrorCode.CHAT_FAILED)
    async def on_chat_message_send_req(
        self, client_session: ClientSession, request: ChatMessageSendRequest
    ) -> ChatMessageSendResponse:
        """Store a question and return it with its reply. Idempotent by client_message_id."""
        caller = await self.caller_of(client_session)
        accepted = await self._accept(caller, request)
        self._start(accepted, request.content, is_watched=False)
        response = ChatMessageSendResponse()
        _put_message(response, "user_message", accepted.question)
        final = await self._final_reply(caller, request.room_id, accepted)
        if not final:
            response.fail(MessageNotFound("the reply was deleted while it was being written"))
            return response
        _put_message(response, "message", final)
        if accepted.repeated:
            await self._refresh_states(caller, response.user_message, response.message)
        if (
            finish_reason_of(final) == "error"
            and (failure := failure_of(from_json(final)["metadata"])) is not None
        ):
            response.fail(failure)
        return response

    @error_to_response(ChatMessageSendResponse, ErrorCode.CHAT_FAILED)
    async def on_chat_message_stream_req(
        self, client_session: ClientSession, request: ChatMessageSendRequest
    ) -> ChatMessageSendResponse | Events:
        """As a send, streamed as it happens. The reply goes on without its reader."""
        caller = await self.caller_of(client_session)
        accepted = await self._accept(caller, request)
        self._start(accepted, request.content, is_watched=True)
        question = read_message(accepted.question, "PENDING")
        if accepted.slot is not None:
            reading = Reading(accepted.slot.ref, 0)
        else:
            reply_id = message_prefix(accepted.reply).message_id
            reading = await self.parts.readers.begin(caller, request.room_id, reply_id, 0)
        return self._reply_events(reading, accepted_event(question, reading.ref.reply_id))

    @error_to_response(Response, ErrorCode.CHAT_FAILED)
    async def on_chat_message_resume_req(
        self, client_session: ClientSession, request: ChatMessageResumeRequest
    ) -> Response | Events:
        """The rest of a reply after ``last_event_id``; on any process, also after it ended."""
        caller = await self.caller_of(client_session)
        offset = _offset(request, client_session.last_event_id)
        RESUMES.add()
        return self._reply_events(
            await self.parts.readers.begin(caller, request.room_id, request.message_id, offset)
        )

    @error_to_response(ChatMessageStopResponse, ErrorCode.CHAT_FAILED)
    async def on_chat_message_stop_req(
        self, client_session: ClientSession, request: ChatMessageStopRequest
    ) -> ChatMessageStopResponse:
        """End a reply that runs or waits, on any process; its text so far stays. Idempotent."""
        caller = await self.caller_of(client_session)
        stopped = await self.parts.reply_repository.stop(
            caller, request.room_id, request.message_id
        )
        if stopped.is_ours:
            STOPS.add()
            self.parts.replies.stopped(request.message_id, stopped.granted_token)
        return ChatMessageStopResponse(message=stopped.message)

    @error_to_response(ChatMessageListResponse, ErrorCode.CHAT_FAILED)
    async def on_chat_message_list_req(
        self, client_session: ClientSession, request: ChatMessageListRequest
    ) -> ChatMessageListResponse:
        """A page of messages, oldest first; from MySQL, marked stale, without Redis."""
        caller = await self.caller_of(client_session)
        page = await self._page(caller, request)
        more = page.next_cursor is not None
        response = ChatMessageListResponse(
            has_more=more, next_cursor=page.next_cursor, stale=page.stale
        )
        response.put_stored("messages", page.json, page.messages)
        return response

    @error_to_response(ChatMessageDeleteResponse, ErrorCode.CHAT_FAILED)
    async def on_chat_message_delete_req(
        self, client_session: ClientSession, request: ChatMessageDeleteRequest
    ) -> ChatMessageDeleteResponse:
        """Delete a message permanently. Idempotent."""
        caller = await self.caller_of(client_session)
        await self.parts.messages.delete(caller, request.room_id, request.message_id)
        return ChatMessageDeleteResponse(message="The message was deleted.")

    @error_to_response(PersonasResponse, ErrorCode.CHAT_FAILED)
    async def on_chat_personas_req(
        self, client_session: ClientSession, request: PersonasRequest
    ) -> PersonasResponse:
        """The personas of the configuration."""
        return PersonasResponse(
            personas=[
                PersonaView(
                    ai_persona=info.ai_persona,
                    title=info.title,
                    description=info.description,
                    model=info.model,
                    default=info.default,
                )
                for info in self.ai_service.personas()
            ]
        )

    @property
    def parts(self) -> ChatParts:
        """What a running chat consists of; ServiceUnavailable unless it runs."""
        if self._running is None:
            raise ServiceUnavailable("chat", "the chat template is not running")
        return self._running

    async def caller_of(self, client_session: ClientSession) -> Caller:
        """The session's account; its shard from the session, else the mapping table, else the
        default one."""
        session = client_session.session
        if not session.account_id:
            raise SessionMissing
        shard_id = session.shard_id
        if shard_id <= 0:
            rows = await self.wiring.database.call_global_procedure(
                "fp_account_shard_get", (session.account_db_key,)
            )
            shard_id = int(rows[0]["shard_id"]) if rows else self.wiring.settings.default_shard_id
        # A shard that was added a moment ago, and has no streams here yet, is looked for.
        await self.wiring.database.require_shard(shard_id)
        partition = self.parts.cache.partitions.of_id(session.account_id)
        guard = client_session.guard
        run_script = None if guard is None else partial(guard.run, self.parts.cache.run_script)
        return Caller(session.account_id, session.account_db_key, shard_id, partition, run_script)

    def _persona(self, name: str) -> str:
        try:
            return self.ai_service.resolve_persona(name)
        except UnknownPersona as error:
            known = ", ".join(error.known)
            raise InvalidRequest.of(
                "ai_persona", f"must name one of {known}", known=error.known
            ) from None

    async def _accept(self, caller: Caller, request: ChatMessageSendRequest) -> Accepted:
        persona = request.ai_persona and self._persona(request.ai_persona)
        new_id = self.parts.cache.partitions.new_id
        message = NewMessage(
            question_id=new_id(caller.partition),
            reply_id=new_id(caller.partition),
            token=new_id(caller.partition),
            content=request.content,
            persona=persona,
            client_message_id=request.client_message_id,
            on_busy=request.on_busy,
        )
        try:
            return await self.parts.messages.accept(caller, request.room_id, message)
        except OutcomeUnknown:
            raise
        except ServiceUnavailable as outage:
            raise MessageNotSent("the message could not be stored, send it again") from outage

    def _start(self, accepted: Accepted, text: str, *, is_watched: bool) -> None:
        """Run the reply of a question that nobody has asked yet."""
        if accepted.slot is None:
            return
        question = (
            None
            if accepted.repeated or not accepted.is_granted
            else SlotQuestion(text, accepted.history)
        )
        self.parts.replies.start(
            accepted.slot, question, is_granted=accepted.is_granted, is_watched=is_watched
        )

    async def _final_reply(self, caller: Caller, room_id: str, accepted: Accepted) -> str:
        if accepted.slot is not None:
            ref = accepted.slot.ref
        else:
            reply = message_prefix(accepted.reply)
            ref = ReplyRef(caller, room_id, reply.message_id, reply.seq)
        if self.parts.replies.runs_here(ref.reply_id):
            with suppress(ReplyHandedOver):
                return await self.parts.replies.finished(ref.reply_id)
        elif not is_running(accepted.reply):
            return accepted.reply
        return await self.parts.readers.final(ref)

    def _reply_events(self, reading: Reading, *first: StreamEvent) -> Events:
        return reply_events(self.parts.readers.pieces(reading), reading.offset, *first)

    async def _refresh_states(self, caller: Caller, *messages: ChatMessage | None) -> None:
        """States of messages that were stored before this request (absent: settled longer ago than
        the state TTL)."""
        known = [message for message in messages if message is not None]
        states = await self.parts.messages.states(
            caller, *(message.message_id for message in known)
        )
        for message, state in zip(known, states, strict=True):
            message.state = state or MessageState.SENT.value

    async def _page(self, caller: Caller, request: ChatMessageListRequest) -> MessagePage:
        reader = self.parts.reader
        if request.cursor is not None:
            return await reader.before(caller, request.room_id, request.cursor, request.limit)
        if request.before_timestamp is not None:
            return await reader.before_time(
                caller, request.room_id, request.before_timestamp, request.limit
            )
        return await reader.page(caller, request.room_id, request.page, request.limit)


def _offset(request: ChatMessageResumeRequest, header: str) -> int:
    """Where the client stands; the body wins over the header."""
    given = request.last_event_id
    if given is None:
        if header and not (header.isascii() and header.isdigit() and len(header) <= 18):
            raise InvalidRequest.of(
                "last_event_id", "must be the id of an event of this reply, as the stream gave it"
            )
        given = header or 0
    return int(given)


def _put_message(response: ChatMessageSendResponse, name: str, stored: str) -> None:
    """A message that this request wrote."""
    response.put_stored(
        name, wire_message(stored, "PENDING"), lambda: read_message(stored, "PENDING")
    )


def create_chat_template(container: ServiceContainer, settings: ChatSettings) -> ChatTemplateImpl:
    """The chat template of a server with these services."""
    return ChatTemplateImpl(ChatWiring(container, settings))

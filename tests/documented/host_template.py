"""The usage examples of the user's document, word for word, as a host's template.

Only the imports, the protocol table and ``ai_service`` stand around them; what the linter would
have written otherwise is left as the document has it.
"""

# ruff: noqa: F841

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from service.cache.cache_service import CacheService
from service.core.logger import Logger
from service.queue.queue_service import QueueService
from service.service_container import ServiceContainer
from template.base.base_template import BaseTemplate
from template.base.client_session import ClientSession
from template.base.endpoint import Endpoint
from template.chat.chat_state_machine import MessageState, RoomState, get_chat_state_machine
from template.chat.common.chat_model import ChatMessage, ChatRoom
from template.chat.common.chat_serialize import (
    ChatMessageSendRequest,
    ChatMessageSendResponse,
    ChatRoomListRequest,
    ChatRoomListResponse,
)

HOST = "documented"
ROOM_LIST, MESSAGE_SEND = 7001, 7011


# fmt: off
class DocumentedTemplate(BaseTemplate):
    def __init__(self) -> None:
        self.ai_service = ServiceContainer.get_ai_chat_service()

    def endpoints(self) -> Sequence[Endpoint]:
        return (
            Endpoint(
                ROOM_LIST, "/api/host/rooms", ChatRoomListRequest, ChatRoomListResponse, self.on_chat_room_list_req
            ),
            Endpoint(
                MESSAGE_SEND,
                "/api/host/message/send",
                ChatMessageSendRequest,
                ChatMessageSendResponse,
                self.on_chat_message_send_req,
            ),
        )

    # 채팅방 목록 조회 요청 처리
    async def on_chat_room_list_req(self, client_session: ClientSession, request: Any) -> ChatRoomListResponse:
        """채팅방 목록 조회 (Redis + MySQL 하이브리드)"""
        response = ChatRoomListResponse()
        try:
            account_db_key = getattr(client_session.session, 'account_db_key', 0)
            shard_id = getattr(client_session.session, 'shard_id', 1)
            user_key = f"rooms:{client_session.session.account_id}"
            rooms = []

            # 1단계: Redis에서 챗봇 세션 목록 조회 시도
            redis_success = False
            try:
                async with CacheService.get_client() as redis:
                    room_ids = await redis._client.smembers(redis._get_key(user_key))
                    if room_ids:  # Redis에 데이터가 있으면
                        state_machine = get_chat_state_machine()
                        for room_id in room_ids:
                            # State Machine으로 방 상태 확인
                            room_state = await state_machine.get_room_state(room_id)

                            # 삭제 중이거나 삭제된 방은 목록에서 제외
                            if room_state in [RoomState.DELETING, RoomState.DELETED]:
                                continue

                            room_key = f"room:{room_id}"
                            raw = await redis.get_string(room_key)
                            if raw:
                                room_data = json.loads(raw)
                                rooms.append(ChatRoom(**room_data))
                        redis_success = True
            except Exception as redis_e:
                Logger.warn(f"Redis 챗봇 세션 목록 조회 실패: {redis_e}")

            # 2단계: Redis 실패 또는 비어있을 때 DB에서 조회
            if not redis_success or not rooms:
                database_service = ServiceContainer.get_database_service()
                db_result = await database_service.call_shard_procedure(
                    shard_id, 'fp_chat_rooms_get', (account_db_key,)
                )

                if db_result:
                    for row in db_result:
                        room_data = {
                            "room_id": str(row.get('room_id', '')),
                            "title": str(row.get('title', '')),
                            "ai_persona": str(row.get('ai_persona', '')),
                            "created_at": row.get('created_at').isoformat() if row.get('created_at') else '',
                            "last_message_at": row.get('last_message_at').isoformat() if row.get('last_message_at') else '',
                            "message_count": str(row.get('message_count', 0))
                        }
                        rooms.append(ChatRoom(**room_data))

            response.rooms = rooms
            response.total_count = len(rooms)
            response.errorCode = 0

        except Exception as e:
            Logger.error(f"Chatbot session list error: {e}")
            response.errorCode = 1000
            response.rooms = []
            response.total_count = 0

        return response

    # 메시지 전송 요청 처리
    async def on_chat_message_send_req(self, client_session: ClientSession, request: Any) -> ChatMessageSendResponse:
        """LLM 스트리밍을 위한 메시지 전송 처리"""
        response = ChatMessageSendResponse()
        try:
            account_db_key = getattr(client_session.session, 'account_db_key', 0)
            shard_id = getattr(client_session.session, 'shard_id', 1)

            # 1. 메시지 ID 생성 및 데이터 준비
            message_id = str(uuid.uuid4())
            now = datetime.now().isoformat()

            message_data = {
                "message_id": message_id,
                "room_id": request.room_id,
                "sender_type": "USER",
                "content": request.content,
                "timestamp": now,
                "metadata": {"ai_persona": request.ai_persona}
            }

            # 2. Redis에 즉시 저장 (실시간 응답을 위해)
            msg_key = f"messages:{request.room_id}"
            async with CacheService.get_client() as redis:
                await redis.list_push_right(msg_key, json.dumps(message_data))
                await redis.set_expire(msg_key, 3600)  # 1시간 TTL

            # 3. State Machine으로 메시지 상태를 PENDING으로 설정
            state_machine = get_chat_state_machine()
            await state_machine.transition_message(message_id, MessageState.PENDING)

            # 4. QueueService를 통한 비동기 MySQL 저장
            queue_service = QueueService.get_instance()
            await queue_service.send_message(
                queue_name="chat_persistence",
                payload={
                    "type": "save_user_message",
                    "account_db_key": account_db_key,
                    "shard_id": shard_id,
                    "message_data": message_data
                },
                message_type="chat_save",
                priority=2
            )

            # 5. AIChatService를 통한 LLM 응답 생성
            ai_response = await self.ai_service.process_message(
                room_id=request.room_id,
                user_message=request.content,
                ai_persona=request.ai_persona
            )

            response.errorCode = 0
            response.message = ChatMessage(**message_data)

            Logger.info(f"Chat message sent: {message_id}")

        except Exception as e:
            Logger.error(f"Chat message send error: {e}")
            response.errorCode = 1001

        return response


# 채팅 상태 머신 사용 예제
async def manage_chat_state() -> None:
    """채팅 상태 관리 예제"""
    state_machine = get_chat_state_machine()

    # 방 생성 상태 전이
    room_id = "room_123"
    await state_machine.transition_room(room_id, RoomState.CREATING)
    await state_machine.transition_room(room_id, RoomState.PENDING)
    await state_machine.transition_room(room_id, RoomState.PROCESSING)
    await state_machine.transition_room(room_id, RoomState.ACTIVE)

    # 메시지 상태 전이
    message_id = "msg_456"
    await state_machine.transition_message(message_id, MessageState.PENDING)
    await state_machine.transition_message(message_id, MessageState.PROCESSING)
    await state_machine.transition_message(message_id, MessageState.SENT)

    # 상태 조회
    room_state = await state_machine.get_room_state(room_id)
    message_state = await state_machine.get_message_state(message_id)

    Logger.info(f"Room {room_id} state: {room_state.value}")
    Logger.info(f"Message {message_id} state: {message_state.value}")

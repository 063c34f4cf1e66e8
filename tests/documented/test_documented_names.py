"""Every documented name of the Python API exists where the document says, with the documented
arguments."""

from __future__ import annotations

import inspect
from dataclasses import fields
from importlib import import_module
from typing import Any

import pytest
from service.core.facade import Facade, facade
from service.core.logger import Logger
from service.queue.message_queue import MessagePriority
from service.scheduler.base_scheduler import ScheduleJob, ScheduleType
from template.base.template_context import TemplateContext
from template.chat.chat_state_machine import MessageState, RoomState
from template.chat.chat_template_impl import ChatTemplateImpl

# Where, what, and the arguments that callers pass: "name" by position or by name, "name=default"
# may be left out, "*name" by name only. More optional arguments may follow.
CACHE = "service.cache.cache_client:CacheClient"
QUEUE = "service.queue.queue_service:QueueService"
AI = "service.llm.AIChat_service:AIChatService"
CONTAINER = "service.service_container:ServiceContainer"
STATES = "template.chat.chat_state_machine:ChatStateMachine"
CONTEXT = "template.base.template_context:TemplateContext"
CHAT = "template.chat.chat_template_impl:ChatTemplateImpl"
DOCUMENTED = {
    "service.cache.cache_service:CacheService.get_client": "",
    f"{CACHE}.get_string": "key",
    f"{CACHE}.set_string": "key value expire=None",
    f"{CACHE}.delete": "",
    f"{CACHE}.exists": "key",
    f"{CACHE}.set_expire": "key seconds",
    f"{CACHE}.list_push_right": "key",
    f"{CACHE}.list_range": "key start=0 end=-1",
    f"{CACHE}.set_add": "key",
    f"{CACHE}.set_remove": "key",
    f"{CACHE}.set_members": "key",
    f"{CACHE}.eval_script": "script keys=() args=()",
    f"{CACHE}._get_key": "logical",
    f"{CACHE}.__aenter__": "",
    f"{CONTAINER}.get_database_service": "",
    f"{CONTAINER}.get_ai_chat_service": "",
    f"{CONTAINER}.get_cache_service": "",
    f"{CONTAINER}.get_queue_service": "",
    f"{CONTAINER}.get_lock_service": "",
    f"{CONTAINER}.get_scheduler_service": "",
    f"{CONTAINER}.is_database_service_initialized": "",
    f"{CONTAINER}.is_ai_chat_service_initialized": "",
    f"{CONTAINER}.is_cache_service_initialized": "",
    f"{CONTAINER}.is_queue_service_initialized": "",
    f"{CONTAINER}.is_lock_service_initialized": "",
    f"{CONTAINER}.is_scheduler_service_initialized": "",
    f"{CONTAINER}.get_service_status": "",
    "service.db.database_service:DatabaseService.call_shard_procedure": "shard_id name params=()",
    "service.db.database_service:DatabaseService.call_global_procedure": "name params=()",
    "service.queue.queue_service:get_queue_service": "",
    f"{QUEUE}.get_instance": "",
    f"{QUEUE}.send_message": "queue_name payload=None message_type=None priority=2 partition_key=None",
    f"{QUEUE}.register_message_consumer": "queue_name consumer_id handler",
    "service.queue.message_queue:QueueMessage": "queue_name payload message_type priority=2 partition_key=None",
    "service.lock.lock_service:LockService.acquire": "key ttl timeout",
    "service.lock.lock_service:LockService.release": "key token",
    "service.lock.lock_service:LockService.extend": "key token ttl",
    "service.scheduler.scheduler_service:SchedulerService.add_job": "job",
    "service.scheduler.scheduler_service:SchedulerService.remove_job": "job_id",
    "service.scheduler.scheduler_service:SchedulerService.get_job_status": "job_id",
    "service.scheduler.base_scheduler:ScheduleJob": "job_id name schedule_type schedule_value callback",
    f"{AI}.chat": "message session_id",
    f"{AI}.process_message": "*room_id *user_message *ai_persona=None",
    f"{AI}.stream": "message session_id",
    f"{AI}.load_chat_history": "session_id messages",
    f"{AI}.mem": "session_id",
    "template.chat.chat_state_machine:get_chat_state_machine": "",
    f"{STATES}.transition_room": "room_id to from_state=None",
    f"{STATES}.transition_message": "message_id to from_state=None",
    f"{STATES}.get_room_state": "room_id",
    f"{STATES}.get_message_state": "message_id",
    f"{STATES}.smart_delete_message": "message_id",
    "template.base.base_template:BaseTemplate": "",
    f"{CONTEXT}.add_template": "template_type template",
    f"{CONTEXT}.get_template": "template_type",
    f"{CONTEXT}.find_by_protocol": "protocol_id",
    "template.base.template_service:TemplateService.run_user": "endpoint call",
    "template.base.template_service:TemplateService.run_anonymous": "endpoint call",
    "template.base.client_session:ClientSession": "session",
    "template.base.session_info:SessionInfo": "account_id account_db_key=0 shard_id=0",
    "template.base.template_type:TemplateType.CHAT": None,
    "service.core.logger:Logger.debug": "message",
    "service.core.logger:Logger.info": "message",
    "service.core.logger:Logger.warn": "message",
    "service.core.logger:Logger.error": "message",
    f"{CHAT}.on_chat_room_list_req": "client_session request",
    f"{CHAT}.on_chat_room_create_req": "client_session request",
    f"{CHAT}.on_chat_message_send_req": "client_session request",
    f"{CHAT}.on_chat_message_list_req": "client_session request",
    f"{CHAT}.on_chat_room_delete_req": "client_session request",
    f"{CHAT}.on_chat_room_update_req": "client_session request",
    f"{CHAT}.on_chat_message_delete_req": "client_session request",
    "template.chat.chat_persistence_consumer:ChatPersistenceConsumer": None,
    "template.chat.common.chat_model:ChatRoom": None,
    "template.chat.common.chat_model:ChatMessage": None,
    "template.chat.common.chat_protocol": None,
    "template.chat.common.chat_serialize:ChatRoomListResponse": "",
    "template.chat.common.chat_serialize:ChatMessageSendResponse": "",
}
ROOM_STATES = ["CREATING", "PENDING", "PROCESSING", "ACTIVE", "DELETING", "DELETED"]
MESSAGE_STATES = ["COMPOSING", "PENDING", "PROCESSING", "SENT", "DELETING", "DELETED"]
JOB_FIELDS = ["job_id", "name", "schedule_type", "schedule_value", "callback"]


def find(place: str) -> Any:
    """The object behind a façade's descriptor, without needing an installed service."""
    module, _, path = place.partition(":")
    found: Any = import_module(module)
    for name in path.split(".") if path else ():
        found = inspect.getattr_static(found, name)
    if isinstance(found, facade):
        return found.__wrapped__
    return found.__func__ if isinstance(found, (staticmethod, classmethod)) else found


@pytest.mark.parametrize("place", DOCUMENTED)
def test_a_documented_name_exists_and_takes_the_documented_arguments(place: str) -> None:
    found, documented = find(place), DOCUMENTED[place]
    if documented is None:
        return
    parameters = [
        p for p in inspect.signature(found).parameters.values() if p.name not in ("self", "cls")
    ]
    by_position = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    for index, text in enumerate(documented.split()):
        name, _, default = text.lstrip("*").partition("=")
        parameter = next(p for p in parameters if p.name == name)
        if not text.startswith("*"):
            assert by_position[index].name == name
        assert (parameter.default is parameter.empty) == (not default)
        assert not default or str(parameter.default).removeprefix("MessagePriority.") == default
    required = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    assert set(required) <= {text.lstrip("*").partition("=")[0] for text in documented.split()}


@pytest.mark.parametrize(
    "place",
    [
        p
        for p in DOCUMENTED
        if p.split(":")[-1].split(".")[0].endswith("Service") and "Template" not in p
    ],
)
def test_a_documented_service_call_can_be_made_on_the_class(place: str) -> None:
    module, _, path = place.partition(":")
    service, _, name = path.partition(".")
    owner = getattr(import_module(module), service)
    assert issubclass(owner, Facade)
    assert isinstance(inspect.getattr_static(owner, name), facade | classmethod)


def test_enums_have_the_documented_values() -> None:
    assert [state.value for state in RoomState] == [
        "CREATING",
        "PENDING",
        "PROCESSING",
        "ACTIVE",
        "DELETING",
        "DELETED",
    ]
    assert [state.value for state in MessageState] == [
        "COMPOSING",
        "PENDING",
        "PROCESSING",
        "SENT",
        "DELETING",
        "DELETED",
    ]
    assert {p.name: p.value for p in MessagePriority} == {
        "LOW": 1,
        "NORMAL": 2,
        "HIGH": 3,
        "CRITICAL": 4,
    }
    assert {kind.name for kind in ScheduleType} == {"INTERVAL", "CRON", "ONCE", "DAILY"}


def test_documented_objects_have_the_documented_attributes() -> None:
    assert "ai_service" in inspect.getsource(ChatTemplateImpl.__init__)
    assert [f.name for f in fields(ScheduleJob)][:5] == [
        "job_id",
        "name",
        "schedule_type",
        "schedule_value",
        "callback",
    ]
    assert isinstance(TemplateContext.get_instance(), TemplateContext)
    Logger.info("a constant message", field=1)

"""Puts the chat's parts together. The one place of the chat that names the service container."""

from __future__ import annotations

from dataclasses import dataclass

from base_server.service.cache.cache_client import CacheClient
from base_server.service.scheduler.base_scheduler import ScheduleJob, ScheduleType
from base_server.service.service_container import ServiceContainer
from base_server.template.chat.cache.keys import ChatKeys
from base_server.template.chat.cache.load import LoadContext
from base_server.template.chat.cache.loaders import Loaders
from base_server.template.chat.chat_persistence_consumer import ChatPersistenceConsumer
from base_server.template.chat.chat_state_machine import ChatStateMachine
from base_server.template.chat.messages.history import RoomHistory
from base_server.template.chat.messages.pages import ChatReader
from base_server.template.chat.messages.repository import MessageRepository
from base_server.template.chat.persistence.batch_writer import BatchWriter
from base_server.template.chat.persistence.deletes import ChatDeletes
from base_server.template.chat.persistence.event_streams import EventStreams
from base_server.template.chat.persistence.health import PersistenceHealth
from base_server.template.chat.persistence.host_events import HostEvents
from base_server.template.chat.replies.reader import ReplyReaders
from base_server.template.chat.replies.repository import ReplyRepository
from base_server.template.chat.replies.runner import ChatReplies
from base_server.template.chat.replies.running import ReplyServices
from base_server.template.chat.replies.signals import ReplySignals
from base_server.template.chat.replies.slots import ReplySlots
from base_server.template.chat.rooms.directory import ChatDirectory
from base_server.template.chat.rooms.repository import RoomRepository
from base_server.template.chat.settings import ChatSettings


@dataclass(frozen=True)
class ChatParts:
    """What a running chat template consists of."""

    rooms: RoomRepository
    messages: MessageRepository
    reader: ChatReader
    replies: ChatReplies
    reply_repository: ReplyRepository
    readers: ReplyReaders
    states: ChatStateMachine
    consumer: ChatPersistenceConsumer
    health: PersistenceHealth
    keys: ChatKeys
    cache: CacheClient


class ChatWiring:
    """Makes the parts when the services run, starts their background work and ends it."""

    def __init__(self, container: ServiceContainer, settings: ChatSettings) -> None:
        self.settings = settings
        self.database = container.database
        self.ai = container.ai
        self._container = container
        self._sweep_job = ""

    async def start(self) -> ChatParts:
        """Parts with their jobs running, and what a killed process left behind taken up."""
        container, settings = self._container, self.settings
        max_backlog = container.settings.queue.max_backlog
        hot, bulk = container.cache.get_client(), container.cache.get_bulk_client()
        streams = EventStreams(
            container.queue,
            hot.partitions.of_id,
            lambda: container.database.shard_ids,
            default_shard_id=settings.default_shard_id,
            batch_size=settings.batch_size,
            max_backlog=max_backlog,
        )
        states = ChatStateMachine(hot, settings)
        directory = ChatDirectory(hot, container.database)
        writer = BatchWriter(container.queue, container.database, bulk, states, directory, settings)
        consumer = ChatPersistenceConsumer(
            container.queue, writer, container.scheduler, settings, container.tasks
        )
        streams.on_flush(consumer.flush)
        # What a model is not told need not be read for it.
        told = min(settings.history_length, container.settings.llm.max_conversation_length)
        asking = settings.model_copy(update={"history_length": told})
        signals, slots = ReplySignals(), ReplySlots(hot, streams, asking)
        context = LoadContext(bulk, container.database, streams, settings)
        loaders = Loaders.of(
            context, writer.marks.check_stream, slots.interrupt, directory, container.tasks
        )
        deletes = ChatDeletes(hot, directory, loaders, streams, settings)
        states.delete_through(directory, deletes)
        replies = ChatReplies(
            ReplyServices(
                slots, loaders.rooms.load, container.ai, signals, settings, container.tasks
            )
        )
        reply_repository = ReplyRepository(hot, container.database, loaders, streams, settings)
        parts = ChatParts(
            rooms=RoomRepository(hot, container.database, loaders, streams, settings),
            messages=MessageRepository(hot, container.database, loaders, streams, asking),
            reader=ChatReader(hot, container.database, loaders, streams, settings),
            replies=replies,
            reply_repository=reply_repository,
            readers=ReplyReaders(reply_repository, slots, replies, signals, settings),
            states=states,
            consumer=consumer,
            health=PersistenceHealth(consumer, container.database, max_backlog),
            keys=ChatKeys(hot),
            cache=hot,
        )
        streams.on_event(
            HostEvents(
                directory,
                parts.rooms,
                deletes,
                streams,
                account_partition=hot.partitions.of_id,
                default_shard_id=settings.default_shard_id,
                load_timeout_s=settings.load_timeout_s,
            )
        )
        states.install()
        history = RoomHistory(hot, container.database, directory, settings.history_length)
        container.ai.register_history(history)
        await signals.start(container.cache.subscribe)
        await self._take_over(parts)
        await consumer.start()
        await self._start_sweep(parts)
        return parts

    async def stop(self, parts: ChatParts, drain_s: float) -> None:
        """Replies first (they still write), then the batch under way."""
        await self._container.scheduler.remove_job(self._sweep_job)
        await parts.replies.stop(drain_s)
        parts.readers.close(include_local=True)
        await parts.consumer.stop()
        parts.states.uninstall()

    async def _take_over(self, parts: ChatParts) -> None:
        """A Redis that serves this process alone: every earlier holder of a slot is dead, so
        its lease is not waited for."""
        if not self._container.settings.cache.owns_server:
            return
        # The first sweep ends replies that were running, the second those that waited for a slot.
        await parts.replies.sweep(all_open=True)
        await parts.replies.sweep(all_open=True)
        await parts.consumer.write_waiting()

    async def _start_sweep(self, parts: ChatParts) -> None:
        self._sweep_job = f"chat_reply_sweep:{parts.consumer.consumer_id}"
        await self._container.scheduler.add_job(
            ScheduleJob(
                job_id=self._sweep_job,
                name="chat reply sweep",
                schedule_type=ScheduleType.INTERVAL,
                schedule_value=self.settings.sweep_interval_s,
                callback=parts.replies.sweep,
            )
        )

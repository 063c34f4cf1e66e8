"""Draining a stream under its lock, for consumers that batch and acknowledge by themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from base_server.service.lock.lock_holder import AcquiredLock
from base_server.service.queue.event_stream import EventStream
from base_server.service.queue.message_queue import QueueEntry
from base_server.service.queue.stream_store import EventStreamStore

DrainHandler = Callable[[EventStream, list[QueueEntry]], Awaitable[object]]
DrainBegin = Callable[[EventStream], Awaitable[object]]


async def drain(
    store: EventStreamStore,
    lock_taken: AbstractAsyncContextManager[AcquiredLock | None],
    stream: EventStream,
    handler: DrainHandler,
    *,
    batch: int,
    batch_bytes: int,
    begin: DrainBegin | None,
) -> int:
    """See :meth:`QueueService.drain_stream`; ``lock_taken``: the stream's lock."""
    handed = 0
    async with lock_taken as lock:
        if lock is not None and begin is not None:
            await begin(stream)
        before: list[str] = []
        while lock is not None and not lock.lost:
            entries = await store.head(stream, batch, batch_bytes)
            ids = [entry.entry_id for entry in entries]
            if not ids or ids == before:
                # Empty, or the handler left everything there: handing it over again would spin.
                break
            handed += len(ids)
            if await handler(stream, entries) is False:
                break
            before = ids
    return handed

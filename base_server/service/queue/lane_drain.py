"""Draining a lane under its lock, for consumers that batch and settle by themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from base_server.service.lock.lock_holder import HeldLock
from base_server.service.queue.lane_store import LaneStore
from base_server.service.queue.lanes import Lane
from base_server.service.queue.message_queue import QueueEntry

DrainHandler = Callable[[Lane, list[QueueEntry]], Awaitable[object]]
DrainBegin = Callable[[Lane], Awaitable[object]]


async def drain(
    store: LaneStore,
    holding: AbstractAsyncContextManager[HeldLock | None],
    lane: Lane,
    handler: DrainHandler,
    *,
    batch: int,
    batch_bytes: int,
    begin: DrainBegin | None,
) -> int:
    """See :meth:`QueueService.drain_lane`; ``holding``: the lane's lock."""
    handed = 0
    async with holding as held:
        if held is not None and begin is not None:
            await begin(lane)
        before: list[str] = []
        while held is not None and not held.lost:
            entries = await store.head(lane, batch, batch_bytes)
            ids = [entry.entry_id for entry in entries]
            if (
                not ids or ids == before
            ):  # empty, or the handler took nothing away: it has its reasons
                break
            handed += len(ids)
            if await handler(lane, entries) is False:
                break
            before = ids
    return handed

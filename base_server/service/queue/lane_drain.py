"""Draining a lane under its lock, for consumers that batch and settle by themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from service.lock.lock_holder import LockHolder
from service.queue.lane_store import LaneStore
from service.queue.lanes import Lane
from service.queue.message_queue import QueueEntry

DrainHandler = Callable[[Lane, list[QueueEntry]], Awaitable[object]]


async def drain(
    store: LaneStore,
    locks: LockHolder,
    lane: Lane,
    handler: DrainHandler,
    *,
    batch: int,
    batch_bytes: int,
    lock_ttl_s: float,
    lock_timeout_s: float,
) -> int:
    """See :meth:`QueueService.drain_lane`."""
    handed = 0
    async with locks.holding(
        lane.lock_key, ttl_s=lock_ttl_s, timeout_s=lock_timeout_s, partition=lane.partition
    ) as held:
        before: list[str] = []
        while held is not None and not held.lost:
            entries = await store.head(lane, batch, batch_bytes)
            ids = [entry.entry_id for entry in entries]
            if not ids or ids == before:  # empty, or the handler took nothing away: it has its reasons
                break
            handed += len(ids)
            if await handler(lane, entries) is False:
                break
            before = ids
    return handed

"""How replies end: the one place that writes an end, hands a slot over, or releases it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from base_server.service.core.errors import ServiceUnavailable
from base_server.service.core.logger import Logger
from base_server.service.llm.conversation import ReplyEnd
from base_server.template.base.errors import ErrorCode
from base_server.template.chat.replies.buffer import ReplyBuffer
from base_server.template.chat.replies.life import Finish
from base_server.template.chat.replies.metadata import failure_metadata, usage_metadata
from base_server.template.chat.replies.slot import SlotLost
from base_server.template.chat.replies.slots import ReplySlots

_RETRY_S = 0.2


class ReplyHandedOver(ServiceUnavailable):
    """Another process runs the reply."""


class ReplyPostponed(ServiceUnavailable):
    """Nobody was asked, and another process may claim the slot."""


class ReplyEnding:
    """``on_granted`` is called with the token of the slot that an end has granted."""

    def __init__(
        self, slots: ReplySlots, lease_s: float, on_granted: Callable[[str], None]
    ) -> None:
        self._slots = slots
        self._lease_s = lease_s
        self._on_granted = on_granted

    async def finish(
        self, buffer: ReplyBuffer, finish: Finish, outcome: ReplyEnd | BaseException
    ) -> str:
        """The final list entry of the buffer's reply; '' when it was deleted.

        Raises ReplyHandedOver and ReplyPostponed, and ServiceUnavailable when Redis is away for a
        whole lease."""
        await buffer.close()
        slot = buffer.slot
        if finish is Finish.HANDED_OVER:
            await self._hand_over(buffer)
            raise ReplyPostponed("chat", "the question waits for another process")
        if finish is not Finish.RELEASED:
            # Race: a stop, a delete or the sweeper of another process may be first. Then its end
            # counts.
            try:
                entry = await self._write(buffer, _metadata(buffer, finish, outcome))
                return entry or await self._slots.final(slot)
            except SlotLost:
                pass
        if await self._slots.release(slot):
            raise ReplyHandedOver("chat", "another process has taken up the reply")
        return await self._slots.final(slot)

    async def _write(self, buffer: ReplyBuffer, metadata: dict[str, Any]) -> str:
        """Write the end, however long Redis is away within the lease; after that the sweeper
        does."""
        slot, metadata = buffer.slot, buffer.metadata() | metadata
        give_up_s = time.monotonic() + self._lease_s
        while True:
            try:
                ended = await self._slots.end(
                    slot,
                    buffer.claim_id,
                    buffer.text,
                    metadata,
                    start=buffer.stored_bytes,
                    unsent=buffer.unsent,
                )
            except ServiceUnavailable as outage:
                if time.monotonic() >= give_up_s:
                    Logger.error(
                        "reply not ended: Redis is away", room_id=slot.room_id, reason=outage.reason
                    )
                    raise
                await asyncio.sleep(_RETRY_S)
                continue
            self._on_granted(ended.granted_token)
            return ended.entry

    async def _hand_over(self, buffer: ReplyBuffer) -> None:
        """Give back what this process claimed, or may have claimed: a claim's answer can be
        lost."""
        try:
            await self._slots.hand_over(buffer.slot, buffer.claim_id)
        except ServiceUnavailable as outage:
            # Nobody may ask now: the sweeper ends the reply once its lease is over.
            Logger.warn("turn not handed over", room_id=buffer.slot.room_id, reason=outage.reason)


def _metadata(
    buffer: ReplyBuffer, finish: Finish, outcome: ReplyEnd | BaseException
) -> dict[str, Any]:
    if isinstance(outcome, ReplyEnd) and finish is Finish.COMPLETE:
        return usage_metadata(outcome)
    if finish in (Finish.STOPPED, Finish.INTERRUPTED):
        return {"finish_reason": finish.value}
    code = ErrorCode.AI_TIMED_OUT if finish is Finish.TIMED_OUT else ErrorCode.AI_UNAVAILABLE
    Logger.warn(
        "reply failed", room_id=buffer.slot.room_id, message_id=buffer.slot.reply_id, code=code.name
    )
    return failure_metadata(code, outcome, buffer.slot.reply_id)

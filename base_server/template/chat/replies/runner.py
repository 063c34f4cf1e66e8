"""The AI replies of this process: started, found again after a crash, drained.

Readers do not matter to a reply: the caller of ``message/send`` waits for its task, but when that
caller disconnects the reply goes on. A process that dies leaves its slots to the sweeper of
another."""

from __future__ import annotations

import asyncio

from base_server.service.core.logger import Logger
from base_server.template.chat.domain.metrics import OPEN_REPLIES, REPLIES
from base_server.template.chat.replies.ending import ReplyEnding
from base_server.template.chat.replies.life import StopReason
from base_server.template.chat.replies.metadata import end_of
from base_server.template.chat.replies.running import ReplyServices, RunningReply
from base_server.template.chat.replies.signals import ReplySignal
from base_server.template.chat.replies.slot import ReplySlot
from base_server.template.chat.replies.slots import SlotQuestion


class ChatReplies:
    """Every reply that runs in this process, by its id and by the token of its slot."""

    def __init__(self, services: ReplyServices) -> None:
        self._services = services
        self._ending = ReplyEnding(
            services.slots, services.settings.reply_lease_s, self._notify_granted
        )
        self._running: dict[str, RunningReply] = {}
        self._by_token: dict[str, RunningReply] = {}
        self._is_quiet = False

    def __len__(self) -> int:
        return len(self._running)

    def start(
        self,
        slot: ReplySlot,
        question: SlotQuestion | None,
        *,
        is_granted: bool,
        is_watched: bool,
        is_only_process: bool = False,
    ) -> None:
        """Run a reply, unless it runs here already; without ``is_granted`` it waits for its slot
        first.

        ``is_watched``: somebody reads its text from the start. ``is_only_process``: no other can
        have asked."""
        if (running := self._running.get(slot.reply_id)) is not None:
            if is_watched:
                running.buffer.watch()
            return
        reply = RunningReply(
            slot,
            question,
            self._services,
            self._ending,
            is_granted=is_granted,
            is_watched=is_watched,
            is_only_process=is_only_process,
        )
        self._running[slot.reply_id] = self._by_token[slot.token] = reply
        reply.task = self._services.tasks.spawn(self._run(reply), f"reply {slot.reply_id}")

    async def finished(self, reply_id: str) -> str:
        """The final list entry ('' when it was deleted) of a reply that runs here.

        Raises as RunningReply.run."""
        return await asyncio.shield(self._running[reply_id].task)

    def watch(self, reply_id: str) -> bool:
        """Write the text of a reply as often as for readers. False when it does not run here."""
        running = self._running.get(reply_id)
        if running is not None:
            running.buffer.watch()
        return running is not None

    def runs_here(self, reply_id: str) -> bool:
        return reply_id in self._running

    def stopped(self, reply_id: str, granted_token: str) -> None:
        """A reply was ended by a request here: do at once what the signals will cause."""
        self._services.signals.notify_local(reply_id, ReplySignal.ENDED)
        self._notify_granted(granted_token)

    async def sweep(self, *, all_open: bool = False) -> None:
        """End the replies whose process is silent past its lease; run those whose provider was not
        called.

        ``all_open``: no other process can be alive, so no lease is waited for (embedded default, at
        start)."""
        slots = self._services.slots
        for found in await slots.expired(all_open=all_open):
            slot = found.slot
            if slot.reply_id in self._running:
                continue
            if not found.is_called:
                # A process that stops leaves it to the others, or to the next start.
                if not self._is_quiet:
                    self.start(
                        slot, None, is_granted=True, is_watched=True, is_only_process=all_open
                    )
                continue
            ended = await slots.interrupt(slot, only_if_expired=not all_open)
            if ended is not None and ended.is_ours:
                Logger.warn(
                    "reply interrupted: its process is gone",
                    room_id=slot.room_id,
                    message_id=slot.reply_id,
                )
                REPLIES.add("interrupted")
                self._notify_granted(ended.granted_token)

    def quiet(self) -> None:
        """Adopt no more replies; those that wait here go on until :meth:`stop`."""
        self._is_quiet = True

    async def stop(self, drain_s: float) -> None:
        """Wait ``drain_s`` seconds for the replies that run, then stop the rest.

        What was asked ends as interrupted; what was not stays in the queue of its room."""
        if running := [reply.task for reply in self._running.values()]:
            await asyncio.wait(running, timeout=drain_s)
        late = list(self._running.values())
        for reply in late:
            reply.cancel(StopReason.SHUTDOWN)
        await asyncio.gather(*(reply.task for reply in late), return_exceptions=True)

    async def _run(self, reply: RunningReply) -> str:
        slot, signals = reply.slot, self._services.signals
        try:
            with signals.subscribe(slot.reply_id, reply), OPEN_REPLIES.track_in_progress():
                entry = await reply.run()
            REPLIES.add(end_of(entry))
            return entry
        finally:
            del self._running[slot.reply_id], self._by_token[slot.token]
            signals.notify_local(slot.reply_id, ReplySignal.ENDED)

    def _notify_granted(self, token: str) -> None:
        if (reply := self._by_token.get(token)) is not None:
            reply.slot_granted.set()

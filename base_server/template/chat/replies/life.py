"""The life of a reply in the process that runs it: its states, and the one reason why it stops. No
I/O.

Another process, a stop by the user, a delete and the end of the process reach a reply at any
moment. Each of them calls :meth:`ReplyLife.cancel`; the first reason counts, and :data:`FINISHES`
alone says what it leads to."""

from __future__ import annotations

from enum import StrEnum


class ReplyState(StrEnum):
    WAITING = "waiting"
    """For the reply slot, for its room to be loaded, or for one of the AI calls that may run at
    once."""
    CLAIMING = "claiming"
    """The claim of the slot is in flight."""
    ANSWERING = "answering"
    """The claim is ours: the provider is called."""
    ENDING = "ending"
    DONE = "done"


REPLY_TRANSITIONS: dict[ReplyState, tuple[ReplyState, ...]] = {
    ReplyState.WAITING: (ReplyState.CLAIMING, ReplyState.ENDING),
    # Back to waiting: Redis is away, the room must be loaded, or an older Redis came back.
    ReplyState.CLAIMING: (ReplyState.WAITING, ReplyState.ANSWERING, ReplyState.ENDING),
    ReplyState.ANSWERING: (ReplyState.ENDING,),
    ReplyState.ENDING: (ReplyState.DONE,),
    ReplyState.DONE: (),
}


class StopReason(StrEnum):
    COMPLETED = "completed"
    QUESTION_DELETED = "question deleted"
    TIMED_OUT = "timed out"
    FAILED = "failed"
    NO_CAPACITY = "no capacity"
    """A question that another process accepted found no free AI call in this one."""
    ENDED_ELSEWHERE = "ended elsewhere"
    """Stopped by the user, deleted, swept, or claimed by another process."""
    SHUTDOWN = "shutdown"


class Finish(StrEnum):
    """What is done with a reply that stops. The first five write its end."""

    COMPLETE = "its text, as the provider ended it"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    TIMED_OUT = "error AI_TIMED_OUT"
    UNAVAILABLE = "error AI_UNAVAILABLE"
    HANDED_OVER = "slot handed over to another process"
    RELEASED = "slot released: its end is written elsewhere"


FINISHES: dict[StopReason, tuple[Finish, Finish]] = {
    # Before the provider is called, and afterwards.
    StopReason.COMPLETED: (Finish.COMPLETE, Finish.COMPLETE),
    StopReason.QUESTION_DELETED: (Finish.STOPPED, Finish.STOPPED),
    StopReason.TIMED_OUT: (Finish.UNAVAILABLE, Finish.TIMED_OUT),
    StopReason.FAILED: (Finish.UNAVAILABLE, Finish.UNAVAILABLE),
    StopReason.NO_CAPACITY: (Finish.HANDED_OVER, Finish.UNAVAILABLE),
    StopReason.ENDED_ELSEWHERE: (Finish.RELEASED, Finish.RELEASED),
    StopReason.SHUTDOWN: (Finish.HANDED_OVER, Finish.INTERRUPTED),
}


class ReplyLife:
    """``reason`` is set once, by :meth:`cancel` or by :meth:`end`."""

    __slots__ = ("reason", "state")

    def __init__(self) -> None:
        self.state = ReplyState.WAITING
        self.reason: StopReason | None = None

    def move(self, state: ReplyState) -> None:
        """Raises ValueError for a transition that is not in the table."""
        if state not in REPLY_TRANSITIONS[self.state]:
            raise ValueError(f"a reply cannot go from {self.state} to {state}")
        self.state = state

    def cancel(self, reason: StopReason) -> bool:
        """Stop for ``reason``, unless the reply stops already.

        Returns whether to interrupt what it does now."""
        if self.reason is not None or self.state in (ReplyState.ENDING, ReplyState.DONE):
            return False
        self.reason = reason
        # Race: a claim in flight may reach Redis behind the script that hands the slot over, and
        # would then block the room for a lease. So a shutdown awaits its answer. After any other
        # reason the slot is not ours to hand over.
        return self.state is not ReplyState.CLAIMING or reason is not StopReason.SHUTDOWN

    def end(self, reason: StopReason) -> Finish:
        """Begin to end: what to do for the reason that came first, ``reason`` if there was none."""
        was_called = self.state is ReplyState.ANSWERING
        self.reason = self.reason or reason
        self.move(ReplyState.ENDING)
        return FINISHES[self.reason][was_called]

"""A reply slot: the right of one reply to run in its room, or a place in the room's queue for
it."""

from __future__ import annotations

from dataclasses import dataclass

from base_server.template.chat.domain.caller import Caller
from base_server.template.chat.domain.message_format import from_json, to_json


@dataclass(frozen=True, slots=True)
class ReplyRef:
    """What is needed to read a reply without a search."""

    caller: Caller
    room_id: str
    reply_id: str
    seq: int


@dataclass(frozen=True, slots=True)
class ReplySlot:
    """``token`` names the slot in every script.

    ``deadline_ms``: when the reply must have ended, by the clock of Redis."""

    token: str
    caller: Caller
    room_id: str
    reply_id: str
    reply_seq: int
    question_id: str
    deadline_ms: int
    persona: str

    @property
    def ref(self) -> ReplyRef:
        return ReplyRef(self.caller, self.room_id, self.reply_id, self.reply_seq)

    @property
    def text(self) -> str:
        """As the scripts store it, and :func:`parse_slot` reads it."""
        fields = (
            self.token,
            self.reply_id,
            self.reply_seq,
            self.question_id,
            self.deadline_ms,
            to_json(self.persona),
        )
        return "|".join(map(str, fields))


def parse_slot(text: str, caller: Caller, room_id: str) -> ReplySlot:
    """A slot as lua/accept_send.lua writes it: token|reply id|reply seq|question id|deadline
    ms|persona as JSON."""
    token, reply_id, reply_seq, question_id, deadline_ms, persona = text.split("|", 5)
    return ReplySlot(
        token,
        caller,
        room_id,
        reply_id,
        int(reply_seq),
        question_id,
        int(deadline_ms),
        from_json(persona),
    )


class SlotLost(Exception):
    """The reply was stopped, deleted or ended by the sweeper, or another process has its slot."""


class RoomNotLoaded(Exception):
    """Only a room loaded from MySQL says whether the question was asked before."""


class StreamBehind(Exception):
    """The reply's stream holds only ``length`` bytes: an older Redis came back."""

    def __init__(self, length: int) -> None:
        super().__init__(f"the stream holds {length} bytes")
        self.length = length

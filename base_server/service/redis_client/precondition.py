"""What must hold when a script runs, asked by the script itself: a look and a write in one step and one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from base_server.service.redis_client.script import Script

_CODE = "PRECONDITION"

# KEYS and ARGV of the precondition stand behind those of the script and are gone before it begins.
_ASK = f"""local text, life, epoch = table.remove(ARGV), table.remove(ARGV), table.remove(ARGV)
local key, run = table.remove(KEYS), table.remove(KEYS)
if redis.call('GET', run) ~= epoch or redis.pcall('GET', key) ~= text then
  return redis.error_reply('{_CODE} does not hold')
end
local function script()
"""
# Last, for a full Redis refuses only a script's first write: before the script it would let every write through.
_LIVE_ON = """
end
local answer = script()
redis.pcall('EXPIRE', key, life)
return answer
"""


@dataclass(frozen=True, slots=True)
class Precondition:
    """``key`` holds ``text`` (its life then begins anew, ``life_s``), and the run epoch at ``epoch_key`` is ``epoch``.

    Full names, of the partition of the script's keys."""

    key: str
    text: str
    life_s: int
    epoch_key: str
    epoch: str

    def operands(self, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        """What EVALSHA takes behind the script's name."""
        numbered = [len(keys) + 2, *keys, self.epoch_key, self.key]
        return [*numbered, *args, self.epoch, self.life_s, self.text]


def asking_first(script: Script) -> Script:
    """``script`` for :meth:`Precondition.operands`."""
    return replace(script, body=_ASK + script.body + _LIVE_ON)


def is_refusal(code: str) -> bool:
    """Whether the error of a command says that its precondition does not hold."""
    return code == _CODE

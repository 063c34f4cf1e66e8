"""A precondition that a script checks itself: check and write in one step and one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from base_server.service.redis_client.script import Script

_CODE = "PRECONDITION"

# KEYS and ARGV of the precondition follow those of the script, and are removed before it begins.
_CHECK = f"""local text, life = table.remove(ARGV), table.remove(ARGV)
local generation = table.remove(ARGV)
local key, run = table.remove(KEYS), table.remove(KEYS)
if redis.call('GET', run) ~= generation or redis.pcall('GET', key) ~= text then
  return redis.error_reply('{_CODE} does not hold')
end
local function script()
"""
# Last: a full Redis refuses only a script's first write, and this one frees nothing and adds
# nothing. Before the script it would let every later write through.
_EXTEND_LIFE = """
end
local answer = script()
redis.pcall('EXPIRE', key, life)
return answer
"""


@dataclass(frozen=True, slots=True)
class Precondition:
    """``key`` holds ``text``, and the server generation at ``generation_key`` is ``generation``.

    If so, ``key`` lives another ``life_s``. Full key names, of the partition of the script's keys.
    """

    key: str
    text: str
    life_s: int
    generation_key: str
    generation: str

    def operands(self, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        """The operands of EVALSHA after the script's hash."""
        numbered = [len(keys) + 2, *keys, self.generation_key, self.key]
        return [*numbered, *args, self.generation, self.life_s, self.text]


def with_precondition(script: Script) -> Script:
    """``script`` for :meth:`Precondition.operands`."""
    return replace(script, body=_CHECK + script.body + _EXTEND_LIFE)


def is_refusal(code: str) -> bool:
    """Whether the error code of a script says that its precondition does not hold."""
    return code == _CODE

"""A provider's deltas made storable: whole characters only, nothing that UTF-8 or a database
refuses."""

from __future__ import annotations

import re

_HALVES = re.compile("[\ud800-\udfff\x00]")


class ReplyText:
    """Cleans a reply piece by piece.

    Some servers split an emoji into its two UTF-16 halves and send each in a delta of its own:
    a trailing first half is held back until its second half comes. A half that stays alone, and
    NUL, become U+FFFD.
    """

    def __init__(self) -> None:
        self._held = ""

    def push(self, delta: str) -> str:
        """The text that can be passed on now; may be empty."""
        if not self._held and _HALVES.search(delta) is None:
            return delta
        text = self._held + delta
        self._held = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return _repaired(text[: len(text) - len(self._held)])

    def flush(self) -> str:
        """What was held back, at the end of the reply."""
        held, self._held = self._held, ""
        return _repaired(held)


def _repaired(text: str) -> str:
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return joined.replace("\x00", "\ufffd")

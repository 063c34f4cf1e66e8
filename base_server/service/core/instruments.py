"""What services count: declared beside the code that counts, exposed by the application, free while
the application exposes none.

Like the logger there is one set per process. A name is ``area_what[_unit]`` as Prometheus has it,
without ``_total``; label values must be few and never a user's text or id.
"""

from __future__ import annotations

from collections.abc import Callable

Sink = Callable[[float, tuple[str, ...]], None]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""Upper bounds of a histogram of durations."""

_declared: dict[str, Instrument] = {}


def _discard(amount: float, labels: tuple[str, ...]) -> None:
    """The sink of an instrument that is not exposed."""


class Instrument:
    """``labels`` are names; each call gives their values in that order. Raises ValueError for a
    name in use."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...] = ()) -> None:
        if name in _declared:
            raise ValueError(f"the instrument {name} is declared twice")
        _declared[name] = self
        self.name = name
        self.text = text
        self.labels = labels
        self.sink: Sink = _discard
        """Called with amount and label values; set by the application."""


class Counter(Instrument):
    """How often, or how much, since the process started."""

    def add(self, *labels: str, amount: float = 1) -> None:
        self.sink(amount, labels)


class Gauge(Instrument):
    """How many there are now."""

    def up(self, *labels: str) -> None:
        self.sink(1, labels)

    def down(self, *labels: str) -> None:
        self.sink(-1, labels)

    def track_in_progress(self, *labels: str) -> _InProgress:
        """``with``: one more for as long as the block lasts."""
        return _InProgress(self, labels)


class _InProgress:
    __slots__ = ("_gauge", "_labels")

    def __init__(self, gauge: Gauge, labels: tuple[str, ...]) -> None:
        self._gauge = gauge
        self._labels = labels

    def __enter__(self) -> None:
        self._gauge.up(*self._labels)

    def __exit__(self, *_: object) -> None:
        self._gauge.down(*self._labels)


class Histogram(Instrument):
    """How the values spread; ``buckets`` are upper bounds."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...] = (),
        *,
        buckets: tuple[float, ...] = SECONDS,
    ) -> None:
        super().__init__(name, text, labels)
        self.buckets = buckets

    def observe(self, value: float, *labels: str) -> None:
        self.sink(value, labels)


def declared_instruments() -> list[Instrument]:
    """All of the modules that are imported so far."""
    return list(_declared.values())

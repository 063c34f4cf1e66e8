"""Prometheus metrics of one process: requests and what the services count, queues when somebody looks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from platform import python_version
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest

from application.base_web_server import __version__
from service.core import instruments
from service.core.errors import ServiceError
from service.core.instruments import SECONDS, Instrument, Sink
from service.queue.queue_service import QueueService
from template.base.protocol import Protocol

_PREFIX = "base_server_"


class Metrics:
    """``observe`` is the TemplateService's observer; ``render`` is the body of ``/metrics``."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, queue: QueueService) -> None:
        self.registry = CollectorRegistry()
        self._queue = queue
        _process_registry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = Counter(
            "base_server_requests_total", "Answered requests.", ("protocol", "error_code"), registry=self.registry
        )
        self._seconds = Histogram(
            "base_server_request_seconds",
            "Time from a request's body to its answer.",
            ("protocol",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._ready = Gauge("base_server_ready", "1 when the process is ready.", registry=self.registry)
        self._waiting = self._queue_gauge("base_server_queue_waiting", "Entries that wait in a queue.")
        self._age = self._queue_gauge("base_server_queue_oldest_age_seconds", "Age of a queue's oldest entry.")
        self._dead = self._queue_gauge("base_server_queue_dead_letters", "Entries in a queue's dead letters.")

    def observe(self, protocol: Protocol, error_code: int, elapsed_s: float) -> None:
        self._requests.labels(str(protocol.id), str(error_code)).inc()
        self._seconds.labels(str(protocol.id)).observe(elapsed_s)

    async def render(self, *, ready: bool) -> bytes:
        """The text format; without Redis the gauges of the queues are left out."""
        self._ready.set(1 if ready else 0)
        for gauge in (self._waiting, self._age, self._dead):
            gauge.clear()
        try:
            stats = await self._queue.stats()
        except ServiceError:
            stats = {}
        for queue_name, numbers in stats.items():
            self._waiting.labels(queue_name).set(numbers["waiting"])
            self._age.labels(queue_name).set(numbers["oldest_age_s"])
            self._dead.labels(queue_name).set(numbers["dead"])
        return generate_latest(self.registry) + generate_latest(_process_registry())

    def _queue_gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ("queue",), registry=self.registry)


@cache
def _process_registry() -> CollectorRegistry:
    """What the services of this process count, however many servers it runs, and which build they are."""
    registry = CollectorRegistry()
    for instrument in instruments.declared_instruments():
        instrument.sink = _sink(instrument, registry)
    info = Gauge(
        _PREFIX + "build_info",
        "1; the labels say what runs.",
        ("version", "python"),
        registry=registry,
        multiprocess_mode="max",
    )
    info.labels(__version__, python_version()).set(1)
    return registry


def _sink(instrument: Instrument, registry: CollectorRegistry) -> Sink:
    """A metric for ``instrument``, as the function that feeds it."""
    metric: Counter | Gauge | Histogram
    name, text, labels = _PREFIX + instrument.name, instrument.text, instrument.labels
    match instrument:
        case instruments.Counter():
            metric = Counter(name, text, labels, registry=registry)
        case instruments.Gauge():
            metric = Gauge(name, text, labels, registry=registry, multiprocess_mode="livesum")
        case instruments.Histogram():
            metric = Histogram(name, text, labels, buckets=instrument.buckets, registry=registry)
    noters: dict[tuple[str, ...], Callable[[float], None]] = {}

    def feed(amount: float, values: tuple[str, ...]) -> None:
        if (note := noters.get(values)) is None:
            child: Any = metric.labels(*values) if labels else metric
            note = noters[values] = child.observe if isinstance(metric, Histogram) else child.inc
        note(amount)

    return feed

"""Prometheus metrics of one process: requests as they happen, queues when somebody looks."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest

from service.core.errors import ServiceError
from service.queue.queue_service import QueueService
from template.base.protocol import Protocol

_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """``observe`` is the TemplateService's observer; ``render`` is the body of ``/metrics``."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, queue: QueueService) -> None:
        self.registry = CollectorRegistry()
        self._queue = queue
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = Counter(
            "base_server_requests_total", "Answered requests.", ("protocol", "error_code"), registry=self.registry
        )
        self._seconds = Histogram(
            "base_server_request_seconds",
            "Time from a request's body to its answer.",
            ("protocol",),
            buckets=_BUCKETS_S,
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
        return generate_latest(self.registry)

    def _queue_gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ("queue",), registry=self.registry)

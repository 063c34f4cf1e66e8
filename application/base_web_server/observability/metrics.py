"""Prometheus metrics of a server, summed over its worker processes.

Requests and the services' instruments are counted as they happen; queues and readiness are read for
each scrape. Counting is on the path of every request, so it only adds to plain dicts
(:class:`_PendingSums`, :class:`_PendingHistograms`), which a scrape, or a worker's heartbeat,
flushes into prometheus_client.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from platform import python_version
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from base_server.service.core import instruments
from base_server.service.core.errors import ServiceError
from base_server.service.core.instruments import SECONDS, Instrument, Sink
from base_server.service.queue.queue_service import QueueService
from base_server.template.base.endpoint import Endpoint

from .. import __version__
from ..workers.arguments import METRICS_FOLDER

_PREFIX = "base_server_"
SOURCE_TIMEOUT_S = 1.5
"""A scrape that waited longer for Redis would fail as a whole and raise the wrong alert."""
QueueNumbers = Mapping[str, Mapping[str, Any]]


class Metrics:
    """``observe`` is the TemplateService's observer; ``render`` is the body of ``/metrics``.

    With workers, ``processes`` returns their process ids by worker number, and ``worker`` is the
    number of this one. Counts are then those of all processes, ended ones included, and the figures
    of a process (CPU, memory, descriptors) have a label ``worker``.
    """

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(
        self,
        queue: QueueService,
        processes: Callable[[], Mapping[int, int]] | None = None,
        worker: int | None = None,
    ) -> None:
        self._queue = queue
        self._counted = CollectorRegistry()
        self._at_scrape = _AtScrape()
        if processes is None:
            self._scraped = [self._counted, _process_registry()]
            ProcessCollector(registry=self._counted)
        else:
            # With workers prometheus_client keeps every count in files that all of them read.
            _process_registry()
            self._scraped = [CollectorRegistry()]
            MultiProcessCollector(self._scraped[0], path=os.environ[METRICS_FOLDER])  # type: ignore[no-untyped-call]
            self._scraped[0].register(_Workers(processes))
        PlatformCollector(registry=self._scraped[0])
        self._scraped[0].register(self._at_scrape)
        self._requests = Counter(
            "base_server_requests_total",
            "Answered requests.",
            ("protocol", "error_code"),
            registry=self._counted,
        )
        self._seconds = _Histogram(
            "base_server_request_seconds",
            "Time from a request's body to its answer.",
            ("protocol",),
            buckets=SECONDS,
            registry=self._counted,
        )
        self._answers = _PendingHistograms(SECONDS, self._add)
        tasks = Gauge(
            "base_server_tasks",
            "Asyncio tasks of the process.",
            ("worker",) if worker else (),
            registry=self._counted,
            multiprocess_mode="livesum",
        )
        self._tasks = tasks.labels(str(worker)) if worker else tasks

    def observe(self, endpoint: Endpoint, error_code: int, elapsed_s: float) -> None:
        self._answers.add(elapsed_s, (endpoint.id, error_code))

    def flush(self) -> None:
        """Make the counts of this process, and its number of tasks, visible to all scrapes."""
        self._tasks.set(len(asyncio.all_tasks()))
        for pending in (self._answers, *_pending):
            pending.flush()

    def _add(self, series: tuple[Any, ...], counts: Sequence[int], total_s: float) -> None:
        self._requests.labels(*series).inc(sum(counts))
        self._seconds.add(series[:1], counts, total_s)

    async def read_queues(self) -> QueueNumbers | None:
        """The figures of the queues, for :meth:`render`; None on an outage or time-out."""
        try:
            async with asyncio.timeout(SOURCE_TIMEOUT_S):
                return await self._queue.stats()
        except (ServiceError, TimeoutError):
            return None

    def render(
        self, *, ready: bool, queues: QueueNumbers | None, degraded: Iterable[str] = ()
    ) -> bytes:
        """The text format. ``degraded``: names of checks, as in ``/readyz``.

        Without ``queues`` their gauges are missing and `base_server_source_up` is 0.
        """
        self.flush()
        source_up = GaugeMetricFamily(
            "base_server_source_up",
            "1 if this scrape has the figures of the source, 0 if they are missing.",
            labels=("source",),
        )
        source_up.add_metric(["redis"], 0 if queues is None else 1)
        is_degraded = GaugeMetricFamily(
            "base_server_degraded",
            "1 for each check that /readyz reports as degraded.",
            labels=("check",),
        )
        for check in degraded:
            is_degraded.add_metric([check], 1)
        stats = queues or {}
        self._at_scrape.families = [
            GaugeMetricFamily(
                "base_server_ready", "1 when the server is ready.", value=1 if ready else 0
            ),
            is_degraded,
            source_up,
            _of_queues(
                "base_server_queue_waiting", "Entries waiting in a queue.", stats, "waiting"
            ),
            _of_queues(
                "base_server_queue_oldest_age_seconds",
                "Age of a queue's oldest entry.",
                stats,
                "oldest_age_s",
            ),
            _of_queues(
                "base_server_queue_dead_letters",
                "Entries in a queue's dead letters.",
                stats,
                "dead",
            ),
        ]
        return b"".join(map(generate_latest, self._scraped))


class _AtScrape(Collector):
    """The figures that are read for each scrape."""

    def __init__(self) -> None:
        self.families: Sequence[Metric] = ()

    def collect(self) -> Iterable[Metric]:
        return self.families


class _Workers(Collector):
    """CPU, memory and descriptors of every worker process."""

    def __init__(self, processes: Callable[[], Mapping[int, int]]) -> None:
        self._processes = processes

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for worker, pid in self._processes().items():
            for family in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                known = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    known.add_sample(
                        sample.name, {**sample.labels, "worker": str(worker)}, sample.value
                    )
        return families.values()


def _of_queues(name: str, text: str, stats: QueueNumbers, which: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=("queue",))
    for queue_name, numbers in stats.items():
        family.add_metric([queue_name], numbers[which])
    return family


@cache
def _process_registry() -> CollectorRegistry:
    """The services' instruments and the build info: one set per process, for all its servers."""
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
    """Make a metric for ``instrument``; returns the function that adds a value to it."""
    pending: _PendingSums | _PendingHistograms
    name, text, labels = _PREFIX + instrument.name, instrument.text, instrument.labels
    match instrument:
        case instruments.Counter():
            pending = _PendingSums(Counter(name, text, labels, registry=registry))
        case instruments.Gauge():
            pending = _PendingSums(
                Gauge(name, text, labels, registry=registry, multiprocess_mode="livesum")
            )
        case instruments.Histogram(buckets=bounds):
            pending = _PendingHistograms(
                bounds, _Histogram(name, text, labels, buckets=bounds, registry=registry).add
            )
    _pending.append(pending)
    return pending.add


class _PendingSums:
    """The changes of a counter or gauge since the last flush, as a sum per series.

    Measured: a fifth of the cost of prometheus_client's own ``labels().inc()``, which takes a lock
    and, with workers, writes to a mapped file.
    """

    def __init__(self, metric: Counter | Gauge) -> None:
        self._metric = metric
        self._pending: dict[tuple[str, ...], float] = {}

    def add(self, amount: float, values: tuple[str, ...]) -> None:
        pending = self._pending
        pending[values] = pending.get(values, 0.0) + amount

    def flush(self) -> None:
        pending, self._pending = self._pending, {}
        for values, amount in pending.items():
            (self._metric.labels(*values) if values else self._metric).inc(amount)


class _PendingHistograms:
    """The values of a histogram since the last flush: per series a count per bucket, and the sum.

    ``add_to_metric`` gets them at the flush.
    """

    def __init__(
        self,
        bounds: Sequence[float],
        add_to_metric: Callable[[tuple[Any, ...], Sequence[int], float], None],
    ) -> None:
        self._bounds = bounds
        self._add_to_metric = add_to_metric
        self._pending: dict[tuple[Any, ...], list[Any]] = {}

    def add(self, value: float, series: tuple[Any, ...]) -> None:
        if (series_counts := self._pending.get(series)) is None:
            # Counts of the bounded buckets, of +Inf, and the sum of the values.
            series_counts = self._pending[series] = [0] * (len(self._bounds) + 2)
        series_counts[bisect_left(self._bounds, value)] += 1
        series_counts[-1] += value

    def flush(self) -> None:
        pending, self._pending = self._pending, {}
        for series, (*counts, total) in pending.items():
            self._add_to_metric(series, counts, total)


class _Histogram(Histogram):
    """A histogram that takes many values at once."""

    def add(self, values: tuple[Any, ...], counts: Sequence[int], total: float) -> None:
        """Add to the series with these label ``values``; the last of ``counts`` is that of +Inf."""
        series = self.labels(*values) if values else self
        series._sum.inc(total)
        for bucket, count in zip(series._buckets, counts, strict=True):
            bucket.inc(count)


_pending: list[_PendingSums | _PendingHistograms] = []

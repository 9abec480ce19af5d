"""`/metrics`: the readings in the formats of Prometheus (CONTRACT §16)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from proxy.admin.readings import Readings, Series
from proxy.ports.counts import EXPORT_SECONDS, FILE_BYTES, LAG_SECONDS, REQUEST_SECONDS

PREFIX = "vb365_proxy_"


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its name without the prefix, its labels, and the bounds of a histogram."""

    name: str
    help: str
    labels: Sequence[str] = ()
    bounds: Sequence[float] = ()


GAUGES = (
    Family(
        "build_info", "Always 1; the version of the proxy and of Python.", ("version", "python")
    ),
    Family("start_time_seconds", "When the proxy started, in Unix seconds."),
    Family("upstream_up", "Whether VB365 responds: 1 or 0."),
    Family("check_success", "Whether this check of /readyz succeeds: 1 or 0.", ("check",)),
    Family(
        "certificate_not_after_seconds",
        "The end of the certificate of the proxy (own) or of VB365 (upstream), in Unix seconds.",
        ("whose",),
    ),
    Family("http_connections", "Open connections, by side and state.", ("side", "state")),
    Family("jobs", "Unfinished exports, by phase.", ("phase",)),
    Family("jobs_oldest_age_seconds", "The age of the oldest unfinished export; 0 without one."),
    Family("webhook_backlog", "Exports with notifications that receivers have not got yet."),
    Family("storage_bytes", "Bytes of the storage of exported files, by kind.", ("kind",)),
)
COUNTERS = (
    Family("http_requests_total", "Requests of clients, by lane and status.", ("lane", "code")),
    Family("bytes_total", "Bytes received, sent, stored and served, by flow.", ("flow",)),
    Family("upstream_failures_total", "Failures of VB365, by kind.", ("kind",)),
    Family("jobs_finished_total", "Exports that ended, by status.", ("status", "code")),
    Family("jobs_joined_total", "Kick-offs that were given an existing export."),
    Family("jobs_resumed_total", "Suspended exports that were resumed."),
    Family("jobs_rescued_total", "Synchronous exports that were run as jobs."),
    Family("access_checks_total", "Access checks, by outcome.", ("outcome",)),
    Family("webhook_deliveries_total", "Attempts to deliver webhooks, by outcome.", ("outcome",)),
)
HISTOGRAMS = (
    Family(
        "http_request_duration_seconds",
        "Seconds from the first byte of a request to the last byte of its response, by lane.",
        ("lane",),
        REQUEST_SECONDS,
    ),
    Family(
        "http_time_to_first_byte_seconds",
        "Seconds from the first byte of a request to the first byte of its response, by lane.",
        ("lane",),
        REQUEST_SECONDS,
    ),
    Family(
        "export_queue_seconds",
        "Seconds that exports waited for a slot, by verb.",
        ("verb",),
        EXPORT_SECONDS,
    ),
    Family(
        "export_generation_seconds",
        "Seconds from the request to VB365 to its response, by verb.",
        ("verb",),
        EXPORT_SECONDS,
    ),
    Family(
        "export_transfer_seconds",
        "Seconds from the first to the last byte of the file, by verb.",
        ("verb",),
        EXPORT_SECONDS,
    ),
    Family("export_size_bytes", "The size of exported files, by verb.", ("verb",), FILE_BYTES),
    Family("event_loop_lag_seconds", "How late a timer runs, once per second.", (), LAG_SECONDS),
)


@dataclass(slots=True, eq=False)
class _Rendering:
    """The text for all requests that arrived before it was begun; None until then."""

    text: bytes | None = None


class Metrics:
    """Renders what `scrape` reads.

    It renders once at a time, for all requests that wait, and pauses as long as that took:
    any number of requests leave half of the time to others. A text is never older than its request.
    """

    def __init__(self, scrape: Callable[[], Awaitable[Readings]]) -> None:
        self._scrape = scrape
        self._turn = asyncio.Lock()
        #: By Content-Type, those that have not begun.
        self._next: dict[str, _Rendering] = {}
        self._pause_ends = 0.0

    async def __call__(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their Content-Type: OpenMetrics or Prometheus text, as the Accept
        field of the request wants.
        """
        encode, content_type = choose_encoder(accept)
        mine = self._next.setdefault(content_type, _Rendering())
        async with self._turn:
            if mine.text is None:
                mine.text = await self._render(mine, encode, content_type)
        return mine.text, content_type

    async def _render(
        self, wanted: _Rendering, encode: Callable[[Collector], bytes], content_type: str
    ) -> bytes:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._pause_ends - loop.time()))
        if self._next.get(content_type) is wanted:  # else an earlier request was cancelled
            del self._next[content_type]
        readings = await self._scrape()
        began = loop.time()
        # thousands of lines take milliseconds
        text = await asyncio.to_thread(encode, _Readings(readings))
        ended = loop.time()
        self._pause_ends = 2 * ended - began
        return text


class _Readings(Collector):
    """Readings as families of metrics."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        """Called by the encoder."""
        for family in GAUGES:
            gauge = GaugeMetricFamily(PREFIX + family.name, family.help, labels=family.labels)
            for labels, (value,) in self._series(family):
                gauge.add_metric(labels, value)
            yield gauge
        for family in COUNTERS:
            counter = CounterMetricFamily(PREFIX + family.name, family.help, labels=family.labels)
            for labels, (value,) in self._series(family):
                counter.add_metric(labels, value)
            yield counter
        for family in HISTOGRAMS:
            name, bounds = PREFIX + family.name, [*map(floatToGoString, family.bounds), "+Inf"]
            histogram = HistogramMetricFamily(name, family.help, labels=family.labels)
            for labels, (total, *counts) in self._series(family):
                histogram.add_metric(
                    labels, list(zip(bounds, accumulate(counts), strict=True)), total
                )
            yield histogram

    def _series(self, family: Family) -> Iterator[tuple[tuple[str, ...], list[float]]]:
        readings = self._readings
        found: Series = readings.counters.get(family.name) or readings.gauges.get(family.name, {})
        yield from sorted(found.items())

"""The numbers that the metrics show, read from the counts of the packages (CONTRACT §16).

They have the same form in every process, so that those of several workers can be added.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.core.histogram import Histogram
from proxy.core.job import ErrorCode, Status
from proxy.ports.counts import (
    AccessCounts,
    ClientCounts,
    FileCounts,
    JobCounts,
    UpstreamCounts,
    WebhookCounts,
)

#: A number for each combination of label values; a histogram's are its sum and its counts.
Series = dict[tuple[str, ...], list[float]]

_FAILURES = ("connect", "timeout", "reset", "malformed", "truncated", "tls")
_ENDS = (
    *((status.value, "") for status in (Status.SUCCESS, Status.WARNING, Status.CANCELLED)),
    *((Status.FAILED.value, code.value) for code in ErrorCode),
)
_DELIVERIES = ("delivered", "failed", "given_up")
_OUTCOMES = ("cached", "allowed", "denied", "unauthorized", "unreachable")


@dataclass(slots=True)
class Readings:
    """Series by the name of their metric. Counters only grow; gauges may fall."""

    counters: defaultdict[str, Series] = field(default_factory=lambda: defaultdict(dict))
    gauges: defaultdict[str, Series] = field(default_factory=lambda: defaultdict(dict))

    def count(self, name: str, value: float, *labels: str) -> None:
        """Set a counter."""
        self.counters[name][labels] = [value]

    def gauge(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        self.gauges[name][labels] = [value]

    def histogram(self, name: str, found: Iterable[Histogram], *labels: str) -> None:
        """Set a histogram to the sum of those found."""
        parts = [[each.total, *each.counts] for each in found]
        self.counters[name][labels] = [sum(column) for column in zip(*parts, strict=True)]

    def add(self, other: Readings, *, gauges: bool = True) -> None:
        """Add the numbers of another process; without `gauges`, of one that has ended."""
        _add(self.counters, other.counters)
        if gauges:
            _add(self.gauges, other.gauges)

    def encode(self) -> bytes:
        """Return the readings as JSON."""
        return json.dumps([_plain(self.counters), _plain(self.gauges)]).encode()

    @classmethod
    def decode(cls, data: bytes) -> Readings:
        """Return what `encode` has written."""
        return cls(*(_series(each) for each in json.loads(data)))


def _add(to: defaultdict[str, Series], more: Mapping[str, Series]) -> None:
    for name, series in more.items():
        mine = to[name]
        for labels, values in series.items():
            known = mine.get(labels)
            mine[labels] = (
                list(values)
                if known is None
                else [a + b for a, b in zip(known, values, strict=True)]
            )


def _plain(by_name: Mapping[str, Series]) -> dict[str, list[Any]]:
    return {name: list(series.items()) for name, series in by_name.items()}


def _series(plain: Mapping[str, list[Any]]) -> defaultdict[str, Series]:
    found: defaultdict[str, Series] = defaultdict(dict)
    for name, items in plain.items():
        found[name] = {tuple(labels): values for labels, values in items}
    return found


def read_clients(readings: Readings, clients: ClientCounts, lag: Histogram) -> None:
    """Read the requests of clients by lane, their bytes, and the event loop's lag."""
    for name, lane in clients.lanes.items():
        for code, number in lane.codes.items():
            readings.count("http_requests_total", number, name, f"{code:03}")
        last, first = [lane.at_once, lane.last_byte], [lane.at_once, lane.first_byte]
        readings.histogram("http_request_duration_seconds", last, name)
        readings.histogram("http_time_to_first_byte_seconds", first, name)
    readings.count("bytes_total", clients.received, "client_in")
    readings.count("bytes_total", clients.sent, "client_out")
    readings.histogram("event_loop_lag_seconds", [lag])


def read_upstream(readings: Readings, pools: Iterable[UpstreamCounts]) -> None:
    """Read the bytes and failures of the connections to VB365."""
    found = list(pools)
    readings.count("bytes_total", sum(each.received for each in found), "upstream_in")
    readings.count("bytes_total", sum(each.sent for each in found), "upstream_out")
    for kind in _FAILURES:
        total = sum(getattr(each, kind) for each in found)
        readings.count("upstream_failures_total", total, kind)


def read_jobs(readings: Readings, jobs: JobCounts, files: FileCounts, stored: int) -> None:
    """Read the outcomes of jobs, and the bytes of their files."""
    # from 0 on: Prometheus sees no increase in a counter that appears with 1
    for status, code in (*_ENDS, *jobs.finished):
        readings.count("jobs_finished_total", jobs.finished.get((status, code), 0), status, code)
    readings.count("jobs_joined_total", jobs.joined)
    readings.count("jobs_resumed_total", jobs.resumed)
    readings.count("jobs_rescued_total", jobs.rescued)
    for name, by_verb in (
        ("export_queue_seconds", jobs.queue),
        ("export_generation_seconds", jobs.generation),
        ("export_transfer_seconds", jobs.transfer),
        ("export_size_bytes", jobs.size),
    ):
        for verb, histogram in by_verb.items():
            readings.histogram(name, [histogram], verb)
    readings.count("bytes_total", stored, "stored")
    readings.count("bytes_total", files.served, "served")


def read_webhooks(readings: Readings, webhooks: WebhookCounts) -> None:
    """Read the outcomes of webhooks, and how many wait."""
    for outcome in _DELIVERIES:
        readings.count("webhook_deliveries_total", getattr(webhooks, outcome), outcome)
    readings.gauge("webhook_backlog", webhooks.backlog)


def read_access(readings: Readings, access: AccessCounts) -> None:
    """Read the outcomes of access checks."""
    for outcome in _OUTCOMES:
        readings.count("access_checks_total", getattr(access, outcome), outcome)

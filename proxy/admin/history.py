"""The counts of each minute of the last day: /api/history (CONTRACT §16)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from proxy.admin.readings import Readings
from proxy.admin.responses import bad_request
from proxy.core.job import Phase, Status
from proxy.core.job_document import timestamp
from proxy.ports.counts import REQUEST_SECONDS

#: Minutes that are kept, and that are returned unless the request says otherwise.
KEPT, DEFAULT = 24 * 60, 60
#: Seconds between two counts of the running jobs.
_INTERVAL = 5.0
_RUNNING = (Phase.GENERATING, Phase.TRANSFERRING, Phase.FINALIZING, Phase.CANCELLING)
_ENDED = tuple(status for status in Status if status is not Status.RUNNING)


@dataclass(frozen=True, slots=True)
class _Totals:
    """Counts since the start. `first` counts relayed requests by the time to their first byte, in
    the buckets of the histogram.
    """

    stored: float
    served: float
    finished: Mapping[str, float]
    requests: Mapping[str, float]
    first: Sequence[float]


@dataclass(slots=True)
class _Minute:
    """A minute, by its number since the epoch. `running` and `queued` are the most at a time."""

    number: int
    running: int = 0
    queued: int = 0
    stored: int = 0
    served: int = 0
    finished: dict[str, int] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    p50: float | None = None
    p99: float | None = None

    def document(self) -> dict[str, Any]:
        """Return the minute as JSON."""
        return {
            "at": timestamp(60.0 * self.number),
            "storedBytes": self.stored,
            "servedBytes": self.served,
            "running": self.running,
            "queued": self.queued,
            "finished": {status.value: self.finished.get(status.value, 0) for status in _ENDED},
            "requests": self.requests,
            "p50": self.p50,
            "p99": self.p99,
        }


class History:
    """Keeps a day in memory. `counts` reads the counts of this proxy with all of its workers, and
    `phases` the unfinished jobs of this process; `now` returns Unix seconds.
    """

    def __init__(
        self,
        *,
        counts: Callable[[], Readings],
        phases: Callable[[], Mapping[str, int]],
        now: Callable[[], float],
    ) -> None:
        self._counts = counts
        self._phases = phases
        self._now = now
        self._ended: deque[_Minute] = deque(maxlen=KEPT - 1)
        self._current = _Minute(self._number())
        self._before = _totals(counts())

    async def run(self) -> None:
        """Look from time to time, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_INTERVAL)

    def look(self) -> None:
        """Note how many jobs run, and end the current minute if it is over."""
        number = self._number()
        if number > self._current.number:
            self._fill(_totals(self._counts()))
            self._ended.append(self._current)
            first = max(self._current.number + 1, number - KEPT)
            # minutes without a count: what happened in them is counted in the one before
            self._ended.extend(map(_Minute, range(first, number)))
            self._current = _Minute(number)
        phases = self._phases()
        running = sum(phases.get(phase.value, 0) for phase in _RUNNING)
        self._current.running = max(self._current.running, running)
        self._current.queued = max(self._current.queued, phases.get(Phase.QUEUED.value, 0))

    def read(self, minutes: int) -> list[dict[str, Any]]:
        """Return at most so many minutes, the oldest first, and the current one last."""
        self.look()
        before = self._before
        self._fill(_totals(self._counts()))
        self._before = before
        found = [*self._ended, self._current][-minutes:]
        return [each.document() for each in found]

    def _number(self) -> int:
        return int(self._now() // 60)

    def _fill(self, totals: _Totals) -> None:
        """Set the counts of the current minute: what was added since the last one ended."""
        before, minute = self._before, self._current
        minute.stored = round(totals.stored - before.stored)
        minute.served = round(totals.served - before.served)
        minute.finished = _added(before.finished, totals.finished)
        minute.requests = _added(before.requests, totals.requests)
        first = [new - old for old, new in zip(before.first, totals.first, strict=True)]
        minute.p50, minute.p99 = _quantile(first, 0.5), _quantile(first, 0.99)
        self._before = totals


def minutes_of(text: str | None) -> int:
    """Return the value of the parameter `minutes`. Raises a `Refusal`."""
    if text is None:
        return DEFAULT
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= KEPT:
        raise bad_request(f"minutes={text[:40]!r} is wrong. Send a whole number from 1 to {KEPT}.")
    return int(text)


def _totals(readings: Readings) -> _Totals:
    counters = readings.counters
    finished: dict[str, float] = {}
    for (status, _), (number,) in counters["jobs_finished_total"].items():
        finished[status] = finished.get(status, 0) + number
    requests: dict[str, float] = {}
    for (_, code), (number,) in counters["http_requests_total"].items():
        requests[code] = requests.get(code, 0) + number
    nothing = [0.0] * (len(REQUEST_SECONDS) + 2)
    _, *first = counters["http_time_to_first_byte_seconds"].get(("relay",), nothing)
    return _Totals(
        stored=counters["bytes_total"].get(("stored",), [0])[0],
        served=counters["bytes_total"].get(("served",), [0])[0],
        finished=finished,
        requests=requests,
        first=first,
    )


def _added(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, int]:
    found = {name: round(number - before.get(name, 0)) for name, number in after.items()}
    return {name: number for name, number in sorted(found.items()) if number}


def _quantile(counts: Iterable[float], share: float) -> float | None:
    """Estimate the quantile in seconds from the buckets of a histogram, as Prometheus does. None
    without a request.
    """
    sums = list(accumulate(counts))
    total = sums[-1] if sums else 0
    if total <= 0:
        return None
    rank, low, before = share * total, 0.0, 0.0
    for bound, below in zip(REQUEST_SECONDS, sums, strict=False):
        if below >= rank:
            return round(low + (bound - low) * (rank - before) / max(below - before, 1.0), 6)
        low, before = bound, below
    return REQUEST_SECONDS[-1]

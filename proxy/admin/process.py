"""What one process of the proxy counts, and its sum over the workers (CONTRACT §15, §16)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from proxy.admin.readings import (
    Readings,
    read_access,
    read_clients,
    read_jobs,
    read_upstream,
    read_webhooks,
)
from proxy.core.histogram import Histogram
from proxy.core.job import Phase
from proxy.jobs.counted import CountedJobs
from proxy.jobs.runner import Runner
from proxy.net.board import Board
from proxy.ports.counts import (
    LAG_SECONDS,
    AccessCounts,
    ClientCounts,
    FileCounts,
    JobCounts,
    WebhookCounts,
)
from proxy.upstream.pool import Pool

#: Seconds between two measurements of the lag, and two reports of a worker.
_INTERVAL = 1.0
_UNFINISHED = tuple(
    phase.value for phase in Phase if phase not in (Phase.COMPLETED, Phase.FORGOTTEN)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportCounts:
    """The counts of a process that runs exports."""

    changes: JobCounts
    jobs: CountedJobs
    runner: Runner
    files: FileCounts
    access: AccessCounts
    webhooks: WebhookCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessCounts:
    """The counts of a process. `settle` brings those of the clients up to date; `connections`
    returns the numbers of client connections with and without a request; `exports` is None if
    another process runs the exports.
    """

    clients: ClientCounts
    settle: Callable[[], None]
    connections: Callable[[], tuple[int, int]]
    pools: Sequence[Pool]
    exports: ExportCounts | None = None
    lag: Histogram = field(default_factory=lambda: Histogram(LAG_SECONDS))

    async def watch(self) -> None:
        """Measure how late the event loop runs a timer that is due each second, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _INTERVAL
            await asyncio.sleep(_INTERVAL)
            self.lag.observe(max(0.0, loop.time() - due))
            self.settle()

    def read(self) -> Readings:
        """Read the counts as they are now."""
        self.settle()
        readings = Readings()
        read_clients(readings, self.clients, self.lag)
        read_upstream(readings, [pool.counts for pool in self.pools])
        self._read_connections(readings)
        if self.exports is not None:
            _read_exports(readings, self.exports)
        return readings

    def _read_connections(self, readings: Readings) -> None:
        active, idle = self.connections()
        readings.gauge("http_connections", active, "client", "active")
        readings.gauge("http_connections", idle, "client", "idle")
        idle = sum(pool.idle for pool in self.pools)
        total = sum(pool.open for pool in self.pools)
        readings.gauge("http_connections", total - idle, "upstream", "active")
        readings.gauge("http_connections", idle, "upstream", "idle")


def _read_exports(readings: Readings, exports: ExportCounts) -> None:
    read_jobs(readings, exports.changes, exports.files, exports.runner.stored)
    read_access(readings, exports.access)
    read_webhooks(readings, exports.webhooks)
    phases = exports.jobs.phases()
    for phase in _UNFINISHED:
        readings.gauge("jobs", phases[phase], phase)
    readings.gauge("storage_bytes", exports.runner.promised, "promised")


class WorkerCounts:
    """The counts of worker `index`, and those that `board` has of the others.

    Counters include what processes have counted that were in a worker's place before: they never
    fall, except for what a process that was killed has counted in its last second.
    """

    def __init__(self, counts: ProcessCounts, board: Board, index: int, count: int) -> None:
        self._counts = counts
        self._board = board
        self._index = index
        self._others = [each for each in range(count) if each != index]
        before = board.read(index)
        self._before = Readings() if before is None else Readings.decode(before)

    def read(self) -> Readings:
        """Read the sums over all workers."""
        readings = self._own()
        for other in self._others:
            if (data := self._board.read(other)) is not None:
                readings.add(Readings.decode(data))
        return readings

    async def report(self) -> None:
        """Write the counts of this worker to the board every second, until cancelled."""
        try:
            while True:
                self._write()
                await asyncio.sleep(_INTERVAL)
        finally:
            self._write()

    def _write(self) -> None:
        self._board.write(self._index, self._own().encode())

    def _own(self) -> Readings:
        readings = self._counts.read()
        readings.add(self._before, gauges=False)
        return readings

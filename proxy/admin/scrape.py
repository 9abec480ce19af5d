"""What a scrape reads beside the counts: reachability, certificates and storage (CONTRACT §16)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable

import structlog

from proxy import __version__
from proxy.admin.readiness import Readiness
from proxy.admin.readings import Readings
from proxy.net.tls import not_after
from proxy.ports import ArtifactStore, StoreUnavailable
from proxy.upstream.pool import Pool

log = structlog.get_logger(__name__)

#: Seconds that a scrape waits for checks and for the storage. What takes longer is shown as it was
#: the last time: Prometheus gives a scrape 10 s.
_PATIENCE = 2.0


class Scrape:
    """Reads everything that the metrics show.

    `counts` reads the counts, over all workers. `oldest` returns the creation of the oldest
    unfinished job and `certificate` the end of the proxy's own certificate, both in Unix seconds or
    None. `now` is the wall clock.
    """

    def __init__(
        self,
        *,
        counts: Callable[[], Readings],
        checks: Readiness,
        artifacts: ArtifactStore,
        max_bytes: int | None,
        pools: Iterable[Pool],
        oldest: Callable[[], float | None],
        certificate: Callable[[], float | None],
        now: Callable[[], float],
    ) -> None:
        self._counts = counts
        self._checks = checks
        self._artifacts = artifacts
        self._max_bytes = max_bytes
        self._pools = list(pools)
        self._oldest = oldest
        self._certificate = certificate
        self._now = now
        self._started = now()
        self._storage: tuple[int, int] | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def __call__(self) -> Readings:
        """Read everything."""
        await self._update()
        readings = self._counts()
        version = sys.version_info
        python = f"{version.major}.{version.minor}.{version.micro}"
        readings.gauge("build_info", 1, __version__, python)
        readings.gauge("start_time_seconds", self._started)
        oldest = self._oldest()
        age = 0.0 if oldest is None else max(0.0, self._now() - oldest)
        readings.gauge("jobs_oldest_age_seconds", age)
        for name, why in self._checks.latest().items():
            readings.gauge("check_success", why is None, name)
            if name == "upstream":
                readings.gauge("upstream_up", why is None)
        self._read_certificates(readings)
        if self._storage is not None:
            used, free = self._storage
            readings.gauge("storage_bytes", used, "used")
            readings.gauge("storage_bytes", free, "free")
            limit = used + free if self._max_bytes is None else self._max_bytes
            readings.gauge("storage_bytes", limit, "limit")
        return readings

    def _read_certificates(self, readings: Readings) -> None:
        if (own := self._certificate()) is not None:
            readings.gauge("certificate_not_after_seconds", own, "own")
        seen = [pool.certificate for pool in self._pools if pool.certificate is not None]
        ends = [end for each in set(seen) if (end := not_after(each)) is not None]
        if ends:
            readings.gauge("certificate_not_after_seconds", max(ends), "upstream")

    async def _update(self) -> None:
        """Run the checks and measure the storage, for at most `_PATIENCE` seconds."""
        if not self._running:  # what takes longer than a scrape is not started again
            for work in (self._check(), self._measure()):
                task = asyncio.create_task(work)
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        await asyncio.wait(set(self._running), timeout=_PATIENCE)

    async def _check(self) -> None:
        await self._checks()

    async def _measure(self) -> None:
        try:
            self._storage = await self._artifacts.used(), await self._artifacts.free()
        except StoreUnavailable as why:
            self._storage = None
            log.warning("storage not measured", reason=str(why))

"""What a scrape reads beside the counts: reachability, certificates and storage (CONTRACT §16)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from proxy import __version__
from proxy.admin.probe import Probe
from proxy.admin.readings import Readings
from proxy.net.tls import not_after
from proxy.upstream.pool import Pool


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
        probe: Probe,
        pools: Iterable[Pool],
        oldest: Callable[[], float | None],
        certificate: Callable[[], float | None],
        now: Callable[[], float],
    ) -> None:
        self._counts = counts
        self._probe = probe
        self._pools = list(pools)
        self._oldest = oldest
        self._certificate = certificate
        self._now = now
        self._started = now()

    async def __call__(self) -> Readings:
        """Read everything."""
        await self._probe.update()
        readings = self._counts()
        version = sys.version_info
        python = f"{version.major}.{version.minor}.{version.micro}"
        readings.gauge("build_info", 1, __version__, python)
        readings.gauge("start_time_seconds", self._started)
        oldest = self._oldest()
        age = 0.0 if oldest is None else max(0.0, self._now() - oldest)
        readings.gauge("jobs_oldest_age_seconds", age)
        for name, why in self._probe.checks.latest().items():
            readings.gauge("check_success", why is None, name)
            if name == "upstream":
                readings.gauge("upstream_up", why is None)
        self._read_certificates(readings)
        limit = self._probe.limit
        if self._probe.storage is not None and limit is not None:
            used, free = self._probe.storage
            readings.gauge("storage_bytes", used, "used")
            readings.gauge("storage_bytes", free, "free")
            readings.gauge("storage_bytes", limit, "limit")
        return readings

    def _read_certificates(self, readings: Readings) -> None:
        if (own := self._certificate()) is not None:
            readings.gauge("certificate_not_after_seconds", own, "own")
        seen = [pool.certificate for pool in self._pools if pool.certificate is not None]
        ends = [end for each in set(seen) if (end := not_after(each)) is not None]
        if ends:
            readings.gauge("certificate_not_after_seconds", max(ends), "upstream")

"""What must be asked of VB365 and of the stores, for the metrics and the dashboard alike."""

from __future__ import annotations

import asyncio

import structlog

from proxy.admin.readiness import Readiness
from proxy.ports import ArtifactStore, StoreUnavailable

log = structlog.get_logger(__name__)

#: Seconds to wait for checks and for the storage. What takes longer is shown as it was the last
#: time: Prometheus gives a scrape 10 s.
_PATIENCE = 2.0


class Probe:
    """Runs the checks and measures the storage. `max_bytes` limits the stored files, None if only
    the disk does.
    """

    def __init__(
        self, *, checks: Readiness, artifacts: ArtifactStore, max_bytes: int | None
    ) -> None:
        self.checks = checks
        self._artifacts = artifacts
        self._max_bytes = max_bytes
        self._running: set[asyncio.Task[None]] = set()
        #: Used and free bytes, None if they are not known.
        self.storage: tuple[int, int] | None = None

    @property
    def limit(self) -> int | None:
        """The bytes that files may use: `max_bytes`, or what the disk has for them."""
        if self._max_bytes is not None:
            return self._max_bytes
        return None if self.storage is None else sum(self.storage)

    async def update(self) -> None:
        """Run the checks and measure the storage, for at most `_PATIENCE` seconds."""
        if not self._running:  # what takes longer than a call is not started again
            for work in (self._check(), self._measure()):
                task = asyncio.create_task(work)
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        await asyncio.wait(set(self._running), timeout=_PATIENCE)

    async def _check(self) -> None:
        await self.checks()

    async def _measure(self) -> None:
        try:
            self.storage = await self._artifacts.used(), await self._artifacts.free()
        except StoreUnavailable as why:
            self.storage = None
            log.warning("storage not measured", reason=str(why))

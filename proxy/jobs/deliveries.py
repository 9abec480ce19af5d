"""Records what was downloaded of the files of jobs (CONTRACT §16 `delivered`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from proxy.core.events import Delivered
from proxy.jobs.record import advance_for_caller
from proxy.ports import JobStore, StoreUnavailable

log = structlog.get_logger(__name__)

#: Seconds between two writes of a job, however many downloads of it end.
_INTERVAL = 1.0
#: Jobs whose deliveries may wait to be written, and how many are written at a time.
_WAITING, _TOGETHER = 10_000, 64


class Deliveries:
    """Notes deliveries, and writes them to the jobs while `run` runs: a download never waits for
    the store, and never fails with it. A process that is killed loses those of the last second.

    `now` returns Unix seconds.
    """

    def __init__(self, jobs: JobStore, now: Callable[[], float]) -> None:
        self._jobs = jobs
        self._now = now
        self._waiting: dict[str, Delivered] = {}

    def note(self, id: str, delivered: Delivered) -> None:
        """Note that something of the job's file was sent."""
        known = self._waiting.get(id)
        if known is None:
            if len(self._waiting) >= _WAITING:
                lost = next(iter(self._waiting))
                del self._waiting[lost]
                log.warning("delivery not recorded: too many wait for the job store", job=lost)
            known = Delivered(0, whole=False, count=0)
        self._waiting[id] = Delivered(
            known.sent + delivered.sent,
            whole=known.whole or delivered.whole,
            count=known.count + delivered.count,
        )

    async def run(self) -> None:
        """Write what is noted, until cancelled. What is being written then is written first."""
        while True:
            await asyncio.sleep(_INTERVAL)
            flushing = asyncio.create_task(self.flush())
            try:
                await asyncio.shield(flushing)
            finally:
                await flushing

    async def flush(self) -> None:
        """Write what is noted until now. What the store refuses now is kept."""
        noted, self._waiting = self._waiting, {}
        rest = list(noted.items())
        while rest:
            part, rest = rest[:_TOGETHER], rest[_TOGETHER:]
            if not all(await asyncio.gather(*(self._record(*each) for each in part))):
                for each in rest:
                    self.note(*each)
                return

    async def _record(self, id: str, delivered: Delivered) -> bool:
        """Return whether the store is available."""
        try:
            job = await advance_for_caller(self._jobs, id, delivered, self._now)
            # a rescued export is sent while it is stored: its record takes it once it has ended.
            # A deleted one takes none
            if job is not None and not job.terminal:
                self.note(id, delivered)
        except StoreUnavailable as why:
            log.warning("delivery not recorded yet", job=id, reason=str(why))
            self.note(id, delivered)
            return False
        except Exception:
            # the deliveries of other jobs are still to be written
            log.exception("delivery not recorded", job=id)
        return True

"""Counts the requests that join a job in its record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import structlog

from proxy.core.events import Joined
from proxy.jobs.record import advance_for_caller
from proxy.jobs.tasks import Spawn
from proxy.ports import JobStore, StoreUnavailable

log = structlog.get_logger(__name__)


class Joins:
    """Requests do not wait for the record: a thousand that join one job at the same time would
    otherwise change it in turn. `spawn` runs work in the background; `now` returns Unix seconds.
    """

    def __init__(self, jobs: JobStore, *, spawn: Spawn, now: Callable[[], float]) -> None:
        self._jobs = jobs
        self._spawn = spawn
        self._now = now
        self._waiting: Counter[str] = Counter()
        self._writing: set[str] = set()

    def add(self, id: str) -> int:
        """Count one more request. Return how many are not in the record yet."""
        self._waiting[id] += 1
        if id not in self._writing:
            self._writing.add(id)
            self._spawn(self._write(id))
        return self._waiting[id]

    async def _write(self, id: str) -> None:
        try:
            while count := self._waiting.pop(id, 0):
                await advance_for_caller(self._jobs, id, Joined(count), self._now)
        except StoreUnavailable as why:
            log.warning("joined requests not counted", job=id, reason=str(why))
        finally:
            self._writing.discard(id)

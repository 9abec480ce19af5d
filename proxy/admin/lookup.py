"""The job that a path below /api/jobs names (CONTRACT §16)."""

from __future__ import annotations

import re
from collections.abc import Callable

from proxy.admin.responses import Refusal
from proxy.core.job import Job
from proxy.core.retention import Retention, as_of
from proxy.ports import JobStore

_ID = re.compile(
    "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE
)


class Lookup:
    """Finds jobs by id. `now` returns Unix seconds."""

    def __init__(self, jobs: JobStore, retention: Retention, now: Callable[[], float]) -> None:
        self._jobs = jobs
        self._retention = retention
        self._now = now

    async def stored(self, id: str) -> Job:
        """Return the job, which may be a tombstone. Raises a `Refusal`, and `StoreUnavailable`."""
        now = self._now()
        job = await self._jobs.get(id.lower()) if _ID.fullmatch(id) else None
        if job is None or self._retention.record_over(job, now):
            raise Refusal("There is no export job with this id.", name="job-not-found")
        return as_of(job, now)

    async def existing(self, id: str) -> Job:
        """Return the job if it is not deleted. Raises as `stored` does."""
        job = await self.stored(id)
        if job.forgotten:
            raise deleted()
        return job


def deleted() -> Refusal:
    """Return the problem of a deleted job."""
    return Refusal("The export job was deleted.", name="job-deleted")

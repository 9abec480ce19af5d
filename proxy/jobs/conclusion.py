"""The end of a run: its outcome is recorded, and the files of an ended job are removed."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from proxy.core.events import Cancelled, Event, Failed
from proxy.core.job import ErrorCode, Job, JobError, Phase
from proxy.core.retention import keeps_bytes
from proxy.jobs.record import Lost, Record, until_available
from proxy.jobs.run import Run
from proxy.ports import ArtifactStore, JobStore, StoreUnavailable

log = structlog.get_logger(__name__)

INTERNAL = JobError(
    code=ErrorCode.INTERNAL, message="The proxy failed. Its log says why.", retryable=True
)


class Conclusion:
    """Records the ends of runs. `holder` names the runner in the records, and `replica` this
    process if others share the store: their jobs are left to them. `now` is the wall clock.
    """

    def __init__(
        self,
        jobs: JobStore,
        artifacts: ArtifactStore,
        *,
        holder: str,
        replica: str | None,
        now: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._artifacts = artifacts
        self._holder = holder
        self._replica = replica
        self._now = now

    async def settle(self, run: Run, event: Event) -> None:
        """Record the outcome of the run, unless another replica has taken its job over."""
        job = await until_available(lambda: self._jobs.get(run.id), job=run.id)
        if job is None or (self._replica is not None and not self._is_held(job, run)):
            return
        try:
            await Record(self._jobs, job, self._now).settle(event)
        except Lost:
            await self.conclude(run.id)

    async def conclude(self, id: str, *, driven: Run | None = None) -> None:
        """Clean up after a job that its caller ended: remove its bytes, then record the cancel.

        A job whose run `driven` ended without an outcome fails, so that it does not stay Running
        forever.
        """
        try:
            job = await until_available(lambda: self._jobs.get(id), job=id)
            if job is not None and job.phase is Phase.CANCELLING and self._is_foreign(job):
                return
            if job is None and await self._is_complete(id):
                return
            if job is None or job.phase is Phase.CANCELLING or not keeps_bytes(job):
                await self._artifacts.remove(id)
            if job is None or job.terminal:
                return
            if job.phase is Phase.CANCELLING:
                await Record(self._jobs, job, self._now).settle(Cancelled())
            elif driven is not None and self._is_held(job, driven):
                log.error("transfer lost its job", job=id, phase=job.phase)
                await Record(self._jobs, job, self._now).settle(Failed(INTERNAL))
        except Lost:
            pass  # deleted meanwhile: the tombstone is the right record
        except StoreUnavailable as why:
            log.warning("left for the sweeper", job=id, reason=str(why))

    async def _is_complete(self, id: str) -> bool:
        """Whether the job has a complete file. If a shared store has lost the record with its data,
        the sweeper rebuilds it from that file.
        """
        if self._replica is None:
            return False
        return await self._artifacts.record_copy(id, None) is not None

    def _is_held(self, job: Job, run: Run) -> bool:
        return (job.holder, job.fence) == (self._holder, run.fence)

    def _is_foreign(self, job: Job) -> bool:
        """Whether the job is another replica's, or that of one that has ended, which `TakeOver`
        finds.
        """
        return self._replica is not None and job.replica not in (None, self._replica)

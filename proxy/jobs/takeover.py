"""Jobs of replicas that have ended (CONTRACT §9, §10, §18)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from proxy.core.job import Job, Phase
from proxy.core.retention import Stage
from proxy.jobs.reconciler import Reconciler
from proxy.ports import SharedJobs, StoreUnavailable

log = structlog.get_logger(__name__)

#: Seconds by which the clock of a replica that suspended a job may be ahead of this one's.
_CLOCK_DIFFERENCE = 86_400.0
#: What ends these jobs is not their run.
_AT_REST = (Phase.SUSPENDED, Phase.CANCELLING)


class TakeOver:
    """Settles the jobs of replicas that have ended, and resumes those whose credentials are sealed.

    Each job is settled by one replica: by the first that changes its record. `resume` queues a
    suspended job if its credentials can be unsealed; `now` is the wall clock.
    """

    def __init__(
        self,
        *,
        jobs: SharedJobs,
        reconciler: Reconciler,
        resume: Callable[[Job], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._reconciler = reconciler
        self._resume = resume
        self._now = now

    async def settle_orphans(self) -> None:
        """Settle the jobs of replicas that have ended. Raises `StoreUnavailable`.

        Files are looked up for each, which may take long: a replica that hung may continue
        meanwhile, and keeps the rest of its jobs.
        """
        for job in await self._jobs.orphans():
            try:
                if all(each.id != job.replica for each in await self._jobs.replicas()):
                    await self._settle(job)
            except StoreUnavailable as why:
                log.warning("job not taken over", job=job.id, reason=str(why))

    async def settle_own(self, drives: Callable[[str], bool]) -> None:
        """Settle the jobs that the store counts as running here although this replica does not
        drive them: a store that was restarted may have lost its last changes. Raises
        `StoreUnavailable`.
        """
        for job in await self._jobs.list():
            ended = job.terminal or job.forgotten or job.phase in _AT_REST
            if job.replica == self._jobs.replica and not ended and not drives(job.id):
                await self._settle(job)

    async def _settle(self, job: Job) -> None:
        suspended = await self._reconciler.settle(job)
        if suspended is not None:
            log.warning("job of a lost replica taken over", job=job.id, replica=job.replica)
            await self._resume(suspended)

    async def resume_sealed(self) -> None:
        """Resume the jobs with sealed credentials that another replica has left Suspended. Raises
        `StoreUnavailable`.
        """
        for job in await self._jobs.due(Stage.SUSPENDED, self._now() + _CLOCK_DIFFERENCE):
            if job.sealed is not None:
                await self._resume(job)

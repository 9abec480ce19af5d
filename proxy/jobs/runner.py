"""Runs the jobs: queue, slots, cancel, resume and restart (CONTRACT §3.5, §3.6, §7, §9, §10)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import structlog

from proxy.core.job import (
    Cancelled,
    ErrorCode,
    Event,
    Failed,
    Interrupted,
    Job,
    JobError,
    Phase,
    Resumed,
)
from proxy.core.job_request import resumed_fields
from proxy.core.retention import keeps_bytes
from proxy.jobs.admission import Admission
from proxy.jobs.admission import Limits as Limits
from proxy.jobs.queue import Slots
from proxy.jobs.record import Lost, Record, until_available
from proxy.jobs.reservations import Reservations
from proxy.jobs.run import Dropped, JobFailed, Run, Suspended, Work
from proxy.jobs.sealing import Sealer
from proxy.jobs.transfer import TransferFactory
from proxy.ports import ArtifactStore, Fields, JobStore, StoreUnavailable

log = structlog.get_logger(__name__)

_T = TypeVar("_T")
#: The number of dropped jobs that are remembered: a list that was read before may contain them.
_REMEMBERED = 1000
_TICK = 1.0


class Trust(Protocol):
    """What is known of the credentials among request fields (CONTRACT §9)."""

    def knows(self, fields: Fields, /) -> bool:
        """Return whether VB365 has ever accepted them."""

    def distrust(self, fields: Fields, /) -> None:
        """Note that VB365 has just rejected them."""


class Runner:
    """Owns every live job of this process. `now` is the wall clock."""

    def __init__(
        self,
        *,
        jobs: JobStore,
        artifacts: ArtifactStore,
        transfers: TransferFactory,
        limits: Limits,
        sealer: Sealer,
        trust: Trust,
        now: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._artifacts = artifacts
        self._transfers = transfers
        self._limits = limits
        self._sealer = sealer
        self._trust = trust
        self._now = now
        self._runs: dict[str, Run] = {}
        self._slots: Slots[Run] = Slots(
            total=limits.max_running, per_caller=limits.max_running_per_caller
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._changes: set[asyncio.Task[Any]] = set()
        self._dropped: deque[str] = deque(maxlen=_REMEMBERED)
        self._space = Reservations(artifacts, min_free=limits.min_free, max_bytes=limits.max_bytes)
        self._admission = Admission(
            jobs=jobs, artifacts=artifacts, slots=self._slots, space=self._space, limits=limits
        )
        self._stopping = False

    @property
    def running(self) -> int:
        """The number of jobs that have a slot."""
        return self._slots.running

    @property
    def queued(self) -> int:
        """The number of jobs that wait for a slot."""
        return self._slots.waiting

    async def shortage(self) -> str | None:
        """The reason why there is too little space for another export, None if there is enough.
        Raises `StoreUnavailable`.
        """
        await self._space.measure()
        return self._space.shortage()

    async def start(self) -> None:
        """Resume the jobs whose credentials were sealed. Raises `StoreUnavailable`."""
        await self._space.measure()
        self._spawn(self._tick())
        jobs = await self._jobs.list()
        self._restore_queue(jobs)
        for job in reversed(jobs):
            fields = None if job.sealed is None else self._sealer.unseal(job.sealed)
            if fields is not None and job.phase is Phase.SUSPENDED:
                await self._resume(job, fields)

    def _restore_queue(self, jobs: list[Job]) -> None:
        """Restore the queue from the records: who started last, and slots that are still held."""
        for job in sorted(jobs, key=lambda job: job.started or 0):
            if job.started is not None:
                self._slots.started(*job.owners)
            if (
                job.abandoned is not None
                and (until := job.abandoned + self._limits.cancel_hold) > self._now()
            ):
                self._slots.hold(until, *job.owners)

    async def stop(self) -> None:
        """Stop every job, resumable: what is stored of it stays (CONTRACT §15 SIGTERM)."""
        self._stopping = True
        self._slots.clear()
        await asyncio.gather(*self._changes, return_exceptions=True)
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def admission(self, *owners: str) -> AbstractAsyncContextManager[None]:
        """Reserve a place for one more job of the caller while the block runs; see `Admission`."""
        return self._admission(owners, self._now())

    async def submit(self, job: Job, body: bytes, run: Run) -> Job:
        """Store the job and queue it, or return the job that already has its Idempotency-Key."""

        async def persist() -> Job:
            # a request that finds the record must find the run too, before `add` returns
            self._runs[run.id] = run
            try:
                stored = await self._jobs.add(job, body)
            except StoreUnavailable:
                self._spawn(self._adopt(run, job))
                raise
            except BaseException:
                self._unregister(run)
                raise
            if stored.id == job.id:
                self._enqueue(run, job)
            else:
                self._unregister(run)
            return stored

        return await self._undivided(persist())

    async def _adopt(self, run: Run, job: Job) -> None:
        """Run the job if the store has added it after all and failed to confirm that."""
        if (
            await until_available(lambda: self._jobs.get(job.id), job=job.id) is not None
            and not self._stopping
        ):
            run.attendance.end()
            self._enqueue(run, job)
        else:
            self._unregister(run)

    def _unregister(self, run: Run) -> None:
        if self._runs.get(run.id) is run:
            del self._runs[run.id]

    async def _undivided(self, work: Coroutine[None, None, _T]) -> _T:
        """Run `work` to its end even if the calling task is cancelled: a change of a record and
        what must follow it are not separated.
        """
        task = asyncio.create_task(work)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    def is_waiting(self, id: str) -> bool:
        """Whether the job waits for a slot."""
        run = self._runs.get(id)
        return run is not None and run.work is Work.QUEUED

    def attended(self, id: str) -> Run | None:
        """The job's run while its kick-off waits for VB365's first response, or receives it; None
        otherwise.
        """
        run = self._runs.get(id)
        return None if run is None or run.attendance.ended else run

    def may_show(self, id: str) -> bool:
        """Whether the job may be shown to callers. If True, it is not dropped later; False means
        that it is dropped or is about to be.
        """
        run = self._runs.get(id)
        if run is not None:
            run.attendance.end()
        return id not in self._dropped and (run is None or run.attendance.verdict is None)

    async def wake(self, id: str) -> None:
        """Act on a record that was cancelled or forgotten: stop the job's transfer, or clean up
        after it.
        """
        run = self._runs.get(id)
        if run is None:
            self._spawn(self._conclude(id))
        elif run.work is Work.QUEUED:
            self._forget(run)
            self._spawn(self._conclude(id))
        else:
            run.wake()

    async def resume(self, job: Job, call: Fields, *, borrowed: bool = False) -> None:
        """Queue a Suspended job again, with the credentials among the fields of an allowed call
        (CONTRACT §9).

        `borrowed`: the credentials are those of a caller who does not own the job.
        """
        if job.phase is Phase.SUSPENDED:
            fields = resumed_fields(call, job.request)
            await self._resume(job, fields, borrowed=borrowed)

    async def _resume(self, job: Job, fields: Fields, *, borrowed: bool = False) -> None:
        if job.id in self._runs or self._stopping:
            return
        run = Run(job.id, fields)
        self._runs[job.id] = run
        await self._undivided(self._requeue(run, job, borrowed))

    async def _requeue(self, run: Run, job: Job, borrowed: bool) -> None:
        try:
            await Record(self._jobs, job, self._now).advance(
                Resumed(self._sealer.seal(run.fields), borrowed)
            )
        except Lost:
            self._forget(run)  # resumed, cancelled or expired meanwhile
        except BaseException:
            self._forget(run)
            raise
        else:
            log.info("job resumed", job=job.id)
            self._enqueue(run, job)

    def _enqueue(self, run: Run, job: Job) -> None:
        self._runs[run.id] = run
        self._slots.wait(run, *job.owners)
        self._fill_slots()
        run.queued = run.work is Work.QUEUED

    def _fill_slots(self) -> None:
        self._slots.expire(self._now())
        while not self._stopping and (run := self._slots.next()) is not None:
            run.begin(self._spawn(self._drive(run)))

    def _forget(self, run: Run) -> None:
        if self._runs.get(run.id) is run:
            self._unregister(run)
            self._space.release(run.id)
        # VB365 may go on working on a request that was aborted before its response (CONTRACT §3.5)
        self._slots.leave(
            run, hold_until=self._now() + self._limits.cancel_hold if run.posting else None
        )
        run.attendance.deliver()

    async def _drive(self, run: Run) -> None:
        run.work = Work.DRIVING
        try:
            await self._record_outcome(run, await self._outcome(run))
            while run.woken:
                run.woken = False
                await self._conclude(run.id)
        finally:
            self._forget(run)
            self._fill_slots()

    async def _outcome(self, run: Run) -> Event | None:
        """Drive the job. Return the event that is still to be recorded."""
        try:
            await self._transfer(run)
        except asyncio.CancelledError:
            if self._stopping:
                raise
        except Dropped:
            self._dropped.append(run.id)
            log.info("export not accepted", job=run.id)
        except Lost:
            log.info("job ended by its caller", job=run.id)
        except Suspended:
            known = self._trust.knows(run.fields)
            self._trust.distrust(run.fields)
            return Interrupted(denied=not known)
        except JobFailed as why:
            log.warning("job failed", job=run.id, code=why.error.code, reason=why.error.message)
            return Failed(why.error, accepted=self._trust.knows(run.fields))
        except Exception:
            log.exception("job failed", job=run.id)
            return Failed(_INTERNAL)
        finally:
            # a later cancel must not interrupt what follows; it is found in the record
            run.work = Work.SETTLING
        return None

    async def _record_outcome(self, run: Run, event: Event | None) -> None:
        if event is None:
            await self._conclude(run.id, driven=True)
            return
        if isinstance(event, Interrupted):
            self._forget(run)  # as soon as it is recorded, any call may resume the job
        await self._settle(run.id, event)

    async def _transfer(self, run: Run) -> None:
        job = await until_available(lambda: self._jobs.get(run.id), job=run.id)
        if job is None or job.phase is not Phase.QUEUED:
            raise Lost
        await self._transfers.create(run, self._space).run(job)
        log.info("job done", job=run.id)

    async def _settle(self, id: str, event: Event) -> None:
        job = await until_available(lambda: self._jobs.get(id), job=id)
        if job is None:
            return
        try:
            await Record(self._jobs, job, self._now).settle(event)
        except Lost:
            await self._conclude(id)

    async def _conclude(self, id: str, *, driven: bool = False) -> None:
        """Clean up after a job that its caller ended: remove its bytes, then record the cancel.

        With `driven`, a job whose transfer ended without an outcome fails, so that it does not
        stay Running forever.
        """
        try:
            job = await until_available(lambda: self._jobs.get(id), job=id)
            if job is None or job.phase is Phase.CANCELLING or not keeps_bytes(job):
                await self._artifacts.remove(id)
            if job is not None and job.phase is Phase.CANCELLING:
                await Record(self._jobs, job, self._now).settle(Cancelled())
            elif (
                job is not None
                and driven
                and not job.terminal
                and job.holder == self._transfers.holder
            ):
                log.error("transfer lost its job", job=id, phase=job.phase)
                await Record(self._jobs, job, self._now).settle(Failed(_INTERNAL))
        except Lost:
            pass  # deleted meanwhile: the tombstone is the right record
        except StoreUnavailable as why:
            log.warning("left for the sweeper", job=id, reason=str(why))

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_log_failure)
        return task

    async def _tick(self) -> None:
        """Every second, measure the free space while jobs run, and free the slots whose hold is
        over.
        """
        while True:
            await asyncio.sleep(_TICK)
            self._fill_slots()
            if not self.running:
                continue
            try:
                await self._space.measure()
            except StoreUnavailable as why:
                log.warning("free space not known", reason=str(why))


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (why := task.exception()) is not None:
        log.error("background task failed", exc_info=why)


_INTERNAL = JobError(
    code=ErrorCode.INTERNAL, message="The proxy failed. Its log says why.", retryable=True
)

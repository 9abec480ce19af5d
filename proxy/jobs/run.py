"""A live job: what it has in memory only (CONTRACT §3.7, §9).

Theory of operation. A run goes through these phases, in this order:

    QUEUED     it waits for a slot; there is no task. A cancel takes it out of the queue.
    STARTING   its task has not run yet, or waits for `release`. It must not be cancelled: a
               task that is cancelled before its first step runs none of its clean-up. It
               reads the record first, and finds the cancel there. If there was no memory for
               the task, there is none yet.
    DRIVING    the transfer runs. A cancel interrupts it.
    SETTLING   the outcome is being recorded. Nothing interrupts that. A cancel sets `woken`,
               so that the record is read once more afterwards.
    SUSPENDING as SETTLING; the outcome is that the job is Suspended. Once the record says so,
               a call may give the job another run.

`attendance` holds who waits for VB365's first response meanwhile.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Self

from proxy.core.errors import Problem
from proxy.core.job import Job, JobError, Origin
from proxy.jobs.attendance import Attendance
from proxy.jobs.followers import Followers
from proxy.ports import Fields, Prepared, WholeResponse


class Work(Enum):
    """See the theory of operation."""

    QUEUED = "queued"
    STARTING = "starting"
    DRIVING = "driving"
    SETTLING = "settling"
    SUSPENDING = "suspending"


class Run:
    """What a live job has in memory only: its request fields, which hold the credentials, its
    attendance and its task.
    """

    def __init__(
        self, id: str, fields: Fields, *, attended: bool = False, rescued: bool = False
    ) -> None:
        self.id = id
        self.fields = fields
        self.attendance = Attendance(waiting=attended or rescued, held=rescued)
        #: Those of a rescued export, None for other jobs.
        self.followers = Followers() if rescued else None
        self.work = Work.QUEUED
        self.task: asyncio.Task[None] | None = None
        #: Makes the fields count (`HeldFields`).
        self.counted: object = None
        self._held: asyncio.Future[None] | None = None
        #: The body of a request that is sent as soon as the run starts; None if only the store has
        #: it.
        self.body: bytes | None = None
        #: The bytes of the body of a new job.
        self.size = 0
        #: A connection for that request.
        self.prepared: Prepared | None = None
        #: The record of a job that was stored with a slot, until the run has read it.
        self.started: Job | None = None
        #: The fence of the job's claim, 0 unless replicas share the store (CONTRACT §18).
        self.fence = 0
        #: The store has confirmed that the job is queued for this run.
        self.stored = False
        #: The credentials are those of a caller who does not own the job.
        self.borrowed = False
        #: Its job was suspended before.
        self.resumed = False
        #: Seconds that its job may wait for a slot for the requests of a rescued export; None while
        #: none of them has joined.
        self.patience: float | None = None
        #: VB365 has accepted the caller, as far as is known (`Job.accepted`).
        self.accepted = True
        #: It has waited for a slot, so its token may have expired meanwhile.
        self.queued = False
        #: A POST is sent and the head of its response has not arrived.
        self.posting = False
        #: Its caller ended the job, and the record has not been read since.
        self.woken = False
        #: VB365's response other than 200 that ended the job.
        self.rejection: WholeResponse | None = None
        #: The error that a caller gets if the POST had no HTTP response.
        self.unanswered: Problem | None = None

    def __repr__(self) -> str:
        facts = [self.work.value, self.attendance.state.value]
        facts += [name for name in ("queued", "posting", "woken") if getattr(self, name)]
        return f"<Run {self.id} {' '.join(facts)}>"

    @classmethod
    def again(cls, job: Job, fields: Fields, *, borrowed: bool) -> Self:
        """A run of a job that was suspended."""
        run = cls(job.id, fields, rescued=job.origin is Origin.RESCUE)
        run.borrowed = borrowed
        run.resumed = True
        run.accepted = job.accepted
        return run

    @property
    def waits(self) -> bool:
        """Whether its job is stored and waits for a slot."""
        return self.stored and self.work is Work.QUEUED

    @property
    def taskless(self) -> bool:
        """Whether it has a slot, and there was no memory for its task."""
        return self.work is Work.STARTING and self.task is None

    @property
    def refusal(self) -> WholeResponse | Problem | None:
        """What a client gets for an export that VB365 refused, or did not answer."""
        if self.rejection is not None and self.rejection.complete:
            return self.rejection
        return self.unanswered

    def finish(self) -> None:
        """Note that nothing more comes of the run: end all waits for it."""
        self.attendance.deliver()
        if self.followers is not None:
            self.followers.finish()

    def unprepare(self) -> None:
        """Close the connection that was prepared, unless it is in use. Idempotent."""
        prepared, self.prepared = self.prepared, None
        if prepared is not None:
            prepared.close()

    def hold(self) -> None:
        """Let the run start only after `release`, which must follow, whatever happens: the response
        to its kick-off is written before.
        """
        self._held = asyncio.get_running_loop().create_future()

    def release(self) -> None:
        """Let the run start. Idempotent."""
        held, self._held = self._held, None
        if held is not None and not held.done():
            held.set_result(None)

    async def released(self) -> None:
        """Wait until the run may start."""
        if self._held is not None:
            await self._held

    def wake(self) -> None:
        """Note that the caller ended the job, and cancel the task if that is possible now."""
        self.woken = True
        if self.work is Work.DRIVING and self.task is not None:
            self.work = Work.SETTLING
            self.task.cancel()


class JobFailed(Exception):
    """The job ends Failed with this error."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


class Suspended(Exception):
    """The job waits for new credentials. What is stored of it is kept. `continued`: VB365 has had
    its request before. `failure` is the error of a job that is not worth it, None if each is.
    """

    def __init__(self, *, continued: bool, failure: JobError | None = None) -> None:
        super().__init__()
        self.continued = continued
        self.failure = failure


class Dropped(Exception):
    """VB365's response goes to the kick-off in place of a job (CONTRACT §3.7)."""

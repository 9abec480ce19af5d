"""A live job: what it has in memory only (CONTRACT §3.7, §9).

Theory of operation. A run goes through four phases, in this order:

    QUEUED     it waits for a slot; there is no task. A cancel takes it out of the queue.
    STARTING   its task exists and has not run yet. It must not be cancelled: a task that is
               cancelled before its first step runs none of its clean-up. It will read the record
               first, and find the cancel there.
    DRIVING    the transfer runs. A cancel interrupts it.
    SETTLING   the outcome is being recorded. Nothing interrupts that; a cancel is found on record
               afterwards, because `woken` is set.

Who waits for VB365's first response meanwhile is another matter: see `attendance`.
"""

from __future__ import annotations

import asyncio
from enum import Enum

from proxy.core.errors import Problem
from proxy.core.job import JobError
from proxy.jobs.attendance import Attendance
from proxy.ports import Fields, WholeResponse


class Work(Enum):
    """See the theory of operation."""

    QUEUED = "queued"
    STARTING = "starting"
    DRIVING = "driving"
    SETTLING = "settling"


class Run:
    """What a live job has in memory only: its request fields, which hold the credentials, its
    attendance and its task.
    """

    def __init__(self, id: str, fields: Fields, *, attended: bool = False) -> None:
        self.id = id
        self.fields = fields
        self.attendance = Attendance(waiting=attended)
        self.work = Work.QUEUED
        self.task: asyncio.Task[None] | None = None
        #: It had to wait for a slot, so that its token may have expired since.
        self.queued = False
        #: A POST is sent and its response has not begun.
        self.posting = False
        #: Its caller ended the job, and nobody has looked at the record since.
        self.woken = False
        #: The response of VB365 other than 200 that ended it.
        self.rejection: WholeResponse | None = None
        #: What a caller gets if the POST had no HTTP response at all.
        self.unanswered: Problem | None = None

    def __repr__(self) -> str:
        facts = [self.work.value, self.attendance.stage.value]
        facts += [name for name in ("queued", "posting", "woken") if getattr(self, name)]
        return f"<Run {self.id} {' '.join(facts)}>"

    def begin(self, task: asyncio.Task[None]) -> None:
        """Note the task that drives it: it has a slot."""
        self.task = task
        self.work = Work.STARTING

    def wake(self) -> None:
        """Its caller ended the job: interrupt the task, if that is possible now."""
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
    """The job waits for fresh credentials; what is stored of it stays."""


class Dropped(Exception):
    """VB365's response went to the kick-off instead: there is no job (CONTRACT §3.7)."""

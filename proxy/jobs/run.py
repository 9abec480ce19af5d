"""A live job: what it has in memory only, and its record in the store (CONTRACT §3.7, §9)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from proxy.core.errors import Problem
from proxy.core.job import JobError
from proxy.ports import Fields, WholeResponse

#: Seconds for which the answer of a dropped job is held back until its record is gone: a matter of
#: milliseconds.
_REMOVAL_PATIENCE = 5.0


@dataclass(eq=False, slots=True, weakref_slot=True)
class Run:
    """What a live job has in memory only: the fields with the credentials, and the kick-off that
    may still attend it.

    While `attended`, an answer of VB365 but 200 goes to the kick-off through `first` and the job is
    dropped (CONTRACT §3.7); `verdict` is that answer from the decision on. `first` is None once the
    job goes on by itself. Who makes an attended run calls `go_on` in the end, whatever happens.
    `waited`: it was queued first, so that its token may have expired since. `rejection` is an
    answer of VB365 but 200, `unanswered` what a caller is told of a POST that got no HTTP answer at
    all. `stopped`: nothing interrupts what it does now. `woken`: its caller ended the job.
    `asking`: a POST is out and no head of its answer is in.
    """

    id: str
    fields: Fields
    attended: bool = False
    verdict: WholeResponse | Problem | None = None
    first: asyncio.Future[WholeResponse | Problem | None] = field(default_factory=asyncio.Future)
    rejection: WholeResponse | None = None
    unanswered: Problem | None = None
    waited: bool = False
    task: asyncio.Task[None] | None = None
    begun: bool = False
    stopped: bool = False
    woken: bool = False
    asking: bool = False

    def go_on(self) -> None:
        """Nobody waits for the first answer any more, or somebody was shown the job: it is not
        dropped from now on, unless that is decided already.
        """
        if self.verdict is None:
            self.answer()

    def answer(self) -> None:
        """Hand the verdict, or that there is none, to those who wait for the first answer."""
        self.attended = False
        if not self.first.done():
            self.first.set_result(self.verdict)

    async def first_answer(self, grace: float) -> WholeResponse | Problem | None:
        """What the caller is told instead of a job; None if the job goes on. That is known after
        `grace` seconds, but for a record that is being removed, which is waited for some seconds
        more.
        """
        await asyncio.wait([self.first], timeout=grace)
        self.go_on()
        await asyncio.wait([self.first], timeout=_REMOVAL_PATIENCE)
        return self.first.result() if self.first.done() else self.verdict


class JobFailed(Exception):
    """The job ends Failed with this error."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


class Suspended(Exception):
    """The job waits for fresh credentials; what is stored stays."""


class Dropped(Exception):
    """U's answer went to the kick-off instead: there is no job (CONTRACT §3.7)."""

"""A live job: what it has in memory only, and its record in the store (CONTRACT §3.7, §9)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from proxy.core.errors import Problem
from proxy.core.jobs import Event, Job, JobError, Refused, advance
from proxy.ports import Fields, JobStore, StoreUnavailable

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Relayed:
    """An answer of U with its body, to be handed to the caller as it is."""

    status: int
    reason: bytes
    fields: Fields
    body: bytes
    complete: bool = True


@dataclass(eq=False, slots=True)
class Run:
    """What a live job has in memory only: the fields with the credentials, and the kick-off that may still attend it.

    While `attended`, an answer of U but 200 goes to the kick-off through `first` and the job is dropped (CONTRACT
    §3.7; `dropping` from the decision on); `first` is None once the job goes on by itself.
    """

    id: str
    fields: Fields
    attended: bool = False
    dropping: bool = False
    first: asyncio.Future[Relayed | Problem | None] = field(default_factory=asyncio.Future)
    rejection: Relayed | None = None
    remaining: int = 0
    task: asyncio.Task[None] | None = None
    stopped: bool = False

    def go_on(self) -> None:
        """Nobody needs to hear of the first answer any more."""
        self.attended = False
        if not self.first.done():
            self.first.set_result(None)


class JobFailed(Exception):
    """The job ends Failed with this error."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


class Suspended(Exception):
    """The job waits for fresh credentials; what is stored stays."""


class Dropped(Exception):
    """U's answer went to the kick-off instead: there is no job (CONTRACT §3.7)."""


class Lost(Exception):
    """The job is no longer this transfer's: cancelled, deleted, or driven by another runner."""


class Record:
    """A job in the store, changed by "advance, then replace, else re-read"."""

    def __init__(self, jobs: JobStore, job: Job, now: Callable[[], float]) -> None:
        self.job = job
        self._jobs = jobs
        self._now = now

    async def advance(self, event: Event) -> Job:
        """Apply the event to the job as it is in the store. Raises `Lost` if it no longer applies."""
        while True:
            try:
                changed = advance(self.job, event, self._now())
            except Refused as why:
                raise Lost from why
            if await self._jobs.replace(self.job, changed):
                self.job = changed
                return changed
            current = await self._jobs.get(self.job.id)
            if current is None or current.holder != self.job.holder:
                raise Lost
            self.job = current

    async def settle(self, event: Event) -> Job:
        """Like `advance`, but an unavailable store is asked again until it takes the event: outcomes are not lost."""
        delay = 0.1
        while True:
            try:
                return await self.advance(event)
            except StoreUnavailable as why:
                log.warning("outcome not stored yet", job=self.job.id, outcome=type(event).__name__, reason=str(why))
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)

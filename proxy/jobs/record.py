"""A job in the store, and the one loop that changes it: advance, then replace, else read again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from proxy.core.events import Answered, Claimed, Event, Finalizing, Restarted
from proxy.core.job import Job, Phase, Status
from proxy.core.transitions import IllegalTransition, advance
from proxy.jobs import events
from proxy.ports import JobStore, LocalShortage, PartialLost, StoreUnavailable

log = structlog.get_logger(__name__)

_T = TypeVar("_T")
#: The steps of a run, by the phase that they begin in.
_STEPS: dict[type[Event], int] = {Claimed: 0, Restarted: 0, Answered: 1, Finalizing: 2}
_PHASES = {Phase.QUEUED: 0, Phase.GENERATING: 1, Phase.TRANSFERRING: 2}


class Lost(Exception):
    """The event no longer applies to the job: the job was cancelled or deleted, or another runner
    drives it.
    """


class Removed(Lost):
    """The store no longer has the job."""


class Record:
    """A job in the store. `now` is the wall clock.

    The job must keep its holder between two changes, unless `any_holder` is true. A store that was
    restarted may have lost the last ones: steps of the run that are missing then are repeated.
    """

    def __init__(
        self, jobs: JobStore, job: Job, now: Callable[[], float], *, any_holder: bool = False
    ) -> None:
        self.job = job
        self._jobs = jobs
        self._now = now
        self._any_holder = any_holder
        #: Changes that the store may have made: the event, and the job before and after it.
        self._unconfirmed: list[tuple[Event, Job, Job]] = []
        #: What the run has recorded of its current attempt.
        self._steps: list[Event] = []

    async def advance(self, event: Event) -> Job:
        """Apply the event to the job as it is in the store. Raises `Lost` if it no longer applies,
        and `StoreUnavailable`.
        """
        while True:
            try:
                changed = advance(self.job, event, self._now())
            except IllegalTransition as why:
                missing = self._missing(event)
                if missing is None:
                    raise Lost from why
                await self._repeat(missing)
                continue
            if await self._replace(event, changed):
                return self._confirm(event, changed)
            current = await self._jobs.get(self.job.id)
            if current is None:
                raise Removed
            if self._is_made(event, current):
                return self._confirm(event, current)
            if not self._any_holder and _holding(current) != _holding(self.job):
                raise Lost
            self.job = current

    async def _replace(self, event: Event, changed: Job) -> bool:
        try:
            return await self._jobs.replace(self.job, changed)
        except (StoreUnavailable, MemoryError):
            # the store may have made the change and failed to confirm it
            self._unconfirmed.append((event, self.job, changed))
            raise

    def _is_made(self, event: Event, current: Job) -> bool:
        """Whether the store has made an unconfirmed change. It may have changed the job since, for
        example because a request joined it: a step of the run is also known by what it leads to,
        which nobody else does to a job of this holder.
        """
        return any(
            each == event and (current == after or _step(before) != _step(after) == _step(current))
            for each, before, after in self._unconfirmed
        )

    def _confirm(self, event: Event, job: Job) -> Job:
        events.changed(self.job, job)
        self.job = job
        self._unconfirmed.clear()
        self._note(event)
        return job

    def _note(self, event: Event) -> None:
        """Note a step of the run, in place of those that it repeats."""
        step = _STEPS.get(type(event))
        if step is not None:
            self._steps = [each for each in self._steps if _STEPS[type(each)] < step]
            self._steps.append(event)

    async def _repeat(self, step: Event) -> None:
        steps = self._steps
        try:
            await self.advance(step)
        finally:
            self._steps = steps

    def _missing(self, event: Event) -> Event | None:
        """The next step of the run that the store has lost, None unless `event` waits for one."""
        at, end = _PHASES.get(self.job.phase), _STEPS.get(type(event), len(_PHASES))
        if at is None or self._any_holder:
            return None
        return next((each for each in self._steps if at <= _STEPS[type(each)] < end), None)

    async def settle(self, event: Event) -> Job:
        """Like `advance`, repeated while the store is unavailable."""
        return await until_available(
            lambda: self.advance(event), job=self.job.id, outcome=type(event).__name__
        )


def _holding(job: Job) -> tuple[str | None, int]:
    return job.holder, job.fence


def _step(job: Job) -> tuple[Phase, Status, int, tuple[str | None, int]]:
    return job.phase, job.status, job.attempt, _holding(job)


async def attempt(jobs: JobStore, job: Job, event: Event, now: Callable[[], float]) -> Job | None:
    """Apply the event to exactly this version of the job. Returns the job afterwards, None if it
    has changed or the event does not apply. Raises `StoreUnavailable`.
    """
    try:
        changed = advance(job, event, now())
    except IllegalTransition:
        return None
    if not await jobs.replace(job, changed):
        return None
    events.changed(job, changed)
    return changed


async def advance_for_caller(
    jobs: JobStore, id: str, event: Event, now: Callable[[], float]
) -> Job | None:
    """Apply an event that a caller requests, whichever runner drives the job.

    Returns the job afterwards, unchanged if the event does not apply to it, and None if there is no
    such job or it is deleted. Raises `StoreUnavailable`.
    """
    current = await jobs.get(id)
    if current is None or current.forgotten:
        return None
    record = Record(jobs, current, now, any_holder=True)
    try:
        return await record.advance(event)
    except Removed:
        return None
    except Lost:
        return None if record.job.forgotten else record.job


async def until_available(ask: Callable[[], Awaitable[_T]], **about: str) -> _T:
    """Call `ask` until it raises neither `StoreUnavailable` nor `LocalShortage`, and return its
    result: no job is lost because the store was unavailable, or descriptors were used up, for a
    while. `about` is logged with each failure.
    """
    delay = 0.1
    while True:
        try:
            return await ask()
        except PartialLost:
            raise
        except (StoreUnavailable, LocalShortage) as why:
            log.warning("not possible now, trying again", reason=str(why), **about)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5.0)

"""The loop that changes a job in the store: advance, then replace, else read again."""

from __future__ import annotations

import pytest

from proxy.core.events import CancelRequested, Claimed, Event, Forgotten, Released
from proxy.core.job import Job, Phase
from proxy.core.transitions import advance
from proxy.jobs.record import Lost, Record, Removed, advance_for_caller
from proxy.ports import StoreUnavailable
from tests.support.fakes import MemoryJobs, new_job


def now() -> float:
    return 5.0


class OvertakenJobs(MemoryJobs):
    """A store in which the job changes after it is first read."""

    def __init__(self, *events: Event | None) -> None:
        super().__init__()
        self._events = list(events)

    async def get(self, id: str) -> Job | None:
        job = await super().get(id)
        if job is not None and self._events:
            event = self._events.pop()
            if event is None:
                await self.remove(job)
            else:
                await self.replace(job, advance(job, event, 4))
        return job


async def test_a_callers_event_applies_although_a_runner_claims_the_job_meanwhile() -> None:
    jobs = OvertakenJobs(Claimed("other", 0))
    job = await jobs.add(new_job(1), b"")
    changed = await advance_for_caller(jobs, job.id, CancelRequested(), now)
    assert changed is not None
    assert (changed.phase, changed.holder) == (Phase.CANCELLING, "other")
    assert await jobs.get(job.id) == changed


@pytest.mark.parametrize("event", [None, Forgotten()], ids=["removed", "deleted"])
async def test_a_callers_event_has_no_effect_on_a_job_removed_meanwhile(
    event: Event | None,
) -> None:
    jobs = OvertakenJobs(event)
    job = await jobs.add(new_job(1), b"")
    assert await advance_for_caller(jobs, job.id, CancelRequested(), now) is None
    assert await advance_for_caller(jobs, job.id, CancelRequested(), now) is None


async def test_a_callers_event_that_does_not_apply_changes_nothing() -> None:
    jobs = MemoryJobs()
    job = await jobs.add(new_job(1), b"")
    assert await advance_for_caller(jobs, job.id, Released(), now) == job
    assert await jobs.get(job.id) == job


async def test_a_runner_loses_a_job_that_another_one_drives() -> None:
    jobs = MemoryJobs()
    job = await jobs.add(new_job(1), b"")
    assert await jobs.replace(job, advance(job, Claimed("other", 0), 4))
    with pytest.raises(Lost) as lost:
        await Record(jobs, job, now).advance(CancelRequested())
    assert not isinstance(lost.value, Removed)


async def test_a_change_that_the_store_made_without_confirming_it_is_made_once() -> None:
    class Unconfirming(MemoryJobs):
        replaced = False

        async def replace(self, old: Job, new: Job) -> bool:
            stored = await super().replace(old, new)
            if not self.replaced:
                self.replaced = True
                raise StoreUnavailable("no response")
            return stored

    jobs = Unconfirming()
    job = await jobs.add(new_job(1), b"")
    record = Record(jobs, job, now)
    with pytest.raises(StoreUnavailable):
        await record.advance(CancelRequested())
    changed = await record.advance(CancelRequested())
    assert (changed.version, changed.phase) == (2, Phase.CANCELLING)
    assert await jobs.get(job.id) == changed

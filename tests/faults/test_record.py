"""The loop that changes a job in the store: advance, then replace, else read again."""

from __future__ import annotations

import pytest

from proxy.core.events import (
    Answered,
    Assigned,
    CancelRequested,
    Claimed,
    Event,
    Finalizing,
    Forgotten,
    Joined,
    Received,
    Released,
    Succeeded,
)
from proxy.core.job import FileFacts, Job, Phase
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


#: A run from its slot to the end.
RUN: tuple[Event, ...] = (
    Claimed("r"),
    Answered(FileFacts(media_type="a/b", file_name="a.pst", size=3, etag=None)),
    Received(3, None, "Pst"),
    Finalizing(3),
    Succeeded(3, "ZA==", 9.0, "Pst"),
)


@pytest.mark.parametrize("kept", range(len(RUN)))
@pytest.mark.parametrize("done", range(1, len(RUN)))
async def test_a_run_repeats_the_steps_that_the_store_has_lost(kept: int, done: int) -> None:
    """A store that is killed may lose the changes of the last second. What it kept, and what others
    have changed since then, stays.
    """
    jobs = MemoryJobs()
    job = await jobs.add(new_job(1), b"")
    assigned = advance(job, Assigned("r"), 4)
    assert await jobs.replace(job, assigned)
    record = Record(jobs, assigned, now)
    states = [assigned, *[await record.advance(event) for event in RUN[:done]]]
    older = states[min(kept, done)]
    joined = older.version + 1 != record.job.version  # else it cannot be told from the lost one
    jobs.jobs[job.id] = advance(older, Joined(), 4) if joined else older
    for event in RUN[done:]:
        await record.advance(event)
    ended = await jobs.get(job.id)
    assert ended is not None
    assert (ended.phase, ended.attempt, ended.joined) == (Phase.COMPLETED, 1, int(joined))
    assert (ended.size, ended.file) == (3, states[-1].file or ended.file)


@pytest.mark.parametrize("event", [CancelRequested(), Forgotten()])
async def test_a_run_does_not_repeat_its_steps_for_a_job_that_its_caller_has_ended(
    event: Event,
) -> None:
    jobs = MemoryJobs()
    job = await jobs.add(new_job(1), b"")
    assigned = advance(job, Assigned("r"), 4)
    assert await jobs.replace(job, assigned)
    record = Record(jobs, assigned, now)
    await record.advance(RUN[0])
    await record.advance(RUN[1])
    jobs.jobs[job.id] = ended = advance(assigned, event, 4)
    with pytest.raises(Lost):
        await record.advance(RUN[2])
    assert await jobs.get(job.id) == ended

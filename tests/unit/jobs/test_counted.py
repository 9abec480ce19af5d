"""What becomes of jobs is counted once, whatever the store does (CONTRACT §16)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from proxy.core.events import (
    Answered,
    Cancelled,
    CancelRequested,
    Claimed,
    Finalizing,
    Interrupted,
    Resumed,
    Succeeded,
)
from proxy.core.exports import verb
from proxy.core.job import FileFacts, Job
from proxy.core.transitions import advance
from proxy.jobs.counted import CountedJobs
from proxy.jobs.counted_shared import CountedSharedJobs
from proxy.ports import StoreUnavailable
from proxy.ports.counts import JobCounts
from tests.support.fakes import MemoryJobs, new_job
from tests.support.shared import SharedStore

FACTS = FileFacts(media_type="a/b", file_name=None, size=3, etag=None)


async def after(jobs: Any, job: Job, *events: Any) -> Job:
    for event in events:
        changed = advance(job, event, job.updated + 1)
        assert await jobs.replace(job, changed)
        job = changed
    return job


@pytest.fixture
async def counted() -> tuple[CountedJobs, JobCounts, Any]:
    counts, memory = JobCounts(), MemoryJobs()
    return CountedJobs(memory, counts), counts, memory


async def test_16_each_step_of_an_export_is_measured_once(counted: Any) -> None:
    jobs, counts, _ = counted
    job = await jobs.add(new_job(), b"")
    assert (jobs.phases(), jobs.oldest()) == ({"Queued": 1}, job.created)
    await asyncio.sleep(0.02)
    job = await after(jobs, job, Claimed("h"), Answered(FACTS))
    assert jobs.phases() == {"Transferring": 1}
    job = await after(jobs, job, Finalizing(3), Succeeded(3, "d", 9.0, None))
    assert (jobs.phases(), jobs.oldest()) == ({}, None)
    assert counts.finished == {("Success", ""): 1}
    name = verb(job.request.title)
    for histograms in (counts.queue, counts.generation, counts.transfer, counts.size):
        assert list(histograms) == [name]
        assert sum(histograms[name].counts) == 1
    assert counts.queue[name].total >= 0.02
    assert counts.size[name].total == 3


async def test_16_a_change_that_is_not_confirmed_is_counted_when_it_is_found(
    counted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, counts, memory = counted
    job = await after(jobs, await jobs.add(new_job(), b""), CancelRequested())
    done = advance(job, Cancelled(), 5.0)

    async def unconfirmed(old: Job, new: Job) -> bool:
        assert await MemoryJobs.replace(memory, old, new)
        raise StoreUnavailable

    monkeypatch.setattr(memory, "replace", unconfirmed)
    with pytest.raises(StoreUnavailable):
        await jobs.replace(job, done)
    assert not counts.finished
    for _ in range(2):
        assert await jobs.get(job.id) == done
        assert counts.finished == {("Cancelled", ""): 1}
    assert jobs.phases() == {}


async def test_16_a_job_that_is_removed_is_no_longer_unfinished(counted: Any) -> None:
    jobs, counts, _ = counted
    job = await jobs.add(new_job(), b"")
    assert await jobs.remove(job)
    assert jobs.phases() == {}
    assert not counts.finished


async def test_16_a_job_whose_removal_was_not_confirmed_is_no_longer_unfinished(
    counted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is looked for, as whoever removes it does."""
    jobs, _, memory = counted
    job = await jobs.add(new_job(), b"")

    async def unconfirmed(job: Job) -> bool:
        assert await MemoryJobs.remove(memory, job)
        raise StoreUnavailable

    monkeypatch.setattr(memory, "remove", unconfirmed)
    with pytest.raises(StoreUnavailable):
        await jobs.remove(job)
    assert await jobs.get(job.id) is None
    assert (jobs.phases(), jobs.oldest()) == ({}, None)


async def test_16_jobs_of_before_the_start_are_known_after_the_first_list(counted: Any) -> None:
    jobs, counts, memory = counted
    job = await after(memory, await memory.add(new_job(), b""), Interrupted())
    assert jobs.phases() == {}
    await jobs.list()
    assert jobs.phases() == {"Suspended": 1}
    await after(jobs, job, Resumed())
    assert (jobs.phases(), counts.resumed) == ({"Queued": 1}, 1)


async def test_16_jobs_of_other_replicas_are_theirs() -> None:
    memory = MemoryJobs()
    jobs = CountedJobs(memory, JobCounts(), "me")
    mine = await jobs.add(replace(new_job(1), replica="me"), b"")
    await memory.add(replace(new_job(2), replica="other"), b"")
    await jobs.list()
    assert jobs.phases() == {"Queued": 1}
    taken = replace(mine, version=mine.version + 1, replica="other")
    assert await memory.replace(mine, taken)
    await jobs.get(mine.id)
    assert jobs.phases() == {}


@pytest.mark.parametrize(
    ("title", "name"),
    [("EXPORTTOPST", "exportToPst"), ("Save", "save"), ("generateX", "report"), ("\xff", "report")],
)
def test_16_there_are_four_verbs(title: str, name: str) -> None:
    assert verb(title) == name


async def test_each_change_is_on_the_feed_when_its_call_returns(counted: Any) -> None:
    """A reader that looks right after a 202 finds the job."""
    jobs, _, _ = counted
    feed, other = jobs.changes(), jobs.changes()
    job = await jobs.add(new_job(), b"")
    assert feed.take() == [job.id]
    changed = await after(jobs, job, Claimed("h"), Answered(FACTS))
    assert feed.take() == [changed.id]
    assert await jobs.replace(job, changed) is False
    assert feed.take() == []
    assert await jobs.remove(changed)
    assert (feed.take(), other.take()) == ([job.id], [job.id])


async def test_a_change_that_is_not_confirmed_is_on_the_feed(counted: Any) -> None:
    jobs, _, memory = counted
    feed = jobs.changes()
    memory.faults["add"].append(StoreUnavailable("away"))
    memory.faults["replace"].append(StoreUnavailable("away"))
    job = new_job()
    with pytest.raises(StoreUnavailable):
        await jobs.add(job, b"")
    assert feed.take() == [job.id]
    with pytest.raises(StoreUnavailable):
        await jobs.replace(job, advance(job, Claimed("h"), 2.0))
    assert feed.take() == [job.id]


async def test_a_reader_that_leaves_much_unread_gets_a_gap(counted: Any) -> None:
    jobs, _, _ = counted
    feed = jobs.changes()
    for number in range(10_001):
        feed.put(str(number))
    feed.put("more")
    assert feed.take() == [None]
    await jobs.close()
    assert [each async for each in feed] == []


async def test_a_shared_store_reports_the_changes_of_this_replica_at_once() -> None:
    """Its own feed comes over the network, later than the call returns."""
    shared = SharedStore().handle()
    jobs = CountedSharedJobs(shared, JobCounts())
    feed = jobs.prompt_changes()
    shared.store.feeds.clear()
    job = await jobs.add(new_job(), b"")
    assert feed.take() == [job.id]
    assert await jobs.remove(job)
    assert feed.take() == [job.id]
    shared.store.feeds.add(feed)
    other = await shared.add(new_job(), b"")
    assert feed.take() == [other.id]

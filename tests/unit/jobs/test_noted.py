"""Messages are stored with the change that causes them (CONTRACT §17)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxy.core import outbox
from proxy.core.events import Claimed, Failed, Forgotten
from proxy.core.job import ErrorCode, Job, JobError
from proxy.core.outbox import Subscription, Topic
from proxy.jobs.noted import NotedJobs, NotedSharedJobs
from proxy.jobs.record import Record, attempt
from proxy.ports import Bounds, SlotLimits, StoreUnavailable, Turn
from proxy.ports.counts import WebhookCounts
from tests.support.fakes import MemoryJobs, new_job
from tests.support.shared import SharedStore

TO = Subscription(endpoints=("a",), topics=frozenset(Topic), ahead=100.0)
ERROR = Failed(JobError(code=ErrorCode.INTERNAL, message="it broke", retryable=False))
SLOTS = SlotLimits(total=1, per_caller=0, hold=0.0)


class Noted:
    def __init__(self) -> None:
        self.store: Any = MemoryJobs()
        self.counts = WebhookCounts()
        self.jobs = NotedJobs(self.store, TO, self.counts, lambda: 7.0)
        self.wakes = 0
        self.jobs.listeners.append(self.wake)

    def wake(self) -> None:
        self.wakes += 1

    def topics(self, job: Job) -> list[str]:
        return [each.topic for each in self.store.jobs[job.id].outbox]


async def test_a_new_job_is_stored_with_its_message() -> None:
    noted = Noted()
    job = await noted.jobs.add(new_job(), b"")
    assert noted.topics(job) == ["accepted"]
    assert noted.wakes == 1


async def test_who_changes_a_job_without_its_messages_loses_none() -> None:
    """A runner goes on with the job that it has made, not with the stored one."""
    noted = Noted()
    job = new_job()
    await noted.jobs.add(job, b"")
    record = Record(noted.jobs, job, lambda: 8.0)
    assert record.job.outbox == ()
    await record.advance(Claimed("r"))
    assert noted.topics(job) == ["accepted"]
    await record.advance(ERROR)
    assert noted.topics(job) == ["accepted", "failed"]


async def test_a_delivered_message_does_not_come_back() -> None:
    """The change of a runner that has the version before is repeated on the new one."""
    noted = Noted()
    job = new_job()
    await noted.jobs.add(job, b"")
    record = Record(noted.jobs, job, lambda: 8.0)
    stored = noted.store.jobs[job.id]
    assert await noted.jobs.change_outbox(stored, outbox.changed(stored, stored.outbox[0], None))
    await record.advance(Claimed("r"))
    assert noted.topics(job) == []
    await record.advance(ERROR)
    assert noted.topics(job) == ["failed"]


async def test_a_change_that_was_not_confirmed_is_found_again() -> None:
    """The stored job has a message that the caller's has not: it is still the same change."""
    noted = Noted()
    job = new_job()
    await noted.jobs.add(job, b"")
    record = Record(noted.jobs, job, lambda: 8.0)
    confirmed = noted.store.replace

    async def unconfirmed(old: Job, new: Job) -> bool:
        await confirmed(old, new)
        noted.store.replace = confirmed
        raise StoreUnavailable("gone")

    noted.store.replace = unconfirmed
    with pytest.raises(StoreUnavailable):
        await record.advance(ERROR)
    ended = await record.advance(ERROR)
    assert ended.terminal
    assert noted.topics(job) == ["accepted", "failed"]


async def test_a_change_that_loses_a_race_causes_nothing() -> None:
    noted = Noted()
    job = new_job()
    await noted.jobs.add(job, b"")
    assert await attempt(noted.jobs, job, ERROR, lambda: 8.0) is not None
    assert await attempt(noted.jobs, job, ERROR, lambda: 8.0) is None
    assert noted.topics(job) == ["accepted", "failed"]


async def test_a_record_that_is_removed_with_its_messages_is_counted() -> None:
    noted = Noted()
    kept, dropped = new_job(), new_job()
    for job in (kept, dropped):
        await noted.jobs.add(job, b"")
    assert await noted.jobs.remove(noted.store.jobs[dropped.id])
    assert noted.counts.given_up == 0, "VB365 refused it at once: it was never a job"
    await attempt(noted.jobs, noted.store.jobs[kept.id], Forgotten(), lambda: 8.0)
    assert await noted.jobs.remove(noted.store.jobs[kept.id])
    assert noted.counts.given_up == 2


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.jobs.noted._REMEMBERED", 3)
    noted = Noted()
    for _ in range(10):
        await noted.jobs.add(new_job(), b"")
    assert len(noted.jobs._added) == 3


async def test_a_claim_of_a_slot_keeps_the_message() -> None:
    """Also one that is not granted the first time."""
    store = SharedStore()
    jobs: Any = NotedSharedJobs(store.handle(), TO, WebhookCounts(), lambda: 7.0)
    await jobs.renew(running=0, promised=0)
    bounds = Bounds(per_caller=9, queued=9, records_per_caller=9, records=9, slots=SLOTS)
    first, second = (new_job(replica=jobs.replica) for _ in range(2))
    for job in (first, second):
        assert await jobs.add_within(job, b"", bounds) == job

    def claim(job: Job) -> Job:
        return replace(job, version=2, holder=jobs.replica, fence=1)

    assert await jobs.claim(second, claim(second), SLOTS) is Turn.NOT_YET
    assert await jobs.claim(first, claim(first), SLOTS) is Turn.TAKEN
    assert await jobs.replace(claim(first), replace(claim(first), version=3))
    assert [each.topic for each in store.jobs[first.id].outbox] == ["accepted"]
    assert [each.topic for each in store.jobs[second.id].outbox] == ["accepted"]

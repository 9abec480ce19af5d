"""Every job store finds the jobs with messages for webhooks (proxy/ports/outbox.py)."""

from __future__ import annotations

from dataclasses import replace

from proxy.core import outbox
from proxy.core.events import Forgotten
from proxy.core.job import Job, Message
from proxy.core.transitions import advance
from proxy.ports.outbox import OutboxJobs
from tests.support.fakes import new_job


def telling(*messages: tuple[str, str, float]) -> Job:
    return replace(new_job(), accepted=True, outbox=tuple(Message(*each) for each in messages))


async def found(jobs: OutboxJobs, endpoint: str, until: float, limit: int = 10) -> list[str]:
    return [job.id for job in await jobs.pending(endpoint, until, limit)]


async def test_jobs_with_a_due_message_are_found_in_its_order(jobs: OutboxJobs) -> None:
    """By the first message of the endpoint that is asked for."""
    late = telling(("accepted", "a", 9.5), ("failed", "a", 20.25), ("failed", "b", 1.0))
    early = telling(("accepted", "a", 7.0))
    other = telling(("expiring", "", 3.0), ("accepted", "b", 5.0))
    none = telling()
    for job in (late, early, other, none):
        await jobs.add(job, b"")
    assert await found(jobs, "a", 100.0) == [early.id, late.id]
    assert await found(jobs, "a", 9.5) == [early.id, late.id]
    assert await found(jobs, "a", 9.4) == [early.id]
    assert await found(jobs, "a", 100.0, limit=1) == [early.id]
    assert await found(jobs, "b", 100.0) == [late.id, other.id]
    assert await found(jobs, outbox.PLANNED, 3.0) == [other.id]
    assert await found(jobs, "c", 100.0) == []
    assert [await jobs.backlog(each) for each in ("a", "b", "", "c")] == [2, 2, 1, 0]
    assert none.id not in [job.id for job in await jobs.pending("a", 100.0, 10)]


async def test_the_messages_themselves_are_kept(jobs: OutboxJobs) -> None:
    job = replace(new_job(), accepted=True, outbox=(Message("accepted", "a", 1.125, 3),))
    await jobs.add(job, b"")
    (stored,) = await jobs.pending("a", 2.0, 10)
    assert stored.outbox == job.outbox


async def test_a_change_moves_a_job_and_a_removal_ends_it(jobs: OutboxJobs) -> None:
    job = await jobs.add(telling(("accepted", "a", 1.0)), b"")
    (message,) = job.outbox
    later = outbox.changed(job, message, replace(message, due=50.0))
    assert await jobs.replace(job, later)
    assert await found(jobs, "a", 49.0) == []
    assert await found(jobs, "a", 50.0) == [job.id]
    forgotten = advance(later, Forgotten(), 2.0)
    assert await jobs.replace(later, forgotten)
    assert await found(jobs, "a", 50.0) == [job.id], "of a deleted job, too"
    assert await jobs.remove(forgotten)
    assert await found(jobs, "a", 50.0) == []
    assert await jobs.backlog("a") == 0


async def test_a_delivered_message_is_found_no_more(jobs: OutboxJobs) -> None:
    job = await jobs.add(telling(("accepted", "a", 1.0), ("failed", "a", 2.0)), b"")
    rest = outbox.changed(job, job.outbox[0], None)
    assert await jobs.replace(job, rest)
    assert await found(jobs, "a", 1.5) == []
    done = outbox.changed(rest, rest.outbox[0], None)
    assert await jobs.replace(rest, done)
    assert await found(jobs, "a", 99.0) == []

"""Every `JobStore` lists and counts jobs by owner, session, age and stage."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from proxy.core.events import (
    Expired,
    Failed,
    Forgotten,
    Interrupted,
    Resumed,
)
from proxy.core.job import Job, ResultState
from proxy.core.retention import Stage
from proxy.core.transitions import advance
from proxy.ports import Counts, JobStore
from tests.support.fakes import new_job
from tests.unit.stores.records import ERROR, REFUSED


async def test_the_list_is_newest_first_with_ties_by_id(jobs: JobStore) -> None:
    """§4: newest first."""
    mine = [new_job(number // 3) for number in range(12)]
    random.Random(7).shuffle(mine)
    for job in mine:
        await jobs.add(job, b"")
    expected = sorted(mine, key=lambda job: (job.created, job.id), reverse=True)
    assert await jobs.list() == expected
    assert await jobs.list(owner="alice") == expected
    assert await jobs.list(session="S1") == expected


async def test_the_list_is_of_an_owner_and_of_a_session_in_any_case(jobs: JobStore) -> None:
    """§4: the caller's own jobs; `restoreSessionId` lists those of a session."""
    a = await jobs.add(new_job(1, owner="alice", session="AbC%2Fd"), b"")
    b = await jobs.add(new_job(2, owner="bob", session="abc%2fD"), b"")
    c = await jobs.add(new_job(3, owner="bob", session="other"), b"")
    d = await jobs.add(new_job(4, owner="bob", session=None), b"")
    assert await jobs.list() == [d, c, b, a]
    assert await jobs.list(owner="bob") == [d, c, b]
    assert await jobs.list(session="ABC%2FD") == [b, a]
    assert await jobs.list(owner="alice", session="abc%2fd") == [a]
    assert await jobs.list(owner="alice", session="other") == []
    assert await jobs.list(owner="carol") == []
    assert await jobs.list(session="") == []


async def newest(jobs: JobStore, **of: Any) -> list[Job]:
    return [job async for part in jobs.newest(**of) for job in part]


async def test_the_newest_jobs_are_read_in_parts(jobs: JobStore) -> None:
    """§4: in the order of the list; a job of several of the owners is there once."""
    a = [await jobs.add(new_job(number // 7, owner="a"), b"") for number in range(150)]
    both = await jobs.add(new_job(9, owner="a", aliases=("b",), session="AbC"), b"")
    b = [await jobs.add(new_job(number, owner="b", session=None), b"") for number in range(100)]
    c = await jobs.add(new_job(5, owner="c", session="aBc"), b"")
    everything = await jobs.list()
    assert await newest(jobs, owners=["a"]) == [job for job in everything if job in [*a, both]]
    of_two = [job for job in everything if job != c]
    assert await newest(jobs, owners=["a", "nobody", "b"]) == of_two
    assert len(of_two) == len(a) + 1 + len(b)
    assert await newest(jobs, session="abc") == [both, c]
    assert await newest(jobs, owners=["nobody"]) == await newest(jobs, session="") == []


async def test_jobs_that_come_and_go_meanwhile_shift_none(jobs: JobStore) -> None:
    """§4: what is on the list all the time is on it once."""
    mine = [await jobs.add(new_job(number), b"") for number in range(200)]
    found: list[Job] = []
    async for part in jobs.newest(owners=["alice"]):
        if not found:
            await jobs.add(new_job(999), b"")
            assert await jobs.remove(mine[-1])
            assert await jobs.remove(mine[100])
        found += part
    kept = [job for job in mine if job not in (mine[-1], mine[100])]
    assert [job for job in found if job in kept] == kept[::-1]


async def test_the_list_is_the_callers_own(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"")
    (await jobs.list()).clear()
    (await jobs.list(owner="alice")).clear()
    assert await jobs.list() == [job] == await jobs.list(owner="alice")


def ended(number: int, **changes: Any) -> Job:
    return advance(new_job(number, **changes), Failed(ERROR, accepted=True), float(number))


async def stored(jobs: JobStore, job: Job) -> Job:
    """The job put into the store as it is."""
    assert await jobs.add(replace(job, version=0), b"") == replace(job, version=0)
    assert await jobs.replace(replace(job, version=0), job)
    return job


async def test_counts_returns_live_jobs_and_records_of_a_caller_and_of_all(
    jobs: JobStore,
) -> None:
    """§3.5: a job that has several of the hashes counts once; tombstones are records."""
    assert await jobs.counts(["alice"]) == Counts(0, 0, 0)
    both = await stored(jobs, new_job(1, aliases=("a2",)))
    await stored(jobs, ended(2, owner="a2"))
    await stored(jobs, advance(new_job(3), Forgotten(), 3))
    await stored(jobs, new_job(4, owner="bob"))
    assert await jobs.counts(["alice"]) == Counts(1, 2, 4)
    assert await jobs.counts(["alice", "a2"]) == Counts(1, 3, 4)
    assert await jobs.counts(["nobody"]) == await jobs.counts([]) == Counts(0, 0, 4)
    assert await jobs.replace(both, over := advance(both, Failed(ERROR), 5))
    assert await jobs.counts(["a2"]) == Counts(0, 2, 4)
    assert await jobs.remove(over)
    assert await jobs.counts(["alice", "a2"]) == Counts(0, 2, 3)


async def test_spent_returns_the_oldest_ended_records_without_a_file(jobs: JobStore) -> None:
    """§3.5: tombstones too; what strangers left goes first; never a running job or a promised
    file.
    """
    await stored(jobs, new_job(1))
    await stored(jobs, replace(ended(2), result=ResultState.AVAILABLE))
    third = await stored(jobs, ended(30))
    first = await stored(jobs, advance(new_job(10, accepted=True), Forgotten(), 10))
    second = await stored(jobs, ended(20, owner="bob"))
    stranger = await stored(jobs, advance(new_job(40, owner="x"), Failed(REFUSED), 40.0))
    assert await jobs.spent(None, 9) == [stranger, first, second, third]
    assert await jobs.spent(None, 2) == [stranger, first]
    assert await jobs.spent(["alice", "nobody"], 9) == [first, third]
    assert await jobs.spent(["alice", "bob"], 2) == [first, second]
    assert await jobs.remove(first)
    assert await jobs.spent(["alice"], 9) == [third]
    assert await jobs.spent([], 9) == []


async def test_due_returns_the_jobs_of_a_stage_up_to_a_moment(jobs: JobStore) -> None:
    """§7, §9: what a sweep has to look at."""
    later, sooner = [await stored(jobs, ended(number)) for number in (20, 10)]
    file = await stored(jobs, replace(ended(5), result=ResultState.AVAILABLE, expires=15.0))
    grave = await stored(jobs, advance(new_job(3), Forgotten(), 3))
    await stored(jobs, new_job(1))
    assert await jobs.due(Stage.ENDED, 20.0) == [sooner, later]
    assert await jobs.due(Stage.ENDED, 19.9) == [sooner]
    assert await jobs.due(Stage.ENDED, 9.9) == []
    assert await jobs.due(Stage.AVAILABLE, 14.0) == []
    assert await jobs.due(Stage.AVAILABLE, 15.0) == [file]
    assert await jobs.due(Stage.FORGOTTEN, 3.0) == [grave]
    assert await jobs.replace(file, expired := advance(file, Expired(), 16.0))
    assert await jobs.due(Stage.AVAILABLE, 99.0) == []
    assert await jobs.due(Stage.ENDED, 99.0) == [expired, sooner, later]


async def test_due_tells_suspended_jobs_of_callers_that_vb365_never_accepted(
    jobs: JobStore,
) -> None:
    """§3.5: they end sooner."""
    queued = await stored(jobs, new_job(1))
    accepted = await stored(jobs, replace(new_job(2), accepted=True))
    assert await jobs.replace(queued, suspended := advance(queued, Interrupted(denied=True), 5.0))
    assert await jobs.replace(accepted, kept := advance(accepted, Interrupted(denied=True), 6.0))
    assert await jobs.due(Stage.REJECTED, 4.9) == []
    assert await jobs.due(Stage.REJECTED, 99.0) == [suspended]
    assert await jobs.due(Stage.SUSPENDED, 99.0) == [kept]
    assert await jobs.replace(suspended, advance(suspended, Resumed(), 7.0))
    assert await jobs.due(Stage.REJECTED, 99.0) == []

"""Every `JobStore` keeps what proxy/ports promises of it: records and their changes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from proxy.core.events import (
    Cancelled,
    CancelRequested,
    Claimed,
    Failed,
    Forgotten,
    Interrupted,
)
from proxy.core.job import Job, Phase
from proxy.core.retention import Stage
from proxy.core.transitions import advance
from proxy.ports import JobStore, StoreUnavailable
from tests.support.fakes import new_job
from tests.unit.stores.records import ERROR, bumped


async def test_add_returns_the_job_and_it_can_be_got(jobs: JobStore) -> None:
    job = new_job(accept_language="fr \u00e9\ud800\x00")
    assert await jobs.add(job, b"{}") == job
    assert await jobs.get(job.id) == job


async def test_an_unknown_job_is_none(jobs: JobStore) -> None:
    for unknown in (new_job().id, "", "job:", "../lock"):
        assert await jobs.get(unknown) is None
        assert await jobs.body(unknown) is None


@pytest.mark.parametrize("body", [b"", b"{}", bytes(range(256)), b"x" * (1 << 20)])
async def test_the_body_is_kept_as_it_is(jobs: JobStore, body: bytes) -> None:
    job = await jobs.add(new_job(), body)
    assert await jobs.body(job.id) == body


async def test_add_does_not_write_a_job_twice(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"first")
    newer = bumped(job)
    assert await jobs.replace(job, newer)
    assert await jobs.add(job, b"second") == newer
    assert await jobs.body(job.id) == b"first"


async def test_replace_stores_the_next_version(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"")
    claimed = advance(job, Claimed("runner", 0), 1)
    assert await jobs.replace(job, claimed) is True
    assert await jobs.get(job.id) == claimed


async def test_replace_of_another_version_changes_nothing(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"body")
    newer = bumped(job)
    assert await jobs.replace(job, newer)
    assert await jobs.replace(job, advance(job, Failed(ERROR), 1)) is False
    assert await jobs.get(job.id) == newer
    assert await jobs.body(job.id) == b"body"


async def test_replace_of_an_unknown_job_is_false(jobs: JobStore) -> None:
    job = new_job()
    assert await jobs.replace(job, bumped(job)) is False
    assert await jobs.get(job.id) is None


async def test_a_job_is_replaced_by_itself_only(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"")
    with pytest.raises(ValueError, match="own next version"):
        await jobs.replace(job, new_job())


async def test_of_concurrent_replaces_exactly_one_wins(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"")
    rivals = [replace(bumped(job), holder=f"runner {number}") for number in range(50)]
    busy = asyncio.create_task(jobs.add(new_job(), b""))
    await asyncio.sleep(0)
    outcomes = await asyncio.gather(*(jobs.replace(job, rival) for rival in rivals))
    await busy
    assert outcomes.count(True) == 1
    assert await jobs.get(job.id) == rivals[outcomes.index(True)]


async def test_no_change_is_lost_when_many_advance_one_job(jobs: JobStore) -> None:
    """Advance, then replace, else read again."""
    job = await jobs.add(new_job(), b"")

    async def advance_ten_times() -> None:
        for _ in range(10):
            while True:
                current = await jobs.get(job.id)
                assert current is not None
                if await jobs.replace(current, bumped(current)):
                    break

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(advance_ten_times())
    current = await jobs.get(job.id)
    assert current is not None
    assert current.version == 101


async def test_a_late_cancel_and_a_late_success_never_both_win(jobs: JobStore) -> None:
    """§7: cancel beats a late response of VB365; a persisted end beats a late cancel."""
    for round_ in range(50):
        job = await jobs.add(new_job(round_), b"")
        ends = [advance(job, Failed(ERROR), 1), advance(job, CancelRequested(), 1)]
        random.Random(round_).shuffle(ends)
        outcomes = await asyncio.gather(*(jobs.replace(job, end) for end in ends))
        assert outcomes == [True, False]
        assert await jobs.get(job.id) == ends[0]


@pytest.mark.parametrize(
    "end",
    [
        lambda job: advance(job, Failed(ERROR), 1),
        lambda job: advance(job, Forgotten(), 1),
        lambda job: replace(advance(advance(job, CancelRequested(), 1), Cancelled(), 2), version=2),
        lambda job: replace(bumped(job), phase=Phase.FORGOTTEN),
    ],
    ids=["failed", "forgotten", "cancelled", "forgotten without an end"],
)
async def test_the_body_is_removed_when_the_job_ends(
    jobs: JobStore, end: Callable[[Job], Job]
) -> None:
    """§9: on disk of a request only while it may be needed."""
    job = await jobs.add(new_job(), b"body")
    assert await jobs.replace(job, end(job))
    assert await jobs.body(job.id) is None


async def test_the_body_stays_while_the_job_may_need_it(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"body")
    claimed = advance(job, Claimed("runner", 0), 1)
    assert await jobs.replace(job, claimed)
    assert await jobs.replace(claimed, advance(claimed, Interrupted(), 2))
    assert await jobs.body(job.id) == b"body"


async def test_remove_drops_record_body_and_key(jobs: JobStore) -> None:
    job = await jobs.add(new_job(key="k"), b"body")
    assert await jobs.remove(job) is True
    assert await jobs.get(job.id) is None
    assert await jobs.body(job.id) is None
    assert await jobs.find("alice", "k") is None
    assert await jobs.list() == []
    assert await jobs.remove(job) is False
    successor = new_job(key="k")
    assert await jobs.add(successor, b"") == successor


async def test_remove_of_another_version_changes_nothing(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"body")
    newer = bumped(job)
    assert await jobs.replace(job, newer)
    assert await jobs.remove(job) is False
    assert await jobs.get(job.id) == newer
    assert await jobs.body(job.id) == b"body"


async def test_of_a_remove_and_a_replace_exactly_one_wins(jobs: JobStore) -> None:
    for round_ in range(50):
        job = await jobs.add(new_job(round_), b"")
        calls: list[Awaitable[bool]] = [jobs.remove(job), jobs.replace(job, bumped(job))]
        random.Random(round_).shuffle(calls)
        outcomes = await asyncio.gather(*calls)
        assert outcomes.count(True) == 1


async def test_a_closed_store_ends_waits_and_is_unavailable(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"")
    waiting = asyncio.create_task(jobs.wait(job.id, 1, 60))
    await asyncio.sleep(0)
    await jobs.close()
    async with asyncio.timeout(5):
        assert await waiting == job
    calls = (
        lambda: jobs.add(new_job(), b""),
        lambda: jobs.get(job.id),
        lambda: jobs.find("alice", "k"),
        lambda: jobs.body(job.id),
        lambda: jobs.replace(job, bumped(job)),
        lambda: jobs.remove(job),
        lambda: jobs.list(),
        lambda: jobs.counts(["alice"]),
        lambda: jobs.spent(None, 1),
        lambda: jobs.due(Stage.ENDED, 1),
        lambda: jobs.wait(job.id, 1, 0),
        lambda: jobs.probe(),
    )
    for call in calls:
        with pytest.raises(StoreUnavailable):
            await call()
    await jobs.close()


async def test_a_probe_of_a_store_that_works_changes_nothing(jobs: JobStore) -> None:
    """§15 /readyz: stores writable."""
    job = await jobs.add(new_job(), b"")
    await jobs.probe()
    assert await jobs.list() == [job]


async def test_a_cancelled_call_happens_whole_or_not_at_all(jobs: JobStore) -> None:
    """§3.7: a client that leaves does not leave half a job."""
    random_ = random.Random(1)
    for number in range(100):
        job = new_job(number, key=f"k{number}")
        calling = asyncio.create_task(jobs.add(job, b"body"))
        for _ in range(random_.randrange(4)):
            await asyncio.sleep(0)
        calling.cancel()
        await asyncio.wait([calling])
        again = await jobs.add(replace(job, id=new_job().id), b"body")
        found = await jobs.find("alice", f"k{number}")
        assert found == again
        assert (await jobs.get(job.id) is not None) == (again.id == job.id)
        changing = asyncio.create_task(jobs.replace(again, bumped(again)))
        for _ in range(random_.randrange(4)):
            await asyncio.sleep(0)
        changing.cancel()
        await asyncio.wait([changing])
        won = await jobs.replace(again, replace(bumped(again), holder="second"))
        current = await jobs.get(again.id)
        assert current == (replace(bumped(again), holder="second") if won else bumped(again))


async def test_recent_shows_own_changes_at_once(jobs: JobStore) -> None:
    """What this process has changed is shown, however recently the job was read."""
    job = await jobs.add(new_job(), b"")
    assert await jobs.recent(job.id) == job
    changed = advance(job, Claimed("r1"), 1.0)
    assert await jobs.replace(job, changed)
    assert await jobs.recent(job.id) == changed
    assert await jobs.remove(changed)
    assert await jobs.recent(job.id) is None

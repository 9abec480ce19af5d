"""Every `SharedJobs` store keeps what proxy/ports/shared_jobs.py promises of it, over several
handles. Each is also a `JobStore` of test_jobs.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from proxy.core.events import (
    Assigned,
    Cancelled,
    CancelRequested,
    Claimed,
    Event,
    Failed,
    Forgotten,
    Interrupted,
    Shown,
)
from proxy.core.job import Phase
from proxy.core.transitions import advance
from proxy.ports import (
    KeyClaim,
    KeyClaimed,
    SharedJobs,
    StoreUnavailable,
    Turn,
)
from proxy.stores.redis_jobs import recent as redis_recent
from proxy.stores.redis_jobs import store as redis_store
from tests.support.fakes import new_job
from tests.unit.stores.conftest import OpenShared, handles
from tests.unit.stores.records import ERROR
from tests.unit.stores.shared_jobs import (
    MANY,
    NO_BOUNDS,
    ONE,
    SHORT,
    abandoned,
    changed,
    claimed,
    eventually,
    queued,
    read,
    try_claim,
)


@pytest.fixture
def only_the_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the feed shows changes by other replicas: no comparison, no new read."""
    monkeypatch.setattr(redis_store, "_LOOK", 3600.0)
    monkeypatch.setattr(redis_recent, "_LIFETIME", 3600.0)


# Leases


async def test_each_handle_is_a_replica_of_its_own(two: list[SharedJobs]) -> None:
    assert two[0].replica != two[1].replica
    assert {each.id for each in await two[0].replicas()} == {store.replica for store in two}


async def test_a_replica_is_listed_with_what_it_reported(two: list[SharedJobs]) -> None:
    a, b = two
    before = {each.id: each.seen for each in await b.replicas()}
    await a.renew(running=3, promised=5 << 40)
    (found,) = [each for each in await b.replicas() if each.id == a.replica]
    assert (found.running, found.promised) == (3, 5 << 40)
    assert found.seen >= before[a.replica]


async def test_a_replica_that_leaves_has_no_lease(two: list[SharedJobs]) -> None:
    a, b = two
    await a.leave()
    assert [each.id for each in await b.replicas()] == [b.replica]
    await a.leave()
    await a.renew(running=0, promised=0)
    assert len(await b.replicas()) == 2


async def test_a_lease_ends_without_renewal_and_begins_again(open_shared: OpenShared) -> None:
    async with handles(open_shared, 1, SHORT) as (a,), handles(open_shared, 1) as (b,):

        async def is_gone() -> bool:
            return a.replica not in {each.id for each in await b.replicas()}

        await eventually(is_gone)
        await a.renew(running=0, promised=0)
        assert not await is_gone()


async def test_the_holder_changes_nothing_without_its_lease(two: list[SharedJobs]) -> None:
    """§18: a replica that lost its lease can write no record."""
    a, b = two
    job = await claimed(a, await queued(a))
    await a.leave()
    for event in (Claimed(a.replica), Interrupted(), Failed(ERROR)):
        with pytest.raises(StoreUnavailable, match="lease"):
            await a.replace(job, advance(job, event, 2))
    assert await b.get(job.id) == job
    assert await b.body(job.id) == b"body"
    await a.renew(running=0, promised=0)
    assert await a.replace(job, advance(job, Claimed(a.replica), 2))


async def test_a_replica_without_a_lease_takes_no_job(two: list[SharedJobs]) -> None:
    a, b = two
    job = await queued(b)
    await a.leave()
    with pytest.raises(StoreUnavailable, match="lease"):
        await try_claim(a, job, MANY)
    with pytest.raises(StoreUnavailable, match="lease"):
        await a.replace(job, advance(job, Claimed(a.replica), 2))
    assert await b.get(job.id) == job


async def test_a_job_that_was_taken_over_is_read_again_and_not_refused(
    two: list[SharedJobs],
) -> None:
    """A version that differs is reported first: the old holder learns at once that it is one."""
    a, b = two
    job = await claimed(a, await queued(a))
    await a.leave()
    await changed(b, job, Interrupted())
    assert await a.replace(job, advance(job, Claimed(a.replica), 2)) is False
    assert await try_claim(a, replace(job, holder=None), MANY) is Turn.CHANGED


@pytest.mark.parametrize("event", [CancelRequested(), Forgotten()])
async def test_a_cancel_and_a_deletion_need_no_lease(two: list[SharedJobs], event: Event) -> None:
    """The caller asks for them, by whichever replica."""
    a, _ = two
    job = await claimed(a, await queued(a))
    await a.leave()
    assert await a.replace(job, advance(job, event, 2))


async def test_a_change_of_a_job_that_another_replica_holds_needs_no_lease(
    two: list[SharedJobs],
) -> None:
    a, b = two
    job = await claimed(a, await queued(a, attended=True))
    await b.leave()
    assert await b.replace(job, advance(job, Shown(), 2))


async def test_a_job_without_a_holder_needs_no_lease(two: list[SharedJobs]) -> None:
    a, _ = two
    job = await queued(a)
    await a.leave()
    assert await a.replace(job, advance(job, Interrupted(), 2))


# Keys


async def test_a_key_that_others_claim_is_not_taken(two: list[SharedJobs]) -> None:
    """§8, §18: another replica has a kick-off with this key whose caller may be the same."""
    one, other = two
    claim = KeyClaim(owner="o", key="k", id="theirs")
    await one.announce(claim)
    assert list(await other.claims("o", "k")) == ["theirs"]
    mine = new_job(owner="p", key="k", aliases=("o",))
    with pytest.raises(KeyClaimed):
        await other.add_within(mine, b"", NO_BOUNDS)
    with pytest.raises(KeyClaimed):
        await other.add(mine, b"")
    assert await other.get(mine.id) is None
    for free in (new_job(owner="o", key="l"), new_job(owner="q", key="k"), new_job(owner="o")):
        assert await other.add_within(free, b"", NO_BOUNDS) == free
    also = KeyClaim(owner="o", key="k", id="theirs too")
    await one.announce(also)
    await other.announce(KeyClaim(owner="o", key="j", id="theirs"))
    await one.withdraw([claim, also])
    await other.withdraw([claim])
    await other.withdraw([])
    assert list(await other.claims("o", "k")) == []
    assert list(await one.claims("o", "j")) == ["theirs"]
    assert await other.add_within(mine, b"", NO_BOUNDS) == mine


async def test_a_claim_does_not_keep_its_own_job_from_the_key(two: list[SharedJobs]) -> None:
    mine = new_job(owner="o", key="k")
    await two[0].announce(KeyClaim(owner="o", key="k", id=mine.id))
    assert await two[0].add_within(mine, b"", NO_BOUNDS) == mine


async def test_a_job_that_has_the_key_is_found_whoever_claims_it(two: list[SharedJobs]) -> None:
    first = new_job(owner="o", key="k")
    await two[0].add(first, b"")
    await two[0].announce(KeyClaim(owner="o", key="k", id="theirs"))
    assert await two[1].add_within(new_job(owner="o", key="k"), b"", NO_BOUNDS) == first


async def test_a_claim_ends_with_the_lease_of_its_replica(two: list[SharedJobs]) -> None:
    await two[0].announce(KeyClaim(owner="o", key="k", id="theirs"))
    await two[0].leave()
    assert list(await two[1].claims("o", "k")) == []
    mine = new_job(owner="o", key="k")
    assert await two[1].add_within(mine, b"", NO_BOUNDS) == mine


# Orphans (§18)


async def test_unfinished_jobs_of_replicas_without_a_lease_are_orphans(
    two: list[SharedJobs],
) -> None:
    a, b = two
    runs = await claimed(a, await queued(a, 2, owner="bob"))
    elsewhere = await claimed(b, await queued(a, 3, owner="carol"))
    cancelled = await changed(b, await claimed(a, await queued(a, 4, owner="d")), CancelRequested())
    await changed(a, await queued(a, 5), Interrupted())
    await changed(a, await queued(a, 6), Failed(ERROR))
    await changed(a, await queued(a, 7), Forgotten())
    nobodys = await queued(a, 8, replica=None)
    waits = await queued(a, 1)
    assert await b.orphans() == [nobodys]
    await a.leave()
    found = {job.id: job for job in await b.orphans()}
    assert found == {job.id: job for job in (waits, runs, cancelled, nobodys)}
    assert elsewhere.id not in found
    await a.renew(running=0, promised=0)
    assert await b.orphans() == [nobodys]


async def test_a_lease_that_ends_makes_orphans(open_shared: OpenShared) -> None:
    async with handles(open_shared, 1, SHORT) as (a,), handles(open_shared, 1) as (b,):
        await a.renew(running=0, promised=0)
        job = await queued(a)

        async def is_orphan() -> bool:
            return [each.id for each in await b.orphans()] == [job.id]

        await eventually(is_orphan)


async def test_the_jobs_of_a_replica_that_leaves_are_on_the_feed(two: list[SharedJobs]) -> None:
    """§18: others take them over at once."""
    a, b = two
    changes = b.changes()
    job = await queued(a)
    other = await queued(b)
    assert await read(changes, 2) == [job.id, other.id]
    await a.leave()
    assert await read(changes, 1) == [job.id]
    assert await b.orphans() == [job]


# Bounds (§3.5)


async def test_add_within_bounds_is_add(two: list[SharedJobs]) -> None:
    a, b = two
    job = new_job(key="k")
    assert await a.add_within(job, b"body", NO_BOUNDS) == job
    assert await b.get(job.id) == job
    assert await b.body(job.id) == b"body"


@pytest.mark.parametrize("bound", ["per_caller", "records_per_caller", "records"])
async def test_add_within_writes_nothing_beyond_a_bound(two: list[SharedJobs], bound: str) -> None:
    a, b = two
    limit: Any = {bound: 2}
    bounds = replace(NO_BOUNDS, **limit)
    await a.add_within(new_job(), b"", bounds)
    await b.add_within(new_job(owner="x", aliases=("alice",)), b"", bounds)
    job = new_job(owner="y", aliases=("alice",))
    assert await a.add_within(job, b"", bounds) is None
    assert await b.get(job.id) is None
    assert await b.body(job.id) is None
    other = new_job(owner="bob")
    expected = None if bound == "records" else other
    assert await b.add_within(other, b"", bounds) == expected


async def test_ended_jobs_are_records_and_not_unfinished(two: list[SharedJobs]) -> None:
    a, b = two
    await changed(a, await queued(a), Failed(ERROR))
    assert await b.add_within(new_job(), b"", replace(NO_BOUNDS, per_caller=1)) is not None
    assert await b.add_within(new_job(), b"", replace(NO_BOUNDS, records_per_caller=2)) is None


async def test_held_slots_count_as_unfinished_jobs_of_their_caller(two: list[SharedJobs]) -> None:
    a, b = two
    await changed(a, await abandoned(a, MANY), Cancelled())
    bounds = replace(NO_BOUNDS, per_caller=1)
    assert await b.add_within(new_job(), b"", bounds) is None
    assert await b.add_within(new_job(owner="bob"), b"", bounds) is not None


async def test_so_many_jobs_wait_at_most_beside_free_slots(two: list[SharedJobs]) -> None:
    """§3.5: the queue is full. A job that will start at once does not wait."""
    a, b = two
    bounds = replace(NO_BOUNDS, queued=1, slots=replace(ONE, total=2))
    first = await a.add_within(new_job(replica=a.replica), b"", bounds)
    assert first is not None
    assert await b.add_within(new_job(), b"", bounds) is not None
    assert await b.add_within(new_job(), b"", bounds) is not None
    assert await b.add_within(new_job(), b"", bounds) is None
    await claimed(a, first, bounds.slots)
    assert await b.add_within(new_job(), b"", bounds) is None


async def test_add_within_returns_the_job_of_a_key_also_when_full(two: list[SharedJobs]) -> None:
    """§8: a retry gets its job."""
    a, b = two
    job = await a.add(new_job(key="k"), b"")
    bounds = replace(NO_BOUNDS, per_caller=1, records=1)
    assert await b.add_within(new_job(key="k"), b"", bounds) == job
    assert await b.add_within(job, b"", bounds) == job


async def test_concurrent_adds_over_three_handles_stay_within_the_bounds(
    three: list[SharedJobs],
) -> None:
    bounds = replace(NO_BOUNDS, per_caller=7)
    added = await asyncio.gather(
        *(three[number % 3].add_within(new_job(number), b"", bounds) for number in range(50))
    )
    assert len([job for job in added if job is not None]) == 7
    assert len(await three[0].list()) == 7


async def test_concurrent_adds_with_one_key_over_three_handles_make_one_job(
    three: list[SharedJobs],
) -> None:
    """§8."""
    added = await asyncio.gather(
        *(three[number % 3].add(new_job(number, key="k"), b"") for number in range(50))
    )
    assert len({job.id for job in added}) == 1


# The feed


async def test_the_feed_reports_what_any_replica_changes(two: list[SharedJobs]) -> None:
    a, b = two
    feeds = a.changes(), b.changes()
    job = await queued(a)
    assert [await read(changes, 1) for changes in feeds] == [[job.id]] * 2
    newer = await changed(b, job, Shown())
    assert [await read(changes, 1) for changes in feeds] == [[job.id]] * 2
    await a.remove(newer)
    assert [await read(changes, 1) for changes in feeds] == [[job.id]] * 2


async def test_changes_before_the_call_are_not_reported(two: list[SharedJobs]) -> None:
    a, _ = two
    before = a.changes()
    old = await queued(a)
    assert await read(before, 1) == [old.id]
    after = a.changes()
    new = await queued(a)
    assert await read(after, 1) == [new.id]


async def test_changes_end_when_the_store_is_closed(two: list[SharedJobs]) -> None:
    a, _ = two
    changes = a.changes()
    waiting = asyncio.create_task(anext(changes, "ended"))
    await asyncio.sleep(0)
    await a.close()
    async with asyncio.timeout(20):
        assert await waiting == "ended"
        assert [each async for each in a.changes()] == []


@pytest.mark.usefixtures("only_the_feed")
@pytest.mark.parametrize("event", [CancelRequested(), Forgotten(), Failed(ERROR)])
async def test_a_wait_ends_with_a_change_elsewhere(two: list[SharedJobs], event: Event) -> None:
    """§18: at once, by the feed; `wait` itself would take longer than the test."""
    a, b = two
    job = await queued(a)
    waiting = asyncio.create_task(b.wait(job.id, job.version, 60))
    await asyncio.sleep(0)
    assert await b.get(job.id) == job  # by now, `wait` has read the job as well, or is about to
    new = await changed(a, job, event)
    async with asyncio.timeout(20):
        assert await waiting == new


async def test_a_closed_handle_is_unavailable(two: list[SharedJobs]) -> None:
    a, b = two
    job = await queued(a)
    await a.close()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: a.renew(running=0, promised=0),
        a.leave,
        a.replicas,
        lambda: a.add_within(new_job(), b"", NO_BOUNDS),
        lambda: try_claim(a, job, ONE),
        lambda: a.slot_use([], ONE),
        a.orphans,
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable):
            await call()
    assert await b.get(job.id) == job


async def test_a_claim_is_for_its_own_replica_and_a_job_that_waits(two: list[SharedJobs]) -> None:
    a, b = two
    job = await queued(a)
    with pytest.raises(ValueError, match="claims"):
        await a.claim(job, advance(job, Assigned(b.replica), 1), ONE)
    suspended = await changed(a, job, Interrupted())
    claiming = replace(suspended, version=3, holder=a.replica)
    with pytest.raises(ValueError, match="claims"):
        await a.claim(suspended, claiming, ONE)
    assert suspended.phase is Phase.SUSPENDED


@pytest.mark.usefixtures("only_the_feed")
async def test_recent_shows_a_change_by_another_replica(two: list[SharedJobs]) -> None:
    """§18; the feed reports it. For how long a record is used without it: test_recent_jobs.py."""
    a, b = two
    job = await a.add(new_job(), b"")
    for _ in range(3):
        assert await b.recent(job.id) == job
    changed = advance(job, Interrupted(), 1.0)
    assert await a.replace(job, changed)
    async with asyncio.timeout(20):
        while await b.recent(job.id) != changed:  # noqa: ASYNC110  # as polls do
            await asyncio.sleep(0)

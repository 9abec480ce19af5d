"""Which job of several replicas gets a slot, in every `SharedJobs` store (CONTRACT §3.5, §3.6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.events import (
    Assigned,
    Cancelled,
    CancelRequested,
    Claimed,
    Event,
    Failed,
    Forgotten,
    Interrupted,
    Resumed,
    Shown,
)
from proxy.core.job import Job, Phase
from proxy.core.transitions import advance
from proxy.jobs.queue import Slots
from proxy.ports import (
    SharedJobs,
    SlotLimits,
    Turn,
)
from tests.support.fakes import new_job
from tests.unit.stores.conftest import SHARED, OpenShared, handles
from tests.unit.stores.records import ERROR
from tests.unit.stores.shared_jobs import (
    MANY,
    NO_BOUNDS,
    ONE,
    abandoned,
    added,
    changed,
    claimed,
    eventually,
    queued,
    read,
    try_claim,
    use,
)


async def test_a_claim_gives_a_free_slot_and_stores_the_job(two: list[SharedJobs]) -> None:
    a, b = two
    job = await queued(a)
    assert await b.slot_use([], ONE) == use(waiting=1)
    new = await claimed(a, job, ONE)
    assert await b.get(job.id) == new
    assert await b.slot_use([], ONE) == use(running=1)


async def test_a_claim_without_a_free_slot_changes_nothing(two: list[SharedJobs]) -> None:
    a, b = two
    await claimed(a, await queued(a), ONE)
    job = await queued(b)
    assert await try_claim(b, job, ONE) is Turn.NOT_YET
    assert await a.get(job.id) == job
    assert await a.slot_use([], ONE) == use(running=1, waiting=1)


async def test_a_claim_of_another_version_changes_nothing(two: list[SharedJobs]) -> None:
    a, b = two
    job = await queued(a)
    newer = await changed(b, job, Shown())
    assert await try_claim(a, job, MANY) is Turn.CHANGED
    assert await try_claim(a, new_job(replica=a.replica), MANY) is Turn.CHANGED
    assert await b.get(job.id) == newer
    assert await b.slot_use([], ONE) == use(waiting=1)


async def test_a_new_job_gets_a_free_slot_with_its_record(two: list[SharedJobs]) -> None:
    """§3.6: no claim follows."""
    a, b = two
    job = await added(a, ONE)
    assert (job.phase, job.holder, job.fence) == (Phase.GENERATING, a.replica, 1)
    assert await b.get(job.id) == job
    assert await b.slot_use([], ONE) == use(running=1)
    await changed(a, job, Failed(ERROR))
    assert await b.slot_use([], ONE) == use()


async def test_a_new_job_waits_if_no_slot_is_free(two: list[SharedJobs]) -> None:
    a, b = two
    await added(a, ONE)
    job = await added(b, ONE)
    assert job.phase is Phase.QUEUED
    assert await a.slot_use([], ONE) == use(running=1, waiting=1)


async def test_a_new_job_waits_while_a_slot_is_held(two: list[SharedJobs]) -> None:
    a, b = two
    await changed(a, await abandoned(a, ONE), Cancelled())
    assert (await added(b, ONE)).phase is Phase.QUEUED


async def test_a_new_job_does_not_pass_one_that_waits(two: list[SharedJobs]) -> None:
    a, b = two
    waiting = await queued(a)
    job = await added(b, MANY)
    assert job.phase is Phase.QUEUED
    await claimed(a, waiting)
    assert (await added(b, MANY)).phase is Phase.QUEUED, "the one before it still waits"
    await claimed(b, job)


async def test_a_new_job_waits_if_its_caller_has_all_slots_that_he_may_have(
    two: list[SharedJobs],
) -> None:
    a, b = two
    slots = replace(MANY, per_caller=1)
    assert (await added(a, slots, owner="x", aliases=("alice",))).phase is Phase.GENERATING
    other = await added(a, slots, owner="bob")
    assert other.phase is Phase.GENERATING
    assert (await added(b, slots, owner="y", aliases=("alice",))).phase is Phase.QUEUED


async def test_a_new_job_gets_no_slot_without_a_lease(two: list[SharedJobs]) -> None:
    """§18: another replica would find the job an orphan at once."""
    a, b = two
    await a.leave()
    assert (await added(a, MANY)).phase is Phase.QUEUED
    assert await b.slot_use([], MANY) == use(waiting=1)


async def test_a_new_job_with_a_slot_is_its_callers_turn(two: list[SharedJobs]) -> None:
    """§3.6: another caller is next."""
    a, b = two
    first = await added(a, ONE, owner="alice")
    mine, other = await queued(a, owner="alice"), await queued(b, owner="bob")
    await changed(a, first, Failed(ERROR))
    assert await try_claim(a, mine, ONE) is Turn.NOT_YET
    await claimed(b, other, ONE)


async def test_the_job_of_a_key_is_returned_in_place_of_one_with_a_slot(
    two: list[SharedJobs],
) -> None:
    """§8."""
    a, b = two
    known = await queued(a, key="k")
    job = new_job(key="k", replica=b.replica)
    started = advance(job, Assigned(b.replica), 1)
    assert await b.add_within(job, b"", NO_BOUNDS, started) == known
    assert await b.slot_use([], MANY) == use(waiting=1)


async def test_of_concurrent_new_jobs_as_many_get_a_slot_as_there_are(
    three: list[SharedJobs],
) -> None:
    slots = replace(MANY, total=4)
    jobs = await asyncio.gather(*(added(three[n % 3], slots, n) for n in range(12)))
    assert sum(job.phase is Phase.GENERATING for job in jobs) == 4
    assert await three[0].slot_use([], slots) == use(running=4, waiting=8)


async def test_of_concurrent_claims_as_many_succeed_as_there_are_slots(
    three: list[SharedJobs],
) -> None:
    slots = SlotLimits(total=4, per_caller=0, hold=60)
    jobs = [(store, await queued(store, number)) for number in range(5) for store in three]
    taken = 0
    for _ in range(4):  # those whose turn it is not are called again by the feed
        outcomes = await asyncio.gather(*(try_claim(store, job, slots) for store, job in jobs))
        taken += outcomes.count(Turn.TAKEN)
    assert taken == 4
    assert await three[0].slot_use([], slots) == use(running=4, waiting=11)


@pytest.mark.parametrize(
    "events",
    [
        (Failed(ERROR),),
        (Interrupted(),),
        (Forgotten(),),
        (CancelRequested(), Cancelled()),
    ],
)
async def test_a_slot_is_free_when_its_job_has_no_holder_any_more(
    two: list[SharedJobs], events: tuple[Event, ...]
) -> None:
    a, b = two
    job = await claimed(a, await queued(a), ONE)
    await changed(a, job, *events)
    assert await b.slot_use([], ONE) == use()
    await claimed(b, await queued(b), ONE)


async def test_a_job_that_is_being_cancelled_keeps_its_slot(two: list[SharedJobs]) -> None:
    """§7: until its transfer is closed."""
    a, b = two
    job = await claimed(a, await queued(a), ONE)
    await changed(b, job, CancelRequested())
    assert await b.slot_use([], ONE) == use(running=1)
    assert await try_claim(b, await queued(b), ONE) is Turn.NOT_YET


async def test_the_slot_of_a_removed_job_is_free(two: list[SharedJobs]) -> None:
    a, b = two
    job = await claimed(a, await queued(a), ONE)
    await b.remove(job)
    assert await b.slot_use([], ONE) == use()


async def test_a_slot_goes_with_its_job_to_another_replica(two: list[SharedJobs]) -> None:
    """A replica that takes over a job before its file is opened needs no second slot."""
    a, b = two
    job = await claimed(a, await queued(a), ONE)
    await a.leave()
    await claimed(b, job, ONE)
    assert await b.slot_use([], ONE) == use(running=1)


async def test_callers_take_turns(two: list[SharedJobs]) -> None:
    """Who queues many exports delays nobody else's first one."""
    a, b = two
    first, second = [await queued(a, number, owner="alice") for number in range(2)]
    other = await queued(b, owner="bob")
    running = await claimed(a, first, ONE)
    await changed(a, running, Failed(ERROR))
    assert await try_claim(a, second, ONE) is Turn.NOT_YET
    await claimed(b, other, ONE)


async def test_the_jobs_of_a_caller_start_in_the_order_of_their_arrival(
    two: list[SharedJobs],
) -> None:
    a, b = two
    first, second = await queued(a, 5), await queued(b, 3)
    waits = replace(first, version=first.version + 1, aliases=("more",))
    assert await a.replace(first, waits)  # a change while it waits
    first = waits
    assert await try_claim(b, second, ONE) is Turn.NOT_YET
    await claimed(a, first, ONE)


async def test_a_resumed_job_is_the_last_of_its_caller(two: list[SharedJobs]) -> None:
    a, b = two
    first, second = await queued(a), await queued(b)
    first = await changed(a, first, Interrupted(), Resumed(replica=a.replica))
    assert await try_claim(a, first, ONE) is Turn.NOT_YET
    await claimed(b, second, ONE)


async def test_the_job_whose_turn_it_is_is_on_the_feed(two: list[SharedJobs]) -> None:
    """Its replica may have tried before the slot was free."""
    a, b = two
    changes = a.changes()
    first, second = await queued(a), await queued(b)
    assert await read(changes, 2) == [first.id, second.id]
    assert await try_claim(b, second, ONE) is Turn.NOT_YET
    assert await read(changes, 1) == [first.id]


async def test_jobs_of_replicas_without_a_lease_have_no_turn(two: list[SharedJobs]) -> None:
    a, b = two
    await queued(a)
    await queued(a, replica=None)
    await a.leave()
    await claimed(b, await queued(b), ONE)


async def test_a_caller_has_so_many_slots_at_most(two: list[SharedJobs]) -> None:
    """§3.6 max_running_per_caller, also for a caller who is known by several hashes."""
    a, b = two
    slots = SlotLimits(total=3, per_caller=1, hold=60)
    await claimed(a, await queued(a, owner="identity", aliases=("token",)), slots)
    mine = await queued(b, owner="token")
    assert await try_claim(b, mine, slots) is Turn.NOT_YET
    await claimed(b, await queued(b, owner="bob"), slots)
    assert await try_claim(b, mine, slots) is Turn.NOT_YET
    assert await try_claim(b, mine, replace(slots, per_caller=2)) is Turn.TAKEN


OWNERS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["wait", "wait unaccepted"]), OWNERS),
        st.tuples(st.just("next"), st.none()),
        st.tuples(st.sampled_from(["leave", "abandon", "withdraw"]), st.integers(0, 9)),
    ),
    max_size=40,
)


@pytest.mark.parametrize("make", SHARED.values(), ids=SHARED)
@settings(max_examples=25)
@given(total=st.integers(1, 3), per_caller=st.integers(0, 2), steps=STEPS)
def test_turns_are_those_of_the_queue_of_one_process(
    request: pytest.FixtureRequest,
    make: Callable[[pytest.FixtureRequest], OpenShared],
    total: int,
    per_caller: int,
    steps: list[tuple[str, Any]],
) -> None:
    """§18: fair turns hold over all replicas, as jobs/queue.py has them."""
    limits = SlotLimits(total=total, per_caller=per_caller, hold=3600)
    with asyncio.Runner() as runner:
        runner.run(_follow(make(request), limits, steps))


async def _follow(
    open_shared: OpenShared, limits: SlotLimits, steps: list[tuple[str, Any]]
) -> None:
    queue: Slots[str] = Slots(total=limits.total, per_caller=limits.per_caller)
    async with handles(open_shared, 2) as stores:
        waiting: dict[str, tuple[SharedJobs, Job]] = {}
        running: dict[str, tuple[SharedJobs, Job]] = {}
        for number, (step, argument) in enumerate(steps):
            store = stores[number % 2]
            if step.startswith("wait"):
                owner, *aliases = argument
                accepted = step == "wait"
                job = await queued(store, owner=owner, aliases=tuple(aliases), accepted=accepted)
                queue.wait(job.id, *job.owners, accepted=accepted)
                waiting[job.id] = store, job
            elif step == "next":
                expected = queue.next()
                for store_, job in list(waiting.values())[:: 1 if number % 3 else -1]:
                    outcome = await try_claim(store_, job, limits)
                    assert (outcome is Turn.TAKEN) == (job.id == expected)
                    if outcome is Turn.TAKEN:
                        running[job.id] = store_, advance(job, Assigned(store_.replica), 1)
                        del waiting[job.id]
                        break
            elif step == "withdraw" and waiting:
                ticket = list(waiting)[argument % len(waiting)]
                await changed(*waiting.pop(ticket), Interrupted())
                queue.leave(ticket)
            elif step in {"leave", "abandon"} and running:
                ticket = list(running)[argument % len(running)]
                store, job = running.pop(ticket)
                if step == "leave":
                    await changed(store, job, Failed(ERROR))
                    queue.leave(ticket)
                else:
                    await changed(
                        store, job, Claimed(store.replica), CancelRequested(), Cancelled()
                    )
                    queue.leave(ticket, hold_until=1e12)
        found = await stores[0].slot_use(["a"], limits)
    assert (found.running, found.waiting) == (queue.running, queue.waiting)
    assert found.held_by_caller == queue.held("a")


async def test_the_slot_of_an_abandoned_job_is_held(two: list[SharedJobs]) -> None:
    a, b = two
    job = await abandoned(a, ONE, aliases=("a2",))
    assert await b.slot_use(["alice"], ONE) == use(running=1)  # it counts once
    await changed(a, job, Cancelled())
    assert await b.slot_use(["alice", "a2"], ONE) == use(held=1, mine=1)
    assert await b.slot_use(["bob"], ONE) == use(held=1)
    assert await try_claim(b, await queued(b, owner="bob"), ONE) is Turn.NOT_YET


async def test_a_held_slot_counts_for_its_caller(two: list[SharedJobs]) -> None:
    a, b = two
    slots = SlotLimits(total=3, per_caller=1, hold=60)
    await changed(a, await abandoned(a, slots), Cancelled())
    assert await try_claim(b, await queued(b), slots) is Turn.NOT_YET
    await claimed(b, await queued(b, owner="bob"), slots)


async def test_a_held_slot_outlives_its_record(two: list[SharedJobs]) -> None:
    """§3.5: deletion in a loop cannot multiply VB365's load."""
    a, b = two
    job = await claimed(a, await queued(a), ONE)
    job = await changed(a, job, Claimed(a.replica), Forgotten())
    assert await a.remove(job)
    assert await b.slot_use(["alice"], ONE) == use(held=1, mine=1)


async def test_a_held_slot_is_free_after_its_time(two: list[SharedJobs]) -> None:
    a, b = two
    slots = SlotLimits(total=1, per_caller=0, hold=0.3)
    await changed(a, await abandoned(a, slots), Cancelled())
    job = await queued(b)

    async def is_taken() -> bool:
        return await try_claim(b, job, slots) is Turn.TAKEN

    await eventually(is_taken)
    assert await b.slot_use(["alice"], slots) == use(running=1)

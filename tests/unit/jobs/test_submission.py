"""A kick-off with a free slot is one commit, whatever the store is (CONTRACT §3.6, §18)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from proxy.core.errors import Problem
from proxy.core.events import CancelRequested
from proxy.core.job import Job, Origin, Phase, Status
from proxy.core.timeline import whole
from proxy.core.transitions import advance
from proxy.jobs.export_request import ExportRequest
from proxy.jobs.run import Run, Work
from proxy.ports import StoreUnavailable
from tests.support.fakes import new_job
from tests.support.harness import CALL, LIMITS, FakeWorld
from tests.support.replicas import Node, new_cluster

ONE = replace(LIMITS, max_running=1)


@pytest.fixture
async def world() -> AsyncIterator[FakeWorld]:
    world = FakeWorld(limits=ONE)
    yield world
    await world.runner.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - time has to pass
            await asyncio.sleep(0.001)


def hold(store: Any, *methods: str) -> asyncio.Event:
    """Let the methods of the store wait for the event."""
    released = asyncio.Event()
    store.gates |= dict.fromkeys(methods, released)
    return released


async def submit_rescued(world: FakeWorld) -> tuple[Job, Run]:
    """Submit a rescued export. Return the job as it was before it was stored, and its run."""
    job = replace(new_job(), origin=Origin.RESCUE)
    run = Run(job.id, CALL, rescued=True)
    async with world.runner.admission(job.owner):
        await world.runner.submit(job, b"{}", run)
    return job, run


async def test_a_job_with_a_free_slot_is_stored_once_before_its_request(world: FakeWorld) -> None:
    released = hold(world.jobs, "get", "body", "replace")
    id, run = await world.submit()  # noqa: A001
    job = world.jobs.jobs[id]
    assert (job.phase, job.attempt, job.started) == (Phase.GENERATING, 1, world.clock)
    assert [each.event for each in whole(job)] == ["accepted", "queued", "claimed", "requested"]
    await until(lambda: world.upstream.posts == [0])
    assert not run.queued, "a 401 is the caller's, and no token that expired in the queue"
    released.set()


async def test_14_a_rescued_export_with_a_free_slot_is_stored_once_before_its_request(
    world: FakeWorld,
) -> None:
    released = hold(world.jobs, "get", "body", "replace")
    job, run = await submit_rescued(world)
    assert world.jobs.jobs[job.id].phase is Phase.GENERATING
    await until(lambda: world.upstream.posts == [0])
    assert not run.queued, "a 401 is the client's, and no token that expired in the queue"
    released.set()
    await until(lambda: world.jobs.jobs[job.id].terminal)
    assert world.jobs.jobs[job.id].status is Status.SUCCESS


async def test_its_request_does_not_wait_for_its_file(world: FakeWorld) -> None:
    released = hold(world.artifacts, "create")
    id, _ = await world.submit()  # noqa: A001
    await until(lambda: world.upstream.posts == [0])
    released.set()
    await until(lambda: world.jobs.jobs[id].terminal)
    assert world.jobs.jobs[id].status is Status.SUCCESS
    assert world.upstream.posts == [0]


async def test_a_job_without_a_free_slot_is_stored_queued_and_starts_later(
    world: FakeWorld,
) -> None:
    world.upstream.gate.clear()
    await world.submit()
    second, run = await world.submit()
    assert world.jobs.jobs[second].phase is Phase.QUEUED
    assert run.queued
    world.upstream.gate.set()
    await until(lambda: world.jobs.jobs[second].terminal)
    assert world.jobs.jobs[second].status is Status.SUCCESS


async def test_14_the_body_of_an_export_that_waits_is_not_in_memory(world: FakeWorld) -> None:
    """§3.1: the store has it."""
    world.upstream.gate.clear()
    await world.submit()
    job, run = await submit_rescued(world)
    assert run.queued
    assert run.body is None
    world.upstream.gate.set()
    await until(lambda: world.jobs.jobs[job.id].terminal)
    assert world.jobs.jobs[job.id].status is Status.SUCCESS


async def test_a_job_that_cannot_be_stored_gives_its_slot_back(world: FakeWorld) -> None:
    world.jobs.faults["add"].append(StoreUnavailable("disk full"))
    with pytest.raises(StoreUnavailable):
        await world.submit()
    await until(lambda: world.runner.running == 0)
    id, _ = await world.submit()  # noqa: A001
    assert world.jobs.jobs[id].phase is not Phase.QUEUED


async def test_the_duplicate_of_a_job_takes_no_slot(world: FakeWorld) -> None:
    """§8."""
    world.runner._admission._limits = replace(ONE, max_running=2)
    first, _ = await world.submit("k")
    await until(lambda: world.jobs.jobs[first].terminal)
    again, _ = await world.submit("k")
    assert again == first
    assert world.runner.running == 0


async def test_a_job_that_is_cancelled_before_its_first_step_is_not_requested(
    world: FakeWorld,
) -> None:
    """§7."""
    queue = world.runner._queue
    begin = queue.begin

    def cancelled(run: Run) -> None:
        begin(run)
        job = world.jobs.jobs[run.id]
        world.jobs.jobs[run.id] = advance(job, CancelRequested(), world.clock)
        run.wake()

    queue.begin = cancelled  # type: ignore[method-assign]
    id, _ = await world.submit()  # noqa: A001
    await until(lambda: world.jobs.jobs[id].terminal)
    assert world.jobs.jobs[id].status is Status.CANCELLED
    assert world.upstream.posts == []


async def test_a_job_of_a_replica_is_stored_once_before_its_request() -> None:
    """§18: no claim follows, and the store is asked for nothing before."""
    async with new_cluster(limits=ONE) as cluster:
        a, _ = cluster.nodes
        released = hold(a.store, "claim", "replace", "slot_use", "counts", "body")
        id, _ = await a.submit()  # noqa: A001
        job = cluster.store.jobs[id]
        assert (job.phase, job.holder, job.fence) == (Phase.GENERATING, a.store.replica, 1)
        await cluster.until(lambda: a.upstream.posts == [0])
        released.set()
        await cluster.phase(id, Phase.COMPLETED)
        cluster.assert_done(id)


async def submit_unconfirmed(node: Node, key: str | None = None, *, attended: bool = True) -> str:
    """Submit a job that the store adds without confirming it. Return its id."""
    add, added = node.store.add_within, []

    async def unconfirmed(*args: Any) -> Job | None:
        added.append(await add(*args))
        node.store.add_within = add  # type: ignore[method-assign]
        raise StoreUnavailable("cut off")

    node.store.add_within = unconfirmed  # type: ignore[assignment,method-assign]
    with pytest.raises(StoreUnavailable):
        await node.submit(key, attended=attended)
    (job,) = added
    assert job is not None
    return job.id


@pytest.mark.parametrize("with_slot", [True, False])
async def test_a_job_that_the_store_has_without_confirming_it_runs_once(with_slot: bool) -> None:
    """§18: the caller gets 503, and a retry with the same key finds the job."""
    async with new_cluster(limits=ONE) as cluster:
        a, b = cluster.nodes
        if not with_slot:
            b.upstream.gate.clear()
            await b.submit()
        id = await submit_unconfirmed(a, "k")  # noqa: A001
        assert (await b.submit("k"))[0] == id
        b.upstream.gate.set()
        job = await cluster.phase(id, Phase.COMPLETED)
        assert (job.status, job.fence, a.upstream.posts) == (Status.SUCCESS, 1, [0])
        await cluster.until(lambda: a.runner.running == a.runner.queued == 0)


@pytest.mark.parametrize("with_slot", [True, False])
async def test_without_a_key_it_is_removed_before_it_runs(with_slot: bool) -> None:
    """§18: the caller gets 503, and a retry would be a second generation."""
    async with new_cluster(limits=ONE) as cluster:
        a, b = cluster.nodes
        if not with_slot:
            b.upstream.gate.clear()
            await b.submit()
        id = await submit_unconfirmed(a)  # noqa: A001
        await cluster.until(lambda: id not in cluster.store.jobs)
        await cluster.until(lambda: a.runner.running == a.runner.queued == 0)
        assert a.upstream.posts == []
        b.upstream.gate.set()
        retry, _ = await a.submit()
        await cluster.phase(retry, Phase.COMPLETED)
        assert a.upstream.posts == [0]


@pytest.mark.parametrize("attended", [True, False])
async def test_a_job_that_another_replica_has_shown_meanwhile_is_kept(attended: bool) -> None:
    """§3.7: a job that a caller has seen is never dropped, also without a grace period."""
    async with new_cluster() as cluster:
        a, b = cluster.nodes
        removable = hold(a.store, "remove")
        id = await submit_unconfirmed(a, attended=attended)  # noqa: A001
        assert await b.runner.show(cluster.store.jobs[id])
        removable.set()
        job = await cluster.phase(id, Phase.COMPLETED)
        assert (job.status, a.upstream.posts) == (Status.SUCCESS, [0])
        assert a.runner.may_show(id)


async def test_a_refusal_by_the_store_names_the_numbers() -> None:
    """§3.5: the store alone is asked first."""
    limits = replace(LIMITS, max_per_caller=1)
    async with new_cluster(limits=limits) as cluster:
        a, b = cluster.nodes
        a.upstream.gate.clear()
        await a.submit()
        with pytest.raises(Problem) as failure:
            await b.submit()
        assert "You already have 1 unfinished export " in failure.value.detail
        a.upstream.gate.set()


async def test_a_claim_before_the_file_is_open_is_no_failed_attempt(world: FakeWorld) -> None:
    """§14: with `exports.attempts` = 1, too."""
    transfers = world.runner._driver._transfers
    once = replace(transfers, policy=replace(transfers.policy, attempts=1))
    world.runner._driver._transfers = once
    opened = hold(world.artifacts, "create")
    job, _ = await submit_rescued(world)
    await until(lambda: world.jobs.jobs[job.id].attempt == 1)
    opened.set()
    await until(lambda: world.jobs.jobs[job.id].terminal)
    assert world.jobs.jobs[job.id].status is Status.SUCCESS


async def test_a_job_that_is_stored_with_a_slot_takes_no_place_in_the_queue() -> None:
    """§3.5: with one slot and one place in the queue there is space for two, at any moment."""
    world = FakeWorld(limits=replace(ONE, max_queued=1))
    world.upstream.gate.clear()
    released = hold(world.jobs, "add")
    first = asyncio.create_task(world.submit())
    await until(lambda: world.runner.running == 1)
    second = asyncio.create_task(world.submit())
    await until(lambda: len(released._waiters) == 2)
    with pytest.raises(Problem):
        await world.submit()
    released.set()
    await asyncio.gather(first, second)
    assert sorted(job.phase for job in world.jobs.jobs.values()) == ["Generating", "Queued"]
    world.upstream.gate.set()
    await world.quiet()
    await world.runner.stop()


async def test_a_job_does_not_count_twice_while_it_is_stored(monkeypatch: Any) -> None:
    """§3.5: the store has it a moment before its kick-off continues; another one is not refused,
    however long the moment is.
    """
    two = replace(LIMITS, max_per_caller=2, max_records=2, max_records_per_caller=2)
    world = FakeWorld(limits=two)
    world.upstream.gate.clear()
    add, visible, released = world.jobs.add, asyncio.Event(), asyncio.Event()

    async def add_visibly(job: Job, body: bytes) -> Job:
        stored: Job = await add(job, body)
        if not visible.is_set():
            visible.set()
            await released.wait()
        return stored

    monkeypatch.setattr(world.jobs, "add", add_visibly)
    first = asyncio.create_task(world.submit())
    await visible.wait()
    await world.submit()
    with pytest.raises(Problem):
        await world.submit()
    released.set()
    await first
    with pytest.raises(Problem):
        await world.submit()
    world.upstream.gate.set()
    await world.quiet()
    await world.runner.stop()


async def test_a_later_kickoff_that_is_stored_first_does_not_hide_an_earlier_one() -> None:
    """§3.5: the earlier one still counts when the later one has ended, whatever their sizes."""
    world = FakeWorld(limits=replace(LIMITS, max_per_caller=2))
    world.upstream.gate.clear()
    stored, earlier_may, later_may = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def kick_off(body: bytes, go: asyncio.Event) -> None:
        job = new_job()
        async with world.runner.admission(*job.owners, accepted=job.accepted, size=len(body)):
            await go.wait()
            await world.runner.submit(job, body, Run(job.id, CALL))
        stored.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(kick_off(b"{}", earlier_may))
        group.create_task(kick_off(b'{"more": 1}', later_may))
        await asyncio.sleep(0)
        later_may.set()
        await stored.wait()
        with pytest.raises(Problem, match="2 unfinished exports"):
            await kick_off(b"", later_may)
        earlier_may.set()
    world.upstream.gate.set()
    await world.quiet()
    await world.runner.stop()


async def test_waiting_jobs_are_not_counted_while_they_are_few(world: FakeWorld) -> None:
    """§3.5: a kick-off does not look at each of them."""
    admission = world.runner._admission
    admission._limits = replace(ONE, max_queued=8)
    counted: list[int] = []
    count = admission._unaccepted

    def unaccepted() -> Sequence[int]:
        found = count()
        counted.append(len(found))
        return found

    admission._unaccepted = unaccepted
    world.upstream.gate.clear()
    for _ in range(3):
        async with world.runner.admission("o", accepted=False):
            await world.submit()
    assert counted == []
    async with world.runner.admission("o", accepted=False):
        assert counted == [0], "those of accepted callers wait"
    world.upstream.gate.set()


async def test_a_request_sent_early_ends_with_a_run_that_is_cancelled_twice(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§7, §15: by its caller, and by a proxy that stops meanwhile."""
    requests: list[ExportRequest] = []
    begin = ExportRequest.begin_early

    def begun(self: ExportRequest) -> bool:
        requests.append(self)
        return begin(self)

    monkeypatch.setattr(ExportRequest, "begin_early", begun)
    world.upstream.gate.clear()
    id, run = await world.submit()  # noqa: A001
    await until(lambda: world.upstream.posts == [0])
    early = requests[0]._early
    assert early is not None
    released = hold(world.artifacts, "keep")
    await world.cancel(id)
    assert run.work is Work.SETTLING
    await until(lambda: bool(released._waiters))
    stopping = asyncio.create_task(world.runner.stop())
    await until(early.done)
    assert early.cancelled()
    released.set()
    await stopping

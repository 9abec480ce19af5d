"""Whose turn it is where replicas share the queue (CONTRACT §3.6, §18)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from proxy.core.job import Job, Phase
from proxy.jobs import runner
from proxy.jobs.run import Run
from proxy.jobs.shared_queue import SharedQueue
from proxy.ports import SharedJobs, SlotLimits, SlotUse, StoreUnavailable, Turn
from tests.support.fakes import new_job
from tests.support.harness import LIMITS
from tests.support.replicas import Valve, new_cluster

ONE = replace(LIMITS, max_running=1)


async def test_a_job_starts_that_is_first_at_the_store_and_not_here() -> None:
    """The caller's other job has the turn of an earlier start, which both belong to."""
    async with new_cluster(count=1, limits=ONE) as cluster:
        [node] = cluster.nodes
        node.upstream.gate = Valve(0)
        busy, _ = await node.submit(owner="busy")
        await cluster.phase(busy, Phase.GENERATING)
        cluster.store.started.append((("identity",), True))
        second, _ = await node.submit(owner="identity", aliases=("token",))
        first, _ = await node.submit(owner="token")
        node.upstream.gate.set()
        await cluster.phase(first, Phase.COMPLETED)
        await cluster.phase(second, Phase.COMPLETED)


async def test_jobs_start_that_are_stored_in_another_order_than_they_queue_here() -> None:
    """Concurrent kick-offs of one caller: their tasks go on in any order."""
    async with new_cluster(count=1, limits=ONE) as cluster:
        [node] = cluster.nodes
        node.upstream.gate = Valve(0)
        busy, _ = await node.submit(owner="busy")
        await cluster.phase(busy, Phase.GENERATING)
        jobs = [(await node.submit(owner="caller"))[0] for _ in range(3)]
        cluster.store.queued.reverse()
        node.upstream.gate.set()
        for job in jobs:
            await cluster.phase(job, Phase.COMPLETED)


async def test_18_a_job_starts_whose_claim_of_the_last_slot_was_not_confirmed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing else could start before it: for the store it runs."""
    monkeypatch.setattr(runner, "_TICK", 0.01)
    async with new_cluster(count=1, limits=ONE) as cluster:
        [node] = cluster.nodes
        node.upstream.gate = Valve(0)
        busy, _ = await node.submit(owner="busy")
        await cluster.phase(busy, Phase.GENERATING)
        waiting = [(await node.submit())[0] for _ in range(2)]
        claim, slot_use, away = node.store.claim, node.store.slot_use, asyncio.Event()

        async def lost(*args: Any) -> Turn:
            """The first reply that a slot was taken is lost, and then all replies for a moment."""
            if away.is_set() or await claim(*args) is Turn.TAKEN:
                away.set()
                raise StoreUnavailable("no reply")
            return Turn.NOT_YET

        async def back(*args: Any) -> SlotUse:
            if away.is_set():
                monkeypatch.setattr(node.store, "claim", claim)
            return await slot_use(*args)

        monkeypatch.setattr(node.store, "claim", lost)
        monkeypatch.setattr(node.store, "slot_use", back)
        node.upstream.gate.set()
        for job in waiting:
            await cluster.phase(job, Phase.COMPLETED)


async def test_18_a_job_starts_whose_claim_of_the_last_slot_was_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The request reached the store when the claim had failed, and its repetition too."""
    monkeypatch.setattr(runner, "_TICK", 0.01)
    async with new_cluster(count=1, limits=ONE) as cluster:
        [node] = cluster.nodes
        node.upstream.gate = Valve(0)
        busy, _ = await node.submit(owner="busy")
        await cluster.phase(busy, Phase.GENERATING)
        claim = node.store.claim
        calls: list[Any] = []

        async def late(*args: Any) -> Turn:
            """The first request is on its way, and the others come before a slot is free."""
            calls.append(args)
            if len(calls) == 1:
                raise StoreUnavailable("no reply")
            return Turn.NOT_YET

        monkeypatch.setattr(node.store, "claim", late)
        waiting, _ = await node.submit()
        await cluster.until(lambda: len(calls) > 1)
        node.upstream.gate.set()
        await cluster.phase(busy, Phase.COMPLETED)
        monkeypatch.setattr(node.store, "claim", claim)
        monkeypatch.setattr(node.runner._queue, "_called", {})
        assert await claim(*calls[0]) is Turn.TAKEN
        await cluster.phase(waiting, Phase.COMPLETED)


class Claims:
    """A shared store that grants the claims of the jobs in `free`, once `open` is set. While it is
    `away`, they fail then.
    """

    replica = "here"

    def __init__(self) -> None:
        self.free: set[str] = set()
        self.open = asyncio.Event()
        self.open.set()
        self.away = False
        self.claimed: list[str] = []

    async def slot_use(self, owners: Sequence[str], limits: SlotLimits) -> SlotUse:
        return SlotUse(running=0, waiting=1, held=0, held_by_caller=0)

    async def claim(self, old: Job, new: Job, limits: SlotLimits) -> Turn:
        self.claimed.append(old.id)
        await self.open.wait()
        if self.away:
            raise StoreUnavailable("away")
        return Turn.TAKEN if old.id in self.free else Turn.NOT_YET


def queue_of(store: Claims, started: list[Run]) -> SharedQueue:
    async def wake(id: str) -> None:
        """No job of these tests ends."""

    limits = SlotLimits(total=1, per_caller=0, hold=0.0)
    return SharedQueue(
        cast("SharedJobs", store), limits, start=started.append, wake=wake, now=lambda: 1.0
    )


async def test_a_slot_that_becomes_free_during_a_claim_is_given_afterwards() -> None:
    """§3.6: kick-offs that go on arriving claim all the time."""
    store, started = Claims(), list[Run]()
    queue = queue_of(store, started)
    first, second = Run("1", []), Run("2", [])
    await queue.join(first, new_job(1, id="1"))
    store.open.clear()
    joining = asyncio.create_task(queue.join(second, new_job(2, id="2", owner="bob")))
    await asyncio.sleep(0)
    store.free.add("1")
    filling = asyncio.create_task(queue.fill())
    await asyncio.sleep(0)
    store.open.set()
    await asyncio.gather(joining, filling)
    assert started == [first]


async def test_of_callers_that_vb365_never_accepted_one_run_is_tried() -> None:
    """§3.6: they have one turn together, and each claim is a call of the store."""
    store = Claims()
    queue = queue_of(store, [])
    for number in range(9):
        accepted = number == 8
        job = new_job(number, id=str(number), owner=f"owner {number}", accepted=accepted)
        await queue.join(Run(job.id, []), job)
    store.claimed.clear()
    await queue.fill()
    assert store.claimed == ["0", "8"]


async def test_18_kick_offs_do_not_wait_for_the_failing_claims_of_others() -> None:
    """§3: they are stored and get 202. Each claim takes as long as the store may."""
    store, started = Claims(), list[Run]()
    queue = queue_of(store, started)
    store.away = True
    store.open.clear()
    runs = [Run(str(number), []) for number in range(5)]
    joining = asyncio.gather(*(queue.join(run, new_job(1, id=run.id)) for run in runs))
    await asyncio.sleep(0)
    store.open.set()
    await joining
    assert store.claimed == ["0"]
    store.away, store.free = False, {run.id for run in runs}
    await queue.fill()
    assert started == runs

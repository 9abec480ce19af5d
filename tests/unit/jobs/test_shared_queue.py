"""Whose turn it is where replicas share the queue (CONTRACT §3.6, §18)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from proxy.core.job import Phase
from proxy.jobs import runner
from proxy.ports import SlotUse, StoreUnavailable, Turn
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

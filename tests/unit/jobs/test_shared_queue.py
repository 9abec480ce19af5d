"""Whose turn it is where replicas share the queue (CONTRACT §3.6, §18)."""

from __future__ import annotations

from dataclasses import replace

from proxy.core.job import Phase
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
        cluster.store.started.append(("identity",))
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

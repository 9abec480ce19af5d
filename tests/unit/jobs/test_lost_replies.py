"""A store that makes a change and fails to confirm it: every reply of an export is lost in turn,
also while something else changes the job.
"""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from proxy.core.events import Joined
from proxy.core.job import Phase, Status
from proxy.jobs import runner
from proxy.jobs.record import advance_for_caller
from proxy.ports import StoreUnavailable
from tests.support.replicas import Cluster, Node, Process, Valve, new_cluster

pytestmark = pytest.mark.usefixtures("fast_ticks")


@pytest.fixture
def fast_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_TICK", 0.01)


class Losing(Process):
    """Loses the reply with the number `lose` to a change or a look at the job with the `owner`."""

    def __init__(self, cluster: Cluster, lose: int, *, busy: bool) -> None:
        super().__init__()
        self.lost = False
        self._cluster = cluster
        self._lose = lose
        self._busy = busy
        self._replies = 0

    async def __call__(self, name: str) -> None:
        await super().__call__(name)
        calls = ("add_within", "claim", "get", "replace", "remove", "body")
        if not name.startswith("after jobs.") or not name.endswith(calls):
            return
        self._replies += 1
        if self._replies == self._lose:
            self.lost = True
            if self._busy:
                await self._join()
            raise StoreUnavailable("no reply")

    async def _join(self) -> None:
        """A request that joins the job, at another replica."""
        other = self._cluster.store.handle()
        for job in [job for job in other.jobs.values() if not job.terminal]:
            await advance_for_caller(other, job.id, Joined(1), self._cluster.now)


async def until_quiet(node: Node) -> None:
    async with asyncio.timeout(20):
        while node.runner._runs:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("busy", [False, True], ids=["alone", "while it is joined"])
@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a wait"])
async def test_18_a_lost_reply_fails_no_export(*, busy: bool, waits: bool) -> None:
    for number in count(1):
        async with new_cluster(count=1) as cluster:
            [node] = cluster.nodes
            if waits:
                node.upstream.gate = Valve(0)
                others = [(await node.submit(owner=each))[0] for each in ("a", "b")]
                for other in others:
                    await cluster.phase(other, Phase.GENERATING)
            losing = Losing(cluster, number, busy=busy)
            node.jobs._step = losing
            try:
                job, _ = await node.submit("key")
            except StoreUnavailable:  # the retry gets the job
                job = next((job.id for job in cluster.store.jobs.values() if job.owner == "o"), "")
            node.upstream.gate.set()
            await until_quiet(node)
            if job:
                cluster.assert_done(job)
            assert cluster.store.use((), node.runner._admission._limits.slots).running == 0
            if not losing.lost:
                return


@pytest.mark.parametrize("busy", [False, True], ids=["alone", "while it is joined"])
async def test_3_a_lost_reply_loses_no_rejection_and_no_job(*, busy: bool) -> None:
    """The kick-off gets VB365's response, or 202 for a job that exists."""
    for number in count(1):
        async with new_cluster(count=1) as cluster:
            [node] = cluster.nodes
            losing = Losing(cluster, number, busy=busy)
            node.jobs._step = losing
            node.upstream.plan.append("500")
            try:
                job, run = await node.submit("key", attended=True)
            except StoreUnavailable:
                await until_quiet(node)
                continue
            response = await run.attendance.first_response(20)
            await until_quiet(node)
            assert (response is None) == (job in cluster.store.jobs), number
            if response is None:
                assert cluster.store.jobs[job].status is Status.FAILED
            if not losing.lost:
                return

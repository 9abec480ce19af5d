"""Which deliveries of a rescued file end its rescue (CONTRACT §14)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest
from structlog.testing import capture_logs

from proxy.core.events import Delivered
from proxy.core.job import Job, Origin, Phase, ResultState, Status
from proxy.ports import StoreUnavailable
from proxy.ports.counts import FileCounts
from proxy.rescue.deliveries import RescueDeliveries
from tests.support.fakes import MemoryJobs, new_job


class Scene:
    """A job whose file is finished, and the deliveries of it."""

    def __init__(self) -> None:
        self.jobs = MemoryJobs()
        self.tasks: list[asyncio.Task[None]] = []
        self.noted: list[Delivered] = []
        self.deliveries = RescueDeliveries(
            self.jobs,
            spawn=self.spawn,
            note=lambda _, delivered: self.noted.append(delivered),
            counts=FileCounts(),
            now=lambda: 2.0,
        )

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    async def finished(self) -> Job:
        job = new_job(
            origin=Origin.RESCUE,
            status=Status.SUCCESS,
            phase=Phase.COMPLETED,
            result=ResultState.AVAILABLE,
            ended=1.0,
        )
        return await self.jobs.add(job, b"{}")

    def delivered(self, job: Job, *, whole: bool = True) -> None:
        delivery = self.deliveries.begin(job.id, 200, whole=whole)
        delivery.sent = 10
        delivery.ended(True)


async def test_14_two_whole_deliveries_at_the_same_moment_end_the_rescue_once() -> None:
    scene = Scene()
    job = await scene.finished()
    scene.delivered(job)
    scene.delivered(job)
    assert await scene.deliveries.detached(job.id)
    assert scene.jobs.jobs[job.id].detached
    await asyncio.gather(*scene.tasks)
    assert not await scene.deliveries.detached(job.id)
    delivery = scene.jobs.jobs[job.id].delivery
    assert (delivery.sent, delivery.count, delivery.whole) == (20, 2, True)


async def test_14_the_next_request_waits_for_all_of_them() -> None:
    """The store was away for one of the two: it is recorded later."""
    scene = Scene()
    job = await scene.finished()
    gate = scene.jobs.gates["replace"] = asyncio.Event()
    scene.jobs.faults["get"].append(StoreUnavailable("away"))
    scene.delivered(job)
    scene.delivered(job)
    await asyncio.sleep(0)
    asking = asyncio.create_task(scene.deliveries.detached(job.id))
    await asyncio.sleep(0)
    assert not asking.done()
    gate.set()
    assert await asking
    assert scene.jobs.jobs[job.id].detached
    await asyncio.gather(*scene.tasks)


async def test_14_a_part_does_not_end_the_rescue() -> None:
    scene = Scene()
    job = await scene.finished()
    scene.delivered(job, whole=False)
    assert not await scene.deliveries.detached(job.id)
    assert not scene.jobs.jobs[job.id].detached
    assert scene.noted == [Delivered(sent=10, whole=False)]


@pytest.mark.parametrize("method", ["get", "replace"])
async def test_14_a_delivery_is_recorded_once_the_store_is_back(method: str) -> None:
    """§14: otherwise the same request gets the file again, and not a new export."""
    scene = Scene()
    job = await scene.finished()
    scene.jobs.faults[method].extend([StoreUnavailable("away")] * 3)
    with capture_logs():
        scene.delivered(job)
        assert await scene.deliveries.detached(job.id)
        await asyncio.gather(*scene.tasks)
    job = scene.jobs.jobs[job.id]
    assert job.detached
    assert (job.delivery.sent, job.delivery.count, job.delivery.whole) == (10, 1, True)


async def test_14_a_request_does_not_wait_for_a_store_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is relayed: `StoreUnavailable` says so."""
    monkeypatch.setattr("proxy.rescue.deliveries._PATIENCE", 0.05)
    scene = Scene()
    job = await scene.finished()
    gate = scene.jobs.gates["get"] = asyncio.Event()
    scene.delivered(job)
    with pytest.raises(StoreUnavailable):
        await scene.deliveries.detached(job.id)
    gate.set()
    await asyncio.gather(*scene.tasks)
    assert scene.jobs.jobs[job.id].detached

"""A run whose kick-off waits for the first response: the wait always ends (CONTRACT §3.7, §3.9)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.core.job import Job, Status
from proxy.jobs.run import Run
from proxy.ports import StoreUnavailable, WholeResponse
from tests.support.harness import CALL, new_world


async def until_decided(run: Run) -> None:
    while run.attendance.verdict is None:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_a_record_that_cannot_be_removed_in_time_does_not_delay_the_response(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """§3.7: every wait for the first response is bounded, and the response is passed on."""
    monkeypatch.setattr("proxy.jobs.attendance._REMOVAL_PATIENCE", 0.01)
    async with new_world() as world:
        world.upstream.plan.append("500")
        world.jobs.gates["remove"] = asyncio.Event()
        _, run = await world.submit(attended=True)
        await until_decided(run)
        response = await asyncio.wait_for(run.attendance.first_response(0.01), 10)
        assert isinstance(response, WholeResponse)
        assert response.status == 500
        world.jobs.gates["remove"].set()
        await world.quiet()
        assert run.attendance.first.result() is response
        assert await world.jobs.list() == []


async def test_a_record_that_cannot_be_removed_now_is_removed_later() -> None:
    async with new_world() as world:
        world.upstream.plan.append("500")
        world.jobs.faults["remove"].append(StoreUnavailable("away"))
        _, run = await world.submit(attended=True)
        response = await run.attendance.first_response(10)
        assert isinstance(response, WholeResponse)
        assert response.status == 500
        with capture_logs():
            await world.quiet()
        assert await world.jobs.list() == []


async def test_a_job_that_was_shown_is_not_dropped() -> None:
    """§3.7: a job that is shown during the decision is dropped."""
    async with new_world() as world:
        world.upstream.plan.extend(["500", "500"])
        world.upstream.gate.clear()
        shown, run = await world.submit(attended=True)
        hidden, other = await world.submit(attended=True)
        assert world.runner.may_show(shown)
        assert await asyncio.wait_for(run.attendance.first_response(60), 10) is None
        world.jobs.gates["remove"] = asyncio.Event()
        world.upstream.gate.set()
        await until_decided(other)
        assert not world.runner.may_show(hidden)
        world.jobs.gates["remove"].set()
        with capture_logs():
            await world.quiet()
        assert not world.runner.may_show(hidden)
        assert [job.id for job in await world.jobs.list()] == [shown]


async def test_no_client_waits_longer_than_the_grace_period() -> None:
    run = Run("x", CALL, attended=True)
    waits = [
        asyncio.create_task(run.attendance.first_response(seconds)) for seconds in (0.01, 60, 60)
    ]
    async with asyncio.timeout(10):
        assert await asyncio.gather(*waits) == [None, None, None]
    assert not run.attendance.waiting


def add_without_confirming(world: Any) -> None:
    original = world.jobs.add

    async def unconfirmed(*args: Any) -> Job:
        await original(*args)
        raise StoreUnavailable("no answer")

    world.jobs.add = unconfirmed


async def test_a_job_with_a_key_that_the_store_added_without_confirming_it_ends() -> None:
    """§8: the caller got 503, and a retry gets this job. It must not stay Queued forever."""
    async with new_world() as world:
        add_without_confirming(world)
        with pytest.raises(StoreUnavailable):
            await world.submit("k")
        await world.quiet()
        assert [job.status for job in await world.jobs.list()] == [Status.SUCCESS]


@pytest.mark.parametrize("attended", [True, False])
async def test_a_job_without_a_key_that_the_store_added_without_confirming_it_is_removed(
    attended: bool,
) -> None:
    """The caller got 503, and a retry is another export. Until then no list shows the job."""
    async with new_world() as world:
        add_without_confirming(world)
        world.jobs.gates["remove"] = asyncio.Event()
        with pytest.raises(StoreUnavailable):
            await world.submit(attended=attended)
        (job,) = await world.jobs.list()
        assert not world.runner.may_show(job.id)
        world.jobs.gates["remove"].set()
        await world.quiet()
        assert not world.runner.may_show(job.id), "in a list that was read before"
        assert await world.jobs.list() == []
        assert world.upstream.posts == []
        assert world.runner.running == 0


async def test_a_job_that_the_store_did_not_add_is_not_run() -> None:
    async with new_world() as world:
        world.jobs.faults["add"].append(StoreUnavailable("away"))
        with pytest.raises(StoreUnavailable):
            await world.submit()
        await world.quiet()
        assert await world.jobs.list() == []
        assert world.upstream.posts == []


async def test_a_run_is_removed_if_its_job_is_not_stored() -> None:
    """Neither a duplicate of another job nor a failure of the store leaves a run behind."""
    async with new_world() as world:
        world.upstream.gate.clear()
        first, _ = await world.submit("k", attended=True)
        same, run = await world.submit("k", attended=True)
        assert (same, world.runner.attended(run.id), run.attendance.waiting) == (first, None, True)
        world.jobs.faults["add"].append(ValueError("a defect"))
        with pytest.raises(ValueError, match="a defect"):
            await world.submit()
        assert set(world.runner._runs) == {first}
        world.upstream.gate.set()
        await world.quiet()


async def test_the_repr_of_a_run_shows_its_state() -> None:
    async with new_world() as world:
        world.upstream.plan.append("500")
        world.upstream.gate.clear()
        world.jobs.gates["remove"] = asyncio.Event()
        job_id, run = await world.submit(attended=True)
        assert repr(Run("x", CALL)) == "<Run x queued ended>"
        while not world.upstream.posts:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert repr(run) == f"<Run {job_id} driving waiting posting>"
        world.upstream.gate.set()
        await until_decided(run)
        assert repr(run) == f"<Run {job_id} settling dropping>"
        world.jobs.gates["remove"].set()
        with capture_logs():
            await world.quiet()
        assert repr(run) == f"<Run {job_id} settling dropped>"

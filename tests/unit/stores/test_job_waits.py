"""Every `JobStore` wakes those who wait for a change of a job (CONTRACT §4)."""

from __future__ import annotations

import asyncio

import pytest

from proxy.ports import JobStore
from tests.support.fakes import new_job
from tests.unit.stores.records import bumped


async def test_wait_returns_at_once_when_the_version_differs(jobs: JobStore) -> None:
    """§4 long-poll."""
    job = await jobs.add(new_job(), b"")
    async with asyncio.timeout(5):
        assert await jobs.wait(job.id, job.version - 1, 60) == job
        assert await jobs.wait(new_job().id, 1, 60) is None


async def test_wait_returns_when_the_job_changes(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"")
    other = await jobs.add(new_job(), b"")
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = [group.create_task(jobs.wait(job.id, 1, 60)) for _ in range(20)]
        await asyncio.sleep(0)
        await jobs.replace(other, bumped(other))
        assert not any(task.done() for task in waiting)
        await jobs.replace(job, bumped(job))
    assert {task.result() for task in waiting} == {bumped(job)}


async def test_wait_returns_none_when_the_job_is_removed(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"")
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = group.create_task(jobs.wait(job.id, 1, 60))
        await asyncio.sleep(0)
        await jobs.remove(job)
    assert waiting.result() is None


@pytest.mark.parametrize("timeout", [0.01, 0, -1])
async def test_wait_returns_the_unchanged_job_after_its_time(
    jobs: JobStore, timeout: float
) -> None:
    job = await jobs.add(new_job(), b"")
    async with asyncio.timeout(5):
        assert await jobs.wait(job.id, 1, timeout) == job


async def test_a_cancelled_wait_does_not_affect_others(jobs: JobStore) -> None:
    job = await jobs.add(new_job(), b"")
    leaves = asyncio.create_task(jobs.wait(job.id, 1, 60))
    stays = asyncio.create_task(jobs.wait(job.id, 1, 60))
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.wait([leaves])
    assert leaves.cancelled()
    await jobs.replace(job, bumped(job))
    async with asyncio.timeout(5):
        assert await stays == bumped(job)

"""Sweeps: of jobs of unknown callers (CONTRACT §3.5), and where a record is lost (§18)."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from proxy.core.job import Job, Phase
from proxy.jobs import sweeper
from proxy.ports import StoreUnavailable
from tests.support.harness import FakeWorld, new_world


async def test_a_job_whose_record_is_lost_is_rebuilt_from_its_file() -> None:
    """Without a start. The client sees the same document again."""
    async with new_world() as world:
        job, _ = await world.submit()
        await world.quiet()
        known = world.jobs.jobs.pop(job)
        await world.sweep()
        assert world.jobs.jobs[job] == known
        await world.sweep()
        assert await world.artifacts.get(job) is not None


async def test_a_record_that_cannot_be_swept_does_not_keep_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with new_world() as world:
        bad, good = [(await world.submit())[0] for _ in range(2)]
        await world.quiet()
        await world.delete(good)
        await world.quiet()
        remove = world.artifacts.remove

        async def fails(id: str) -> None:
            if id == bad:
                raise ValueError(id)
            await remove(id)

        monkeypatch.setattr(world.artifacts, "remove", fails)
        world.clock += 25 * 3600
        with capture_logs() as logs:
            await world.sweep()
        assert list(world.jobs.jobs) == [bad]
        assert {(each["event"], each["job"]) for each in logs if each["log_level"] == "error"} == {
            ("not swept", bad)
        }


@pytest.mark.parametrize("fails", ["hangs", "is away"])
async def test_records_expire_while_files_cannot_be_listed(
    monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    async with new_world() as world:
        job, _ = await world.submit()
        await world.quiet()
        await world.delete(job)
        await world.quiet()

        async def ids() -> set[str]:
            if fails == "is away":
                raise StoreUnavailable(fails)
            await asyncio.Event().wait()
            return set()

        monkeypatch.setattr(world.artifacts, "ids", ids)
        monkeypatch.setattr(sweeper, "_LISTING", 0.01)
        world.clock += 25 * 3600
        with capture_logs() as logs:
            async with asyncio.timeout(20):
                await world.sweep()
        assert list(world.jobs.jobs) == []
        assert [each["event"] for each in logs] == ["files not swept"]


async def suspended(world: FakeWorld) -> Job:
    """Submit a job that waits for a slot, and then gets 401."""
    world.upstream.gate.clear()
    world.upstream.plan.extend(["ok", "ok", "401"])
    ids = [(await world.submit())[0] for _ in range(3)]
    world.upstream.gate.set()
    await world.quiet()
    job: Job = await world.jobs.get(ids[2])
    assert job.phase is Phase.SUSPENDED
    return job


async def test_a_suspended_job_of_an_unknown_caller_ends_with_its_body_after_ten_minutes() -> None:
    """§3.5: however long `suspend_ttl` is."""
    with capture_logs():
        async with new_world() as world:
            world.sweeper._suspend_ttl = 3600.0
            job = await suspended(world)
            assert await world.jobs.body(job.id) == b"{}"
            world.clock += 599
            await world.sweep()
            assert await world.phase(job.id) is Phase.SUSPENDED
            world.clock += 1
            await world.sweep()
            assert await world.phase(job.id) is Phase.COMPLETED
            assert await world.jobs.body(job.id) is None


async def test_an_accepted_caller_has_suspend_ttl(monkeypatch: pytest.MonkeyPatch) -> None:
    """§9: VB365 has accepted the token before it expired in the queue."""
    with capture_logs():
        async with new_world() as world:
            monkeypatch.setattr(world.trust, "knows", lambda _: True)
            world.sweeper._suspend_ttl = 3600.0
            job = await suspended(world)
            world.clock += 3599
            await world.sweep()
            assert await world.phase(job.id) is Phase.SUSPENDED
            world.clock += 1
            await world.sweep()
            assert await world.phase(job.id) is Phase.COMPLETED


async def test_few_suspended_jobs_of_unknown_callers_are_kept() -> None:
    """§3.5: the oldest end first."""
    with capture_logs():
        async with new_world() as world:
            world.sweeper._max_rejected = 2
            jobs = []
            for _ in range(5):
                jobs.append(await suspended(world))
                world.clock += 1
            await world.sweep()
            phases = [await world.phase(job.id) for job in jobs]
            assert phases == [Phase.COMPLETED] * 3 + [Phase.SUSPENDED] * 2


async def test_a_job_that_ran_before_a_restart_is_not_that_of_an_unknown_caller() -> None:
    """§9: VB365 had its request and did not reject it. Strangers cannot restart the proxy."""
    with capture_logs():
        async with new_world() as world:
            world.upstream.gate.clear()
            job, _ = await world.submit()
            async with asyncio.timeout(20):
                while not world.upstream.posts:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            await world.runner.stop()
            await world.restart()
            world.upstream.plan.append("401")
            await world.resume(job)
            await world.quiet()
            suspended = await world.jobs.get(job)
            assert (suspended.phase, suspended.denied) == (Phase.SUSPENDED, False)

"""Concurrent operations in hundreds of orders each: responses, records and files agree."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from proxy.core.errors import Problem
from proxy.core.job import Job, Phase, ResultState, Status
from tests.support.harness import CONTENT, FakeWorld, Steps, new_world

TIMES = 300
SEEDS = range(TIMES)


@asynccontextmanager
async def worlds(seed: int) -> AsyncIterator[tuple[FakeWorld, random.Random]]:
    chance = random.Random(seed)
    async with new_world() as world:
        await world.runner.stop()
        world.boot(Steps(yields=chance))
        await world.runner.start()
        with capture_logs():
            yield world, chance


async def later(chance: random.Random, most: int = 120) -> None:
    for _ in range(chance.randrange(most)):
        await asyncio.sleep(0)


async def stored(world: FakeWorld, job_id: str) -> Job:
    job = await world.jobs.get(job_id)
    assert job is not None
    return job  # type: ignore[no-any-return]


async def test_cancel_against_completion() -> None:
    """§7: cancel beats a late response of VB365; a stored success beats a late cancel."""
    seen = set()
    for seed in SEEDS:
        async with worlds(seed) as (world, chance):
            job_id, _ = await world.submit()
            await later(chance)
            shown = await world.cancel(job_id)
            await world.quiet()
            await world.check()
            job = await stored(world, job_id)
            assert shown is not None
            assert job.status is (shown.status if shown.terminal else Status.CANCELLED)
            seen.add(job.status)
    assert seen == {Status.CANCELLED, Status.SUCCESS}


async def test_cancel_against_failure() -> None:
    """§7: a job never stays Cancelling."""
    seen = set()
    for seed in SEEDS:
        async with worlds(seed) as (world, chance):
            world.upstream.plan.append(chance.choice(["500", "reset", "cut0"]))
            job_id, _ = await world.submit()
            await later(chance, 60)
            shown = await world.cancel(job_id)
            await world.quiet()
            await world.check()
            job = await stored(world, job_id)
            assert job.terminal
            assert shown is not None
            if not shown.terminal:
                assert job.status is Status.CANCELLED
            seen.add(job.status)
    assert {Status.CANCELLED, Status.FAILED} <= seen


async def test_cancel_against_suspend_and_resume() -> None:
    """§7, §9: whichever comes first, the job ends and leaves no bytes."""
    for seed in SEEDS:
        async with worlds(seed) as (world, chance):
            world.upstream.plan.extend(["cut", "401"])
            job_id, _ = await world.submit()
            await later(chance)

            async def resume(
                world: FakeWorld = world, chance: random.Random = chance, job_id: str = job_id
            ) -> None:
                for _ in range(3):
                    await later(chance, 40)
                    await world.resume(job_id)

            shown, _ = await asyncio.gather(world.cancel(job_id), resume())
            await world.quiet()
            await world.check()
            job = await stored(world, job_id)
            assert shown is not None
            assert job.status is (shown.status if shown.terminal else Status.CANCELLED)


async def test_delete_against_completion() -> None:
    """§7: after 204 there are no bytes, only a tombstone."""
    for seed in SEEDS:
        async with worlds(seed) as (world, chance):
            job_id, _ = await world.submit()
            await later(chance)
            await world.delete(job_id)
            await world.quiet()
            await world.check()
            assert (await stored(world, job_id)).forgotten
            assert await world.artifacts.ids() == set()


async def test_delete_against_download() -> None:
    """§6: a download that has begun completes; a later one finds nothing."""
    seen = set()
    for seed in SEEDS:
        async with worlds(seed) as (world, chance):
            job_id, _ = await world.submit()
            await world.quiet()

            async def download(
                world: FakeWorld = world, chance: random.Random = chance, job_id: str = job_id
            ) -> bytes | None:
                await later(chance, 20)
                reader = await world.artifacts.open(job_id)
                if reader is None:
                    return None
                await later(chance, 20)
                return b"".join([piece async for piece in reader.chunks(0, len(CONTENT))])

            got, _ = await asyncio.gather(download(), world.delete(job_id))
            await world.quiet()
            await world.check()
            assert got in (CONTENT, None)
            seen.add(got is None)
    assert seen == {True, False}


async def test_delete_against_delete() -> None:
    """§7: both are 204; there is one tombstone and no bytes."""
    for seed in SEEDS:
        async with worlds(seed) as (world, chance):
            job_id, _ = await world.submit()
            await later(chance)
            await asyncio.gather(world.delete(job_id), world.delete(job_id))
            await world.quiet()
            await world.check()
            assert (await stored(world, job_id)).forgotten
            assert await world.artifacts.ids() == set()


async def test_duplicate_kick_offs_with_one_key() -> None:
    """§8: one job, one generation, in any order."""
    for seed in SEEDS:
        async with worlds(seed) as (world, _):
            responses = await asyncio.gather(*(world.submit("key") for _ in range(4)))
            await world.quiet()
            await world.check()
            assert len({job_id for job_id, _ in responses}) == 1
            assert len(await world.jobs.list()) == 1
            assert world.upstream.generations == 1


async def test_expiry_against_resume() -> None:
    """§9: at the end of `suspend_ttl` the job either fails or continues, never both."""
    seen = set()
    for seed in SEEDS:
        async with worlds(seed) as (world, chance):
            world.upstream.plan.extend(["cut", "401"])
            job_id, _ = await world.submit()
            await world.quiet()
            assert await world.phase(job_id) is Phase.SUSPENDED
            world.clock += 50

            async def resume(
                world: FakeWorld = world, chance: random.Random = chance, job_id: str = job_id
            ) -> None:
                await later(chance, 12)
                await world.resume(job_id)

            await asyncio.gather(world.sweep(), resume())
            await world.quiet()
            await world.check()
            seen.add((await stored(world, job_id)).status)
    assert seen == {Status.SUCCESS, Status.FAILED}


async def test_result_expiry_against_release_and_delete() -> None:
    """§7: the file is removed once, and the record says why."""
    for seed in SEEDS:
        async with worlds(seed) as (world, chance):
            job_id, _ = await world.submit()
            await world.quiet()
            world.clock += 100
            other = chance.choice([world.release, world.delete])
            await asyncio.gather(world.sweep(), other(job_id))
            await world.quiet()
            await world.check()
            job = await stored(world, job_id)
            assert job.forgotten or job.result in (ResultState.EXPIRED, ResultState.DELETED)
            assert await world.artifacts.ids() == set()


async def test_a_caller_that_disconnects_at_any_moment() -> None:
    """§3.9, §9: an aborted kick-off or resuming call leaves no job without a runner."""
    for seed in SEEDS:
        async with worlds(seed) as (world, chance):
            call = asyncio.ensure_future(world.submit())
            await later(chance, 25)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await world.quiet()
            world.upstream.plan.extend(["cut", "401"])
            job_id, _ = await world.submit()
            await world.quiet()
            call2 = asyncio.ensure_future(world.resume(job_id))
            await later(chance, 8)
            call2.cancel()
            await asyncio.gather(call2, return_exceptions=True)
            await world.quiet()
            await world.check()
            for job in await world.jobs.list():
                assert job.terminal or job.phase is Phase.SUSPENDED


@pytest.mark.parametrize("deed", ["500", "reset"])
async def test_dropping_against_cancel(deed: str) -> None:
    """§3.7: either the kick-off gets VB365's response and there is no job, or the job is
    cancelled.
    """
    for seed in SEEDS:
        async with worlds(seed) as (world, chance):
            world.upstream.plan.append(deed)
            job_id, run = await world.submit(attended=True)
            await later(chance, 30)
            await world.cancel(job_id)
            await world.quiet()
            job = await world.jobs.get(job_id)
            response = run.attendance.first.result()
            assert (job is None) == (response is not None)
            assert job is None or job.status is Status.CANCELLED
            world.accepted.clear()
            await world.check()


async def test_the_last_free_slots_are_not_taken_twice() -> None:
    """§3.5: quota and queue hold for concurrent kick-offs."""
    for seed in SEEDS[:100]:
        async with worlds(seed) as (world, chance):
            world.runner._queue._slots._total = 1  # type: ignore[attr-defined]
            world.runner._admission._limits = replace(world.limits, max_running=1, max_queued=2)
            world.upstream.gate.clear()

            async def kick_off(world: FakeWorld = world, chance: random.Random = chance) -> bool:
                await later(chance, 10)
                try:
                    await world.submit()
                except Problem:
                    return False
                return True

            assert 1 <= sum(await asyncio.gather(*(kick_off() for _ in range(8)))) <= 3
            assert world.runner.running + world.runner.queued <= 3
            world.upstream.gate.set()
            await world.quiet()
            await world.check()

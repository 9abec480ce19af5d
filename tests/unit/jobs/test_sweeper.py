"""A sweep where the job store has lost a record (CONTRACT §18)."""

from __future__ import annotations

from tests.support.harness import new_world


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

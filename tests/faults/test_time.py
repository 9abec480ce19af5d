"""The effects of time: expiry, tombstones, suspended jobs that fail, and clocks that jump (CONTRACT
§6, §7, §9).
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from proxy.clock import SteadyClock
from proxy.core.job import ErrorCode, Phase, ResultState, Status
from proxy.core.retention import as_of
from proxy.ports import StoreUnavailable
from tests.support.harness import CONTENT, FakeWorld, new_world


class Clocks:
    """A wall clock that can be set, and a monotonic one."""

    def __init__(self) -> None:
        self.wall, self.passed = 1_000_000.0, 0.0
        self.steady = SteadyClock(lambda: self.wall, lambda: self.passed)

    def advance(self, seconds: float) -> float:
        self.wall += seconds
        self.passed += seconds
        return self.steady()


def test_time_follows_the_wall_clock() -> None:
    clocks = Clocks()
    assert clocks.advance(10) == 1_000_010


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0, 6.0, -6.0])
def test_a_jump_of_the_wall_clock_is_not_followed_at_once(jump: float) -> None:
    """§7: setting the clock must not expire or revive files."""
    clocks = Clocks()
    before = clocks.advance(1)
    clocks.wall += jump
    assert abs(clocks.advance(1) - before - 1) <= 0.1 + 1e-6


@pytest.mark.parametrize("jump", [6.0, 100.0, -6.0, -100.0])
@pytest.mark.parametrize("asked_every", [1.0, 15.0, 4000.0])
def test_a_clock_that_was_set_is_approached_without_overshooting(
    jump: float, asked_every: float
) -> None:
    clocks = Clocks()
    clocks.wall += jump
    for _ in range(int(10 * 4000 / asked_every)):
        now = clocks.advance(asked_every)
        assert (clocks.wall - now) * jump > -1e-3
    assert now == pytest.approx(clocks.wall)


def test_drift_is_followed_at_once() -> None:
    clocks = Clocks()
    clocks.wall += 3
    assert clocks.advance(1) == pytest.approx(clocks.wall)


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(-1e6, 1e6)), max_size=30))
def test_time_never_runs_backwards_nor_faster_than_a_tenth_more(
    moves: list[tuple[float, float]],
) -> None:
    clocks = Clocks()
    last = clocks.steady()
    for seconds, jump in moves:
        clocks.wall += jump
        now = clocks.advance(seconds)
        assert last <= now <= last + seconds * 1.1 + 5.001
        last = now


async def finished(world: FakeWorld) -> str:
    job_id, _ = await world.submit()
    await world.quiet()
    return job_id


async def test_the_file_expires_before_the_record() -> None:
    """§7: the file `result_ttl` after the end, the record `record_ttl` later."""
    async with new_world() as world:
        job_id = await finished(world)
        world.clock += 99
        await world.sweep()
        assert (await world.jobs.get(job_id)).result is ResultState.AVAILABLE
        world.clock += 1
        await world.sweep()
        job = await world.jobs.get(job_id)
        assert (job.status, job.result) == (Status.SUCCESS, ResultState.EXPIRED)
        assert await world.artifacts.ids() == set()
        world.clock += 999
        await world.sweep()
        assert await world.jobs.get(job_id) is not None
        world.clock += 1
        await world.sweep()
        assert await world.jobs.get(job_id) is None


async def test_a_tombstone_is_kept_for_a_day() -> None:
    """§7: DELETE stays idempotent for 24 h."""
    async with new_world() as world:
        job_id = await finished(world)
        await world.delete(job_id)
        await world.quiet()
        world.clock += 24 * 3600 - 1
        await world.sweep()
        assert (await world.jobs.get(job_id)).forgotten
        world.clock += 1
        await world.sweep()
        assert await world.jobs.get(job_id) is None


async def test_an_expired_file_is_not_served_without_a_sweeper() -> None:
    """§7: readers check the clock themselves."""
    async with new_world() as world:
        job = await world.jobs.get(await finished(world))
        assert as_of(job, world.clock + 99).result is ResultState.AVAILABLE
        assert as_of(job, world.clock + 100).result is ResultState.EXPIRED


async def test_a_running_download_completes_although_the_file_expires() -> None:
    """§6."""
    async with new_world() as world:
        reader = await world.artifacts.open(await finished(world))
        world.clock += 100
        await world.sweep()
        assert await world.artifacts.ids() == set()
        assert b"".join([piece async for piece in reader.chunks(0, len(CONTENT))]) == CONTENT


async def test_a_suspended_job_fails_after_suspend_ttl() -> None:
    """§9: Failed with Interrupted, retryable, and no bytes kept."""
    with capture_logs():
        async with new_world() as world:
            world.upstream.plan.extend(["cut", "401"])
            job_id = await finished(world)
            world.clock += 49
            await world.sweep()
            assert await world.phase(job_id) is Phase.SUSPENDED
            world.clock += 1
            await world.sweep()
            job = await world.jobs.get(job_id)
            assert (job.status, job.error.code, job.error.retryable) == (
                Status.FAILED,
                ErrorCode.INTERRUPTED,
                True,
            )
            await world.check()


async def test_a_restart_does_not_prolong_the_suspension() -> None:
    """§9: `suspend_ttl` counts from the interruption."""
    with capture_logs():
        async with new_world() as world:
            world.upstream.plan.extend(["cut", "401"])
            job_id = await finished(world)
            world.clock += 30
            await world.runner.stop()
            await world.restart()
            world.clock += 20
            await world.sweep()
            assert (await world.jobs.get(job_id)).status is Status.FAILED


async def test_a_token_that_expired_in_the_queue_suspends_the_job() -> None:
    """§9: VB365 accepted it with the job; a refreshed token resumes the job."""
    with capture_logs():
        async with new_world() as world:
            world.upstream.gate.clear()
            world.upstream.plan.extend(["ok", "ok", "401"])
            ids = [(await world.submit())[0] for _ in range(3)]
            world.upstream.gate.set()
            await world.quiet()
            assert await world.phase(ids[2]) is Phase.SUSPENDED
            await world.resume(ids[2])
            await world.quiet()
            assert (await world.jobs.get(ids[2])).status is Status.SUCCESS


async def test_a_file_that_cannot_be_removed_does_not_stop_the_sweep() -> None:
    with capture_logs():
        async with new_world() as world:
            ids = [await finished(world) for _ in range(3)]
            world.clock += 100
            world.artifacts.faults["remove"].extend([StoreUnavailable("permission denied")] * 4)
            await world.sweep()
            assert len(await world.artifacts.ids()) == 1
            assert [(await world.jobs.get(job_id)).result for job_id in ids] == [
                ResultState.EXPIRED
            ] * 3
            await world.sweep()
            assert await world.artifacts.ids() == set()


async def test_a_job_waits_for_an_upstream_that_restarts() -> None:
    """§10: POSTs that VB365 never saw do not count as attempts."""
    with capture_logs():
        async with new_world() as world:
            world.upstream.plan.extend(["cut", *["refused"] * 8])
            job_id = await finished(world)
            job = await world.jobs.get(job_id)
            assert (job.status, job.attempt) == (Status.SUCCESS, 1)


async def test_tokens_that_expire_in_the_queue_do_not_use_up_the_attempts() -> None:
    """§9, §10: a POST that VB365 answers with 401 is no generation, also if the resumed job had not
    to wait. The next allowed call resumes the job.
    """
    with capture_logs():
        async with new_world() as world:
            world.upstream.gate.clear()
            world.upstream.plan.extend(["ok", "ok", *["401"] * 4, "cut0", "ok"])
            job_id = [await world.submit() for _ in range(3)][-1][0]
            world.upstream.gate.set()
            for _ in range(4):
                await world.quiet()
                job = await world.jobs.get(job_id)
                assert (job.phase, job.attempt, job.started) == (Phase.SUSPENDED, 0, None)
                await world.resume(job_id)
            await world.quiet()
            job = await world.jobs.get(job_id)
            assert (job.status, job.attempt) == (Status.SUCCESS, 2)


async def test_an_upstream_that_stays_unreachable_fails_the_job() -> None:
    """§10, §15 `stall_timeout`: the wait is bounded."""
    with capture_logs():
        async with new_world() as world:
            world.upstream.plan.extend(["cut", *["refused"] * 200])
            job_id = await finished(world)
            job = await world.jobs.get(job_id)
            assert (job.status, job.error.code) == (Status.FAILED, ErrorCode.TRUNCATED)
            await world.check()

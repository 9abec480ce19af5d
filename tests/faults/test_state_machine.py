"""Random operations, faults, clock jumps and restarts, checked against the responses that callers
got.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule
from structlog.testing import capture_logs

from proxy.core.errors import Problem
from proxy.core.job import Phase, Status
from proxy.jobs.run import Work
from proxy.ports import StorageFull, StoreUnavailable
from tests.support.harness import FakeUpstream, FakeWorld, Steps

STORE_FAULTS = [
    ("jobs", "replace", StoreUnavailable),
    ("artifacts", "write", StoreUnavailable),
    ("artifacts", "write", StorageFull),
    ("artifacts", "commit", StoreUnavailable),
    ("artifacts", "remove", StoreUnavailable),
    ("artifacts", "keep", StorageFull),
    ("artifacts", "discard", StoreUnavailable),
]


class Jobs(RuleBasedStateMachine):
    """`cancelled` and `deleted` hold the ids for which a caller got that response."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.logs = capture_logs()
        self.logs.__enter__()
        self.cancelled: set[str] = set()
        self.deleted: set[str] = set()
        self.do(self.begin())

    def do(self, work: Any) -> Any:
        return self.loop.run(work)

    async def begin(self) -> None:
        self.world = FakeWorld()
        await self.world.runner.start()

    def teardown(self) -> None:
        self.do(self.end())
        self.logs.__exit__(None, None, None)
        self.loop.close()

    async def end(self) -> None:
        """Let every job end without further faults."""
        self.world.upstream.gate.set()
        self.world.upstream.plan.clear()
        self.clear_faults()
        await self.world.quiet()
        await self.world.sweep()  # ends a cancelled job whose bytes could not be removed
        await self.world.quiet()
        for job in await self.world.jobs.list():
            if not job.forgotten:
                await self.world.finished(job.id)
        await self.world.quiet()
        await self.world.sweep()
        await self.world.quiet()
        await self.agree()
        await self.world.runner.stop()

    def clear_faults(self) -> None:
        self.world.jobs.faults.clear()
        self.world.artifacts.faults.clear()

    async def settle(self) -> None:
        """Give the loop some turns; operations may still be in progress."""
        for _ in range(30):
            await asyncio.sleep(0)

    async def agree(self) -> None:
        jobs = {job.id: job for job in await self.world.jobs.list()}
        await self.world.check()
        for job_id in self.cancelled - self.world.swept:
            assert jobs[job_id].status is Status.CANCELLED
        for job_id in self.deleted - self.world.swept:
            assert jobs[job_id].forgotten

    @rule(target=ids, key=st.sampled_from([None, None, "a", "b"]))
    def kick_off(self, key: str | None) -> Any:
        async def work() -> Any:
            try:
                job_id, _ = await self.world.submit(key)
            except Problem:
                return multiple()
            await self.settle()
            return job_id

        return self.do(work())

    @rule(job_id=ids)
    def cancel(self, job_id: str) -> None:
        async def work() -> None:
            shown = await self.world.cancel(job_id)
            if shown is not None and not shown.terminal:
                self.cancelled.add(job_id)
            await self.settle()

        self.do(self.despite_faults(work()))

    @rule(job_id=ids)
    def delete(self, job_id: str) -> None:
        async def work() -> None:
            if await self.world.jobs.get(job_id) is None:
                return
            await self.world.delete(job_id)
            self.deleted.add(job_id)
            self.cancelled.discard(job_id)
            await self.settle()

        self.do(self.despite_faults(work()))

    @rule(job_id=ids)
    def release(self, job_id: str) -> None:
        self.do(self.despite_faults(self.world.release(job_id)))

    @rule(job_id=ids)
    def ask(self, job_id: str) -> None:
        async def work() -> None:
            await self.world.resume(job_id)
            await self.settle()

        self.do(self.despite_faults(work()))

    async def despite_faults(self, work: Any) -> None:
        """Run an operation; its caller gets 503 if it fails."""
        try:
            await work
        except StoreUnavailable:
            return

    @rule(deeds=st.lists(st.sampled_from(FakeUpstream.MISDEEDS), min_size=1, max_size=4))
    def upstream_misbehaves(self, deeds: list[str]) -> None:
        self.world.upstream.plan.extend(deeds)

    @rule()
    def upstream_halts(self) -> None:
        self.world.upstream.gate.clear()

    @rule()
    def upstream_continues(self) -> None:
        async def work() -> None:
            self.world.upstream.gate.set()
            await self.settle()

        self.do(work())

    @rule(fault=st.sampled_from(STORE_FAULTS))
    def store_fails(self, fault: tuple[str, str, type[Exception]]) -> None:
        store, method, failure = fault
        getattr(self.world, store).faults[method].append(failure("injected"))

    @rule(seconds=st.sampled_from([1.0, 51.0, 101.0, 1101.0, 90_000.0]))
    def time_passes(self, seconds: float) -> None:
        async def work() -> None:
            self.world.clock += seconds
            await self.world.sweep()
            await self.settle()

        self.do(self.despite_faults(work()))

    @rule(kill=st.booleans())
    def restart(self, kill: bool) -> None:
        async def work() -> None:
            if kill:
                self.world.steps.kill()
            self.world.upstream.gate.set()
            await self.world.runner.stop()
            self.clear_faults()
            await self.world.restart(Steps())
            await self.agree()
            for job in await self.world.jobs.list():
                assert job.terminal or job.phase is Phase.SUSPENDED

        self.do(work())

    @rule()
    def everything_settles(self) -> None:
        async def work() -> None:
            self.clear_faults()
            self.world.upstream.gate.set()
            await self.world.quiet()
            await self.world.sweep()
            await self.world.quiet()
            await self.agree()

        self.do(work())

    @invariant()
    def slots_are_kept(self) -> None:
        """§3.6: never more than `max_running`, and no slot leaks."""
        runner = self.world.runner
        assert runner.running <= self.world.limits.max_running
        assert all(
            run in runner._runs.values() or run.work is Work.SETTLING
            for run in runner._queue._slots._running  # type: ignore[attr-defined]
        )


Jobs.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestJobs = Jobs.TestCase

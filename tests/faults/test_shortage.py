"""A failure of this machine is not the outcome of a job: the job waits, at every step (CONTRACT
§18, §10).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.fernet import Fernet
from structlog.testing import capture_logs

from proxy.core.job import ErrorCode, Phase, Status
from proxy.jobs.fernet_sealing import FernetSealer
from proxy.ports import (
    LocalShortage,
    ResponseLost,
    StorageFull,
    StorageRefused,
    StoreUnavailable,
    WholeResponse,
)
from proxy.stores.disk_jobs.store import DiskJobs
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.support.harness import CALL, CONTENT, LIMITS, PIECE, FakeWorld, Steps, new_world
from tests.unit.upstream.test_shortage import no_descriptors

AWAY = [StoreUnavailable("too many open files"), StoreUnavailable("too many open files")]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `until_available` pause for no noticeable time."""
    sleep = asyncio.sleep
    monkeypatch.setattr("proxy.jobs.record.asyncio.sleep", lambda seconds: sleep(seconds / 50))


@pytest.mark.parametrize("method", ["create", "resume", "write", "read", "commit"])
async def test_a_partial_file_that_is_unavailable_for_a_while_costs_no_export(method: str) -> None:
    """§10: the attempt continues; the file is complete."""
    async with new_world() as world:
        world.upstream.plan.extend(["cut", "401"])
        job_id, _ = await world.submit()
        if method in ("create", "write"):
            world.artifacts.faults[method].extend(AWAY)
        with capture_logs():
            await world.quiet()
            assert await world.phase(job_id) is Phase.SUSPENDED
            world.artifacts.faults[method].extend(AWAY)
            done = await world.finished(job_id)
            await world.quiet()
        assert (done.status, done.attempt) == (Status.SUCCESS, 1)
        assert not world.artifacts.faults[method] or method == "create"
        await world.check()


async def test_a_kept_file_that_finds_no_space_for_a_while_costs_no_export() -> None:
    """§15, §18: another replica needs a copy of it; its bytes stay until there is space."""
    async with new_world() as world:
        world.upstream.plan.extend(["cut", "401"])
        job_id, _ = await world.submit()
        with capture_logs():
            await world.quiet()
            assert await world.phase(job_id) is Phase.SUSPENDED
            world.artifacts.faults["resume"].extend([StorageFull("no space")] * 3)
            done = await world.finished(job_id)
            await world.quiet()
        assert (done.status, done.attempt) == (Status.SUCCESS, 1)
        assert not world.artifacts.faults["resume"]
        await world.check()


@pytest.mark.parametrize("method", ["create", "resume", "write", "read", "commit"])
async def test_a_lack_of_memory_suspends_the_job(method: str) -> None:
    """§10: the next call continues it."""
    async with new_world() as world:
        if method in ("create", "write"):
            world.artifacts.faults[method].append(MemoryError())
        world.upstream.plan.extend(["cut", "401"])
        job_id, _ = await world.submit()
        with capture_logs():
            await world.quiet()
            assert await world.phase(job_id) is Phase.SUSPENDED
            if method not in ("create", "write"):
                world.artifacts.faults[method].append(MemoryError())
            done = await world.finished(job_id)
            await world.quiet()
        assert done.status is Status.SUCCESS
        assert not world.artifacts.faults[method]
        await world.check()


async def test_a_lack_of_memory_for_a_moment_does_not_use_up_the_attempts() -> None:
    """§10: its caller asks again at once; each time it would be generated again, and fail."""
    async with new_world() as world:
        lacking = world.artifacts.faults["write"]
        lacking.extend([MemoryError()] * 1000)
        job_id, _ = await world.submit()
        asyncio.get_running_loop().call_later(0.3, lacking.clear)
        with capture_logs():
            done = await world.finished(job_id)
        assert done.status is Status.SUCCESS
        await world.check()


async def test_with_sealed_credentials_an_export_that_found_no_memory_continues_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """§9: nobody need ask for it; it failed after `exports.suspend_ttl`."""
    async with new_world() as world:
        sealer = FernetSealer([Fernet.generate_key().decode()])
        monkeypatch.setattr(world.runner, "_sealer", sealer)
        world.artifacts.faults["write"].append(MemoryError())
        with capture_logs():
            job_id, _ = await world.submit()
            await world.quiet()
            suspended = await world.jobs.get(job_id)
            assert suspended is not None
            assert (suspended.phase, suspended.sealed) == (Phase.SUSPENDED, None)
            world.artifacts.faults["write"].append(MemoryError())
            await world.runner.resume(suspended, CALL)
            await world.quiet()
        assert not world.artifacts.faults["write"]
        done = await world.jobs.get(job_id)
        assert done is not None
        assert done.status is Status.SUCCESS
        await world.check()


@pytest.mark.parametrize("lacking", ["seal", "_requeue"])
async def test_an_export_whose_resumption_found_no_memory_can_be_resumed_again(
    lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§9: by the next call, as if nothing had happened."""
    async with new_world() as world:
        world.artifacts.faults["write"].append(MemoryError())
        with capture_logs():
            job_id, _ = await world.submit()
            await world.quiet()
        suspended = await world.jobs.get(job_id)
        assert suspended is not None
        create_task = asyncio.create_task

        def without_memory(work: Any, **options: Any) -> Any:
            if getattr(work, "__name__", None) == "_requeue":
                raise MemoryError
            return create_task(work, **options)

        def nothing(_: object) -> None:
            raise MemoryError

        with monkeypatch.context() as patch:
            if lacking == "seal":
                patch.setattr(world.runner, "_sealer", SimpleNamespace(seal=nothing))
            else:
                patch.setattr(asyncio, "create_task", without_memory)
            with pytest.raises(MemoryError):
                await world.runner.resume(suspended, CALL)
        assert not world.runner.drives(job_id)
        await world.runner.resume(suspended, CALL)
        await world.quiet()
        done = await world.jobs.get(job_id)
        assert done is not None
        assert done.status is Status.SUCCESS


class Forgetting(Steps):
    """There is no memory at one step of the job store."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 0

    async def __call__(self, name: str) -> None:
        await super().__call__(name)
        if " jobs." in name and self.left:
            self.left -= 1
            if not self.left:
                raise MemoryError


async def test_a_lack_of_memory_at_any_step_of_a_record_loses_no_job() -> None:
    """An accepted export ends, also if its outcome was being recorded, or it was being resumed."""
    step, reached = 0, True
    while reached:
        step += 1
        world = FakeWorld()
        world.boot(steps := Forgetting())
        await world.runner.start()
        try:
            world.upstream.plan.extend(["cut", "401"])
            steps.left = step
            with capture_logs(), contextlib.suppress(MemoryError):  # not accepted
                await world.submit(key="k")
            job_id, done = "", None
            with capture_logs():
                while done is None:
                    with contextlib.suppress(MemoryError):
                        job_id = job_id or (await world.submit(key="k"))[0]
                        done = await world.finished(job_id)
                await world.quiet()
            assert done.status is Status.SUCCESS, f"step {step}: {done.error}"
            assert world.runner.running == world.runner.queued == 0
            reached = not steps.left
            await world.check()
        finally:
            await world.runner.stop()
    assert step > 15


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a wait"])
async def test_a_lack_of_memory_for_the_task_of_an_export_costs_no_slot(
    waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts a little later, with the slot that it has got."""
    create_task, failed = asyncio.create_task, list[str]()

    def create(work: Any, *, name: str | None = None, **more: Any) -> asyncio.Task[Any]:
        if name is not None and name.startswith("job ") and not failed:
            failed.append(name)
            raise MemoryError
        return create_task(work, name=name, **more)

    async with new_world(limits=replace(LIMITS, max_running=1)) as world:
        first = None
        if waits:
            world.upstream.gate.clear()
            first, _ = await world.submit()
        monkeypatch.setattr(asyncio, "create_task", create)
        job_id, _ = await world.submit()
        world.upstream.gate.set()
        for each in filter(None, [first, job_id]):
            assert (await world.finished(each)).status is Status.SUCCESS
        assert failed == [f"job {job_id}"]
        await world.quiet()
        assert world.runner.running == world.runner.queued == 0


@pytest.mark.parametrize("method", ["create", "write", "commit"])
@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (StorageFull("no space"), ErrorCode.STORAGE_FULL),
        (StorageRefused("s3://secret refused it"), ErrorCode.INTERNAL),
    ],
)
async def test_only_a_full_disk_or_a_refusal_fails_the_job(
    method: str, failure: Exception, code: ErrorCode
) -> None:
    """A file is created again when VB365's 200 has arrived."""
    async with new_world() as world:
        world.artifacts.faults[method].extend([*AWAY, *[failure] * (1 + (method == "create"))])
        job_id, _ = await world.submit()
        with capture_logs() as lines:
            await world.quiet()
        job = await world.jobs.get(job_id)
        assert job.status is Status.FAILED
        assert job.error.code is code
        assert "secret" not in job.error.message
        assert str(failure) in {line.get("reason") for line in lines}
        await world.check()


@pytest.mark.parametrize("attended", [False, True])
@pytest.mark.parametrize("disk", ["full", "away", "hanging"])
async def test_an_error_of_vb365_is_the_outcome_whatever_the_disk_does(
    disk: str, attended: bool
) -> None:
    """§5, §10: only a 200 needs the file. The request was sent before there was one."""
    async with new_world() as world:
        world.upstream.plan.append("404")
        hanging = world.artifacts.gates["create"] = asyncio.Event()
        if disk != "hanging":
            hanging.set()
            failure = StorageFull("no space") if disk == "full" else AWAY[0]
            world.artifacts.faults["create"].extend([failure] * 9)
        job_id, run = await world.submit(attended=attended)
        with capture_logs():
            if attended:
                first = await run.attendance.first_response(20)
                assert isinstance(first, WholeResponse)
                assert first.status == 404
            hanging.set()
            await world.quiet()
        job = await world.jobs.get(job_id)
        if attended:
            assert job is None
        else:
            assert (job.error.code, job.error.status) == (ErrorCode.REJECTED, 404)
        assert world.artifacts.partials == {}
        assert world.artifacts.growing == {}


@pytest.mark.parametrize("failure", ["refused", "reset", "timeout"])
async def test_no_response_of_vb365_is_the_outcome_whatever_the_disk_does(failure: str) -> None:
    async with new_world() as world:
        world.upstream.plan.append(failure)
        world.artifacts.faults["create"].append(StorageFull("no space"))
        job_id, _ = await world.submit()
        await world.quiet()
        code = ErrorCode.TIMEOUT if failure == "timeout" else ErrorCode.UNREACHABLE
        assert (await world.jobs.get(job_id)).error.code is code


async def test_an_error_of_vb365_is_the_outcome_if_a_new_attempt_has_no_file() -> None:
    """§10: what does not continue the file is followed by a POST from zero."""
    async with new_world() as world:
        world.upstream.plan.extend(["cut", "404", "404"])
        world.upstream.gate.clear()
        job_id, _ = await world.submit()
        while not (world.upstream.posts and world.artifacts.growing):  # noqa: ASYNC110
            await asyncio.sleep(0)
        world.artifacts.faults["create"].append(StorageFull("no space"))
        world.upstream.gate.set()
        await world.quiet()
        job = await world.jobs.get(job_id)
        assert (job.error.code, job.error.status) == (ErrorCode.REJECTED, 404)


async def test_a_disk_that_is_full_no_longer_when_vb365_responds_costs_no_export() -> None:
    async with new_world() as world:
        world.artifacts.faults["create"].append(StorageFull("no space"))
        job_id, _ = await world.submit()
        await world.quiet()
        assert (await world.jobs.get(job_id)).status is Status.SUCCESS
        assert world.upstream.posts == [0]


async def test_a_failed_clean_up_does_not_hide_why_the_job_failed() -> None:
    async with new_world() as world:
        world.artifacts.faults["write"].append(StorageFull("no space"))
        world.artifacts.faults["discard"].append(StoreUnavailable("away"))
        job_id, _ = await world.submit()
        with capture_logs():
            await world.quiet()
        assert (await world.jobs.get(job_id)).error.code is ErrorCode.STORAGE_FULL
        await world.sweep()
        await world.check()


@pytest.mark.parametrize("attended", [False, True])
async def test_the_first_post_waits_for_a_descriptor(attended: bool) -> None:
    """§10: VB365 never saw it, so it may be sent, however often that happens."""
    async with new_world() as world:
        short(world, 20)
        job_id, run = await world.submit(attended=attended)
        with capture_logs():
            await world.quiet()
        assert (await world.jobs.get(job_id)).status is Status.SUCCESS
        assert world.upstream.posts == [0]
        assert run.attendance.first.result() is None


async def test_a_continuation_waits_for_a_descriptor() -> None:
    async with new_world() as world:
        world.upstream.plan.append("cut")
        short(world, 20, skip=1)
        job_id, _ = await world.submit()
        with capture_logs():
            done = await world.finished(job_id)
        assert (done.status, done.attempt) == (Status.SUCCESS, 1)
        assert len(world.upstream.posts) == 2


def short(world: FakeWorld, times: int, *, skip: int = 0) -> None:
    """Let the next POSTs after `skip` find no descriptor, `times` times."""
    send: Callable[..., Awaitable[Any]] = world.upstream.send
    left = [skip, times]

    async def refusing(*args: Any, **kwargs: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
        elif left[1] > 0:
            left[1] -= 1
            raise LocalShortage("Too many open files")
        return await send(*args, **kwargs)

    world.upstream.send = refusing  # type: ignore[method-assign]


@pytest.mark.parametrize("method", ["create", "write", "commit", "send"])
async def test_a_job_that_waits_for_the_machine_can_be_cancelled(method: str) -> None:
    """§7: phase Cancelling, soon Cancelled, and no bytes remain."""
    async with new_world() as world:
        if method == "send":
            short(world, 10**6)
        else:
            world.artifacts.faults[method].extend(AWAY * 10**4)
        job_id, _ = await world.submit()
        with capture_logs() as logs:
            while not any("trying again" in line["event"] for line in logs):  # noqa: ASYNC110
                await asyncio.sleep(0)
            await world.cancel(job_id)
            await world.quiet()
        assert (await world.jobs.get(job_id)).status is Status.CANCELLED
        world.artifacts.faults.clear()
        await world.check()


async def test_nothing_is_read_while_a_store_is_unavailable() -> None:
    """§12 back-pressure: otherwise the bytes would be held in memory."""
    async with new_world() as world:
        world.artifacts.faults["write"].extend(AWAY * 10**4)
        reads = [0]
        tick = world.upstream.step

        async def count(name: str) -> None:
            reads[0] += name == "upstream.read"
            await tick(name)

        world.upstream.step = count
        job_id, _ = await world.submit()
        with capture_logs() as logs:
            while sum("trying again" in line["event"] for line in logs) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert reads[0] == 1
            world.artifacts.faults.clear()
            await world.quiet()
        assert (await world.jobs.get(job_id)).status is Status.SUCCESS
        assert reads[0] == len(CONTENT) // PIECE + 1


class Exhausting(Steps):
    """Takes every descriptor at one step and releases them a moment later."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at
        self.reached = False
        self.over = asyncio.Event()

    async def __call__(self, name: str) -> None:
        await super().__call__(name)
        if self.count == self._at:
            self.reached = True
            stack = contextlib.ExitStack()
            stack.callback(self.over.set)
            stack.enter_context(no_descriptors())
            asyncio.get_running_loop().call_later(0.02, stack.pop_all().close)


async def test_descriptors_that_run_out_at_any_step_cost_no_export(tmp_path: Path) -> None:
    """With the stores on disk: every accepted export ends in success."""
    step, reached = 1, True
    with capture_logs():
        while reached:
            place = tmp_path / str(step)
            jobs, artifacts = await DiskJobs.open(place), await FileArtifacts.at(place)
            world = FakeWorld(jobs=jobs, artifacts=artifacts)
            steps = Exhausting(step)
            world.boot(steps)
            await world.runner.start()
            try:
                world.upstream.plan.extend(["cut", "401"])
                try:
                    job_id, _ = await world.submit()
                except StoreUnavailable:  # not accepted; what was stored ends nevertheless
                    job_id, _ = await world.submit()
                done = await world.finished(job_id)
                assert done.status is Status.SUCCESS, f"step {step}: {done.error}"
                await world.quiet()
                await world.runner.stop()  # its watch over free space takes steps at any time
                reached = steps.reached
                if reached:
                    await steps.over.wait()
                await world.check()
                assert all(
                    job.terminal or job.phase is Phase.SUSPENDED for job in await jobs.list()
                )
            finally:
                await world.runner.stop()
                await artifacts.close()
                await jobs.close()
            step += 3
    assert step > 60


async def test_a_response_for_which_there_was_no_memory_fails_no_export(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """§10: an interruption by the proxy, not by VB365."""
    async with new_world() as world:
        send, lost = world.upstream.send, [ResponseLost("no memory", delivered=True)]

        async def losing(*request: Any, **limits: Any) -> Any:
            response = await send(*request, **limits)
            if lost:
                raise lost.pop()
            return response

        monkeypatch.setattr(world.upstream, "send", losing)
        job_id, _ = await world.submit()
        with capture_logs():
            await world.quiet()
            assert await world.phase(job_id) is Phase.SUSPENDED
            done = await world.finished(job_id)
        assert (done.status, done.attempt) == (Status.SUCCESS, 2)
        await world.check()

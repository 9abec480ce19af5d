"""A process that ends at any step of the runner, the stores or the upstream loses nothing (CONTRACT
§3.6, §9, §10).

Each scenario is run once per step it has, and crashes there: before the step's effect or after it.
A process is then started over the same stores, and everything must agree. The kills of real
processes are in test_kill.py.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from time import perf_counter, process_time

import pytest
from structlog.testing import capture_logs

from proxy.core.events import Claimed, Forgotten, Interrupted, Succeeded
from proxy.core.job import Job, Phase, ResultState, Status
from proxy.core.job_codec import encode
from proxy.core.transitions import advance
from proxy.jobs.reconciler import Reconciler
from proxy.ports import Artifact, StoreUnavailable
from proxy.stores.disk_jobs.store import DiskJobs
from proxy.stores.file_artifacts.files import Places, write_sidecar
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.support.fakes import MemoryArtifacts, MemoryJobs, new_job
from tests.support.harness import Crash, FakeWorld, Steps, new_world

Scenario = Callable[[FakeWorld], Awaitable[None]]


def exporting(*plan: str) -> Scenario:
    async def scenario(world: FakeWorld) -> None:
        world.upstream.plan.extend(plan)
        job_id, _ = await world.submit()
        await world.quiet()
        await world.finished(job_id)

    return scenario


async def cancelled(world: FakeWorld) -> None:
    world.upstream.gate.clear()
    job_id, _ = await world.submit()
    await world.cancel(job_id)
    await world.quiet()


async def cancelled_during_transfer(world: FakeWorld) -> None:
    job_id, _ = await world.submit()
    await asyncio.sleep(0)
    await world.cancel(job_id)
    await world.quiet()


async def deleted(world: FakeWorld) -> None:
    job_id, _ = await world.submit()
    await world.quiet()
    await world.delete(job_id)
    await world.quiet()


async def released(world: FakeWorld) -> None:
    job_id, _ = await world.submit()
    await world.quiet()
    await world.release(job_id)


async def expired(world: FakeWorld) -> None:
    await world.submit()
    await world.quiet()
    world.clock += 101
    await world.sweep()


async def given_up(world: FakeWorld) -> None:
    world.upstream.plan.extend(["cut", "401"])
    await world.submit()
    await world.quiet()
    world.clock += 51
    await world.sweep()


SCENARIOS: dict[str, Scenario] = {
    "export": exporting(),
    "chunked": exporting("chunked"),
    "cut and continued": exporting("cut", "ok"),
    "cut and started over": exporting("cut", "ignore"),
    "spliced wrongly": exporting("cut", "range", "ok"),
    "suspended and resumed": exporting("cut", "401", "ok"),
    "refused": exporting("500"),
    "cancelled": cancelled,
    "cancelled midway": cancelled_during_transfer,
    "deleted": deleted,
    "released": released,
    "expired": expired,
    "given up": given_up,
}
#: Scenarios whose outcome a crash must not change: VB365 serves the file again after it.
SUCCEED = {"export", "chunked", "cut and continued", "suspended and resumed"}


async def until_crash(world: FakeWorld, scenario: Scenario) -> None:
    async def life() -> None:
        await world.runner.start()
        await scenario(world)

    work = asyncio.ensure_future(life())
    crash = asyncio.ensure_future(world.steps.crashed.wait())
    await asyncio.wait([work, crash], return_when=asyncio.FIRST_COMPLETED)
    crash.cancel()
    work.cancel()
    results = await asyncio.gather(work, crash, return_exceptions=True)
    failure = results[0]
    if not world.steps.crashed.is_set() and isinstance(failure, Exception):
        raise failure
    await world.runner.stop()


async def crash_at(
    step: int, scenario: Scenario, again: int | None = None
) -> tuple[FakeWorld, bool]:
    """Crash at the step, start again (and crash `again` while reconciling), and check that
    everything agrees.
    """
    world = FakeWorld()
    world.boot(Steps(crash_at=step))
    await until_crash(world, scenario)
    crashed = world.steps.crashed.is_set()
    if again is not None:
        with pytest.raises(Crash):
            await world.restart(Steps(crash_at=again))
        await world.runner.stop()
    await world.restart()
    await world.check()
    for job in await world.jobs.list():
        assert job.terminal or job.phase is Phase.SUSPENDED
    return world, crashed


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_crash_at_every_step_loses_nothing(name: str) -> None:
    """§9, §10: no accepted job and no finished file is lost, no file is without a record, no
    available result without a file, and what can continue continues.
    """
    step, crashed = 1, True
    with capture_logs():
        while crashed:
            world, crashed = await crash_at(step, SCENARIOS[name])
            for job in await world.jobs.list():
                done = await world.finished(job.id)
                if name in SUCCEED:
                    assert done.status is Status.SUCCESS, f"crash at step {step}: {done.error}"
            await world.quiet()
            await world.check()
            await world.runner.stop()
            step += 1
    assert step > 20, "the scenario has hardly any steps"


@pytest.mark.parametrize("name", ["cut and continued", "cancelled midway", "deleted"])
async def test_a_crash_while_reconciling_loses_nothing(name: str) -> None:
    with capture_logs():
        for step in range(15, 75, 4):
            for again in range(1, 5):
                try:
                    world, _ = await crash_at(step, SCENARIOS[name], again)
                except pytest.fail.Exception:  # the reconciler has fewer steps
                    continue
                await world.runner.stop()


async def test_after_a_crash_between_commit_and_record_the_upstream_gets_no_request() -> None:
    """§10: the committed file becomes the result, without a second generation."""
    taken = 0
    with capture_logs():
        for step in range(1, 80):
            world, _ = await crash_at(step, SCENARIOS["export"])
            if world.steps.last == "" and await world.artifacts.ids():
                for job in await world.jobs.list():
                    if await world.artifacts.get(job.id):
                        taken += 1
                        assert job.status is Status.SUCCESS
                        assert world.upstream.posts == []
            await world.runner.stop()
    assert taken


def _made_before(directory: Path, numbers: Iterable[int]) -> list[str]:
    """Finished exports as a previous process left them."""
    ids = []
    for number in numbers:
        job = new_job(number, owner=f"o{number % 50}")
        queued = advance(job, Claimed("h"), 1.0)
        done = advance(advance(queued, Interrupted(), 2.0), Succeeded(1, "ZA==", 9e9, "Other"), 3.0)
        places = Places(directory / "artifacts" / job.id[:2], job.id)
        places.directory.mkdir(parents=True, exist_ok=True)
        places.file.write_bytes(b"x")
        write_sidecar(places, Artifact(job.id, 1, bytes(32), 3.0), encode(done), durable=False)
        ids.append(job.id)
    return ids


@pytest.mark.timeout(300)  # on a machine that may be busy
async def test_ten_thousand_jobs_are_reconciled_in_bounded_time(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """§9: 4,000 finished jobs whose records are lost and rebuilt, 5,000 interrupted ones, and 1,000
    whose file is missing.
    """
    finished = _made_before(tmp_path, range(4000))
    jobs = await DiskJobs.open(tmp_path)
    live = [new_job(number) for number in range(5000)]
    await asyncio.gather(*(jobs.add(job, b"{}") for job in live))
    gone = []
    for number in range(1000):
        job = advance(advance(new_job(number), Claimed("h"), 1.0), Interrupted(), 2.0)
        gone.append(advance(job, Succeeded(1, "ZA==", 9e9, "Other"), 3.0))
    await asyncio.gather(*(jobs.add(job, b"") for job in gone))
    artifacts = await FileArtifacts.at(tmp_path)
    begun, cpu = perf_counter(), process_time()
    with capture_logs():
        await Reconciler(jobs, artifacts, lambda: 10.0).run()
    took, cpu = perf_counter() - begun, process_time() - cpu
    record_property("reconcile_10000_jobs_seconds", round(took, 2))
    print(f"10,000 jobs reconciled in {took:.1f} s")  # noqa: T201  # the figure for docs/operations.md
    found = {job.id: job for job in await jobs.list()}
    assert len(found) == 10_000
    assert all(found[job_id].result is ResultState.AVAILABLE for job_id in finished)
    assert all(found[job.id].phase is Phase.SUSPENDED for job in live)
    assert all(found[job.id].result is ResultState.DELETED for job in gone)
    assert cpu < 60  # of this process, whatever else the machine does
    await artifacts.close()
    await jobs.close()


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_missing_file_is_reported_unless_another_replica_deletes_the_job(
    *, deleted: bool
) -> None:
    """§18: others work on their jobs while a replica starts."""
    jobs, artifacts = MemoryJobs(), MemoryArtifacts()
    job = advance(advance(new_job(1), Claimed("h"), 1.0), Interrupted(), 2.0)
    job = await jobs.add(advance(job, Succeeded(1, "ZA==", 9e9, "Other"), 3.0), b"")
    listed = jobs.list

    async def list_before_the_delete(**owner: str | None) -> list[Job]:
        found = await listed(**owner)
        if deleted:
            assert await jobs.replace(job, advance(job, Forgotten(), 4.0))
        return found

    jobs.list = list_before_the_delete  # type: ignore[method-assign]
    with capture_logs() as entries:
        await Reconciler(jobs, artifacts, lambda: 10.0).run()
    reported = [entry["log_level"] for entry in entries if "is missing" in entry["event"]]
    assert reported == ([] if deleted else ["error"])
    assert jobs.jobs[job.id].forgotten is deleted


async def test_a_truncated_file_is_removed_and_never_a_result(tmp_path: Path) -> None:
    (job_id,) = _made_before(tmp_path, [1])
    file = Places(tmp_path / "artifacts" / job_id[:2], job_id).file
    artifacts, jobs = await FileArtifacts.at(tmp_path), await DiskJobs.open(tmp_path)
    with capture_logs():
        await Reconciler(jobs, artifacts, lambda: 10.0).run()
        os.truncate(file, 0)
        await Reconciler(jobs, artifacts, lambda: 10.0).run()
    job = await jobs.get(job_id)
    assert job is not None
    assert job.result is ResultState.DELETED
    assert await artifacts.ids() == set()
    await artifacts.close()
    await jobs.close()


@pytest.mark.parametrize("method", ["get", "body", "replace"])
async def test_a_job_store_that_is_unavailable_for_a_while_costs_no_export(method: str) -> None:
    """§7: the job waits for it, whenever that happens."""
    with capture_logs():
        for skip in range(6):
            async with new_world() as world:
                original, calls = getattr(world.jobs, method), 0

                async def flaky(
                    *args: object, _skip: int = skip, _original: object = original
                ) -> object:
                    nonlocal calls
                    calls += 1
                    if calls == _skip + 1:
                        raise StoreUnavailable("away")
                    return await _original(*args)  # type: ignore[operator]

                job_id, _ = await world.submit()
                setattr(world.jobs, method, flaky)
                await world.quiet()
                setattr(world.jobs, method, original)
                assert (await world.jobs.get(job_id)).status is Status.SUCCESS
                await world.check()


async def test_a_change_that_the_store_made_without_confirming_it_is_not_lost() -> None:
    """A store may fail after the effect: the file of a success stays."""
    with capture_logs():
        for skip in range(6):
            async with new_world() as world:
                original, calls = world.jobs.replace, 0

                async def unconfirmed(
                    *args: object, _skip: int = skip, _original: object = original
                ) -> object:
                    nonlocal calls
                    calls += 1
                    result = await _original(*args)  # type: ignore[operator]
                    if calls == _skip + 1:
                        raise StoreUnavailable("no answer")
                    return result

                world.jobs.replace = unconfirmed
                job_id, _ = await world.submit()
                await world.quiet()
                assert (await world.jobs.get(job_id)).status is Status.SUCCESS
                await world.check()


@pytest.mark.parametrize("method", ["create", "write", "commit", "discard", "remove"])
async def test_an_artifact_store_that_fails_leaves_no_bytes_behind(method: str) -> None:
    """§10: the job ends, and the next sweep removes what could not be removed then."""
    with capture_logs():
        for cancel in (False, True):
            async with new_world() as world:
                world.artifacts.faults[method].append(StoreUnavailable("the disk fails"))
                if method == "discard":
                    world.artifacts.faults["write"].append(StoreUnavailable("the disk fails"))
                job_id, _ = await world.submit()
                if cancel:
                    await world.cancel(job_id)
                await world.quiet()
                await world.sweep()
                await world.quiet()
                assert (await world.jobs.get(job_id)).terminal
                await world.check()

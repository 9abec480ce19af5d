"""A request that waits for a job of another replica gets nothing that another caller's credentials
have made of it (CONTRACT §9, §14).
"""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from typing import Any

import pytest

from proxy.core.job import FileFacts, Job, Origin, Phase, ResultState, Status
from proxy.jobs.run import Run
from proxy.rescue.call import RELAYED, Call, StoredElsewhere
from proxy.rescue.elsewhere import Elsewhere
from proxy.rescue.following import Following
from proxy.rescue.joining import NotRescued
from tests.support.artifacts import note
from tests.support.fakes import MemoryArtifacts, MemoryJobs, new_job
from tests.support.harness import CALL, LIMITS, new_world
from tests.support.wire import eventually

FACTS = FileFacts(
    media_type="a/b",
    file_name=None,
    size=85,
    etag=None,
    reason="OK",
    lines="Content-Length: 85\r\n",
)


class JoinedOnce:
    """Lets the request join the job; if it looks for one again, VB365 does not let it."""

    def __init__(self, job: Job) -> None:
        self._jobs = [job]

    async def job(self, call: Call) -> tuple[Job, bool]:
        if not self._jobs:
            raise NotRescued
        return self._jobs.pop(), False


class NoRuns:
    """Runs no job, and removes none."""

    @property
    def withdrawal(self) -> NoRuns:
        return self

    def run_of(self, id: str) -> Run | None:
        return None

    def removes(self, id: str) -> bool:
        return False


class Request:
    """It asks for no part of the file."""

    ranged = False


class WatchedJobs(MemoryJobs):
    """Counts those that wait for a change."""

    waiting = 0

    async def wait(self, id: str, version: int, timeout: float) -> Job | None:
        self.waiting += 1
        return await super().wait(id, version, timeout)


def following(
    jobs: MemoryJobs, artifacts: MemoryArtifacts, job: Job, runner: Any = None
) -> Following:
    joining: Any = JoinedOnce(job)
    runner = runner or NoRuns()
    return Following(
        joining,
        jobs=jobs,
        artifacts=artifacts,
        followable=artifacts,
        elsewhere=Elsewhere(jobs, artifacts, artifacts),
        runner=runner,
        now=lambda: 0.0,
    )


@pytest.mark.parametrize("ended", [True, False], ids=["a file", "a growing file"])
async def test_14_nothing_of_another_callers_resume_is_followed_on_another_replica(
    ended: bool,
) -> None:
    """Suspended and resumed within one look at the record: this replica sees only the second."""
    jobs, artifacts = WatchedJobs(), MemoryArtifacts()
    job = await jobs.add(
        new_job(origin=Origin.RESCUE, phase=Phase.GENERATING, attempt=1, fence=1, replica="one"),
        b"{}",
    )
    call: Any = Request()
    outcome = asyncio.create_task(following(jobs, artifacts, job).outcome(call))
    await eventually(lambda: jobs.waiting == 1)
    partial = await artifacts.create(job.id, 2)
    await partial.write(b"!BDN" + b"another's" * 9)
    borrowed = replace(job, version=4, borrowed=True, fence=2, replica="two", file=FACTS)
    if ended:
        await partial.commit(85, note)
        changes: dict[str, Any] = {
            "status": Status.SUCCESS,
            "phase": Phase.COMPLETED,
            "result": ResultState.AVAILABLE,
        }
    else:
        changes = {"phase": Phase.TRANSFERRING, "published": 80}
    assert await jobs.replace(job, replace(borrowed, **changes))
    assert await outcome is RELAYED


async def test_14_a_request_that_finds_a_withdrawn_job_is_relayed() -> None:
    """§14: as the one that started it, also while the store cannot remove the record."""
    async with new_world(limits=replace(LIMITS, max_running=1)) as world:
        world.upstream.gate.clear()
        await world.submit()
        job = replace(new_job(), origin=Origin.RESCUE)
        run = Run(job.id, CALL, rescued=True)
        async with world.runner.admission(job.owner):
            await world.runner.submit(job, b"{}", run)
        world.jobs.gates["remove"] = removed = asyncio.Event()
        world.runner.withdrawal.later(run, 0.0)
        await eventually(lambda: world.runner.run_of(job.id) is None)
        call: Any = Request()
        async with asyncio.timeout(5):
            found = await following(world.jobs, world.artifacts, job, world.runner).outcome(call)
        assert found is RELAYED
        removed.set()


async def test_14_a_response_from_another_replica_does_not_keep_the_body_of_its_request() -> None:
    """Its client may take hours to read it, and the memory of the body does not count any more."""
    jobs, artifacts = WatchedJobs(), MemoryArtifacts()
    growing: dict[str, Any] = {"phase": Phase.TRANSFERRING, "file": FACTS, "published": 80}
    job = await jobs.add(
        new_job(origin=Origin.RESCUE, attempt=1, fence=1, replica="one", **growing), b"{}"
    )
    nothing: Any = None
    call = Call(nothing, [], nothing, nothing, b"{}", nothing, None, 0.0)
    outcome = await following(jobs, artifacts, job).outcome(call)
    assert isinstance(outcome, StoredElsewhere)
    del call
    gc.collect()
    assert {each.body for each in gc.get_objects() if isinstance(each, Call)} == {b""}

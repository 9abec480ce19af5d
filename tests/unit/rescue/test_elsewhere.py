"""Only what is proven to be the whole file reaches the clients of other replicas (CONTRACT §14)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from proxy.core.job import Job, Origin, Phase, ResultState, Status
from proxy.ports import PartialLost, StoreUnavailable
from proxy.rescue import elsewhere
from proxy.rescue.elsewhere import Elsewhere
from tests.support.artifacts import note
from tests.support.fakes import MemoryArtifacts, MemoryJobs, MemoryPartial, new_job
from tests.support.wire import eventually

CONTENT = b"!BDN" + bytes(range(256)) * 2000
HALF = 200_000


class Scene:
    """A job that another replica runs, its file, and the bytes that a client has got."""

    def __init__(self) -> None:
        self.jobs, self.artifacts = MemoryJobs(), MemoryArtifacts()
        self.job = new_job(
            origin=Origin.RESCUE, phase=Phase.TRANSFERRING, attempt=1, fence=7, replica="other"
        )
        self.got = b""
        self.resumed: list[Job] = []
        self.partial: MemoryPartial

    async def start(self) -> asyncio.Task[None]:
        """The first half of the file is published, and followed."""
        self.partial = await self.artifacts.create(self.job.id, 7)
        await self.partial.write(CONTENT[:HALF])
        self.job = await self.jobs.add(replace(self.job, published=HALF), b"{}")
        return asyncio.create_task(self._follow(self.job))

    async def _follow(self, job: Job) -> None:
        async def resume(job: Job) -> None:
            self.resumed.append(job)

        reads = Elsewhere(self.jobs, self.artifacts, self.artifacts)
        assert reads.follows(job)
        async for piece in reads.pieces(job, resume):
            self.got += piece

    async def until(self, size: int) -> None:
        """Wait until the client has got so many bytes."""
        await eventually(lambda: len(self.got) >= size)

    async def change(self, **changes: Any) -> None:
        new = replace(self.job, version=self.job.version + 1, **changes)
        assert await self.jobs.replace(self.job, new)
        self.job = new

    async def finish(self, content: bytes = CONTENT) -> None:
        """Store the rest, in a file that may be another one."""
        if content is not CONTENT:
            self.partial = await self.artifacts.create(self.job.id, 7)
            await self.partial.write(content)
        else:
            await self.partial.write(content[HALF:])
        await self.partial.commit(len(content), note)
        await self.change(
            status=Status.SUCCESS, phase=Phase.COMPLETED, result=ResultState.AVAILABLE
        )


async def test_14_the_last_published_byte_waits_for_the_end_of_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(elsewhere, "_WINDOW", 70_000)
    scene = Scene()
    following = await scene.start()
    await scene.until(HALF - 1)
    await scene.partial.write(CONTENT[HALF:])
    await scene.change(published=len(CONTENT), phase=Phase.FINALIZING)
    await scene.until(len(CONTENT) - 1)
    await scene.partial.commit(len(CONTENT), note)
    assert scene.got == CONTENT[:-1]
    await scene.change(phase=Phase.COMPLETED, result=ResultState.AVAILABLE)
    await following
    assert scene.got == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT), HALF - 1, HALF, 4, 0])
async def test_14_the_end_of_another_file_is_not_sent(size: int) -> None:
    """Under the same name, and the record has not changed: a job store that was restarted may have
    lost that the export started again.
    """
    scene = Scene()
    following = await scene.start()
    await scene.until(HALF - 1)
    await scene.finish((b"PK" * len(CONTENT))[:size])
    with pytest.raises(PartialLost):
        await following
    assert len(scene.got) < max(size, HALF)


async def test_14_a_volume_that_shows_the_file_late_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(elsewhere, "_LATE", 0.01)
    scene = Scene()
    kept, scene.artifacts.partials = scene.artifacts.partials, {}
    following = await scene.start()
    scene.artifacts.partials, kept = kept, scene.artifacts.partials
    await asyncio.sleep(0.03)
    assert scene.got == b""
    scene.artifacts.partials = kept
    await scene.until(HALF - 1)
    await scene.finish()
    await following
    assert scene.got == CONTENT


@pytest.mark.parametrize("method", ["open_published", "chunks"])
async def test_14_bytes_that_cannot_be_read_now_are_read_later(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A replica that takes the file over removes the segments that are being read."""
    monkeypatch.setattr(elsewhere, "_LATE", 0.01)
    scene = Scene()
    scene.artifacts.faults[method] += [StoreUnavailable("it is gone")] * 2
    following = await scene.start()
    await scene.until(HALF - 1)
    await scene.finish()
    await following
    assert scene.got == CONTENT


@pytest.mark.parametrize(
    "changes",
    [
        {"attempt": 2},
        {"borrowed": True},
        {"phase": Phase.CANCELLING},
        {"phase": Phase.COMPLETED, "status": Status.FAILED, "result": ResultState.INCOMPLETE},
        {"phase": Phase.COMPLETED, "status": Status.SUCCESS, "result": ResultState.DELETED},
        {"phase": Phase.FORGOTTEN, "status": Status.CANCELLED, "result": None},
    ],
    ids=["restarted", "resumed by another caller", "cancelled", "failed", "deleted", "forgotten"],
)
async def test_14_a_file_that_is_not_continued_breaks_off(changes: dict[str, Any]) -> None:
    scene = Scene()
    following = await scene.start()
    await scene.until(HALF - 1)
    await scene.change(**changes)
    with pytest.raises(PartialLost):
        await following


async def test_14_a_suspended_job_is_resumed_once() -> None:
    """§9: with credentials that VB365 may have ceased to accept."""
    scene = Scene()
    following = await scene.start()
    await scene.until(HALF - 1)
    await scene.change(phase=Phase.SUSPENDED)
    await eventually(lambda: scene.resumed != [])
    await scene.change(phase=Phase.QUEUED)
    await scene.change(phase=Phase.SUSPENDED)
    with pytest.raises(PartialLost):
        await following
    assert len(scene.resumed) == 1

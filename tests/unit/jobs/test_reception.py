"""The file of a running job while it is received."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from proxy.jobs.reception import Reception
from proxy.jobs.record import Record
from proxy.jobs.reservations import Reservations
from proxy.ports import StoreUnavailable
from tests.support.fakes import MemoryArtifacts, MemoryJobs, new_job


class Unkept:
    """A partial file that cannot be kept."""

    def __init__(self) -> None:
        self.requested, self.may_fail = asyncio.Event(), asyncio.Event()

    async def keep(self) -> None:
        self.requested.set()
        await self.may_fail.wait()
        raise StoreUnavailable("away")


async def test_a_file_that_cannot_be_kept_is_no_error_of_a_cancelled_task() -> None:
    """The task that waits for it is cancelled once more when the proxy stops."""
    unhandled: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    artifacts = MemoryArtifacts(clock=lambda: 0.0)
    reception = Reception(
        Record(MemoryJobs(), new_job(), lambda: 0.0),
        artifacts,
        Reservations(artifacts, min_free=0, max_bytes=0),
    )
    file: Any = Unkept()
    reception._partial = file
    keeping = asyncio.create_task(reception.keep())
    await file.requested.wait()
    keeping.cancel()
    await asyncio.wait([keeping])
    file.may_fail.set()
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    assert unhandled == []


async def test_5_progress_is_reported_after_a_moment_without_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also without any for the wait itself. Other tasks have their turns meanwhile."""
    monkeypatch.setattr("proxy.jobs.reception._PROGRESS_INTERVAL", 0.02)
    monkeypatch.setattr("proxy.jobs.reception._SYNC_TIME", 0.01)
    jobs = MemoryJobs()
    artifacts = MemoryArtifacts(clock=lambda: 0.0)
    record = Record(jobs, new_job(), lambda: 0.0)
    reception = Reception(record, artifacts, Reservations(artifacts, min_free=0, max_bytes=0))
    reported, shortages = asyncio.Event(), [MemoryError] * 3
    sleep = asyncio.sleep

    async def scarce(seconds: float) -> None:
        if seconds and shortages:
            raise shortages.pop()
        await sleep(seconds)

    async def report() -> None:
        if len(calls) < 3:
            calls.append(1)
            raise MemoryError
        reported.set()

    calls: list[int] = []
    monkeypatch.setattr(Reception, "offset", 1)
    monkeypatch.setattr(reception, "report", report)
    monkeypatch.setattr(asyncio, "sleep", scarce)
    async with reception._reporting(), asyncio.timeout(10):
        await reported.wait()

"""The file of a running job while it is received."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

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

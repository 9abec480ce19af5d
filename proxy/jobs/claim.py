"""The claim of a job by the run that drives it."""

from __future__ import annotations

import asyncio

from proxy.core.events import Claimed
from proxy.core.job import Job
from proxy.jobs.record import Record


class Claim:
    """Records that `holder` drives the job. The claim of a rescued export may be recorded while its
    request is on the way to VB365: then nothing else of the job is recorded before `settled`.
    """

    def __init__(self, record: Record, holder: str) -> None:
        self._record = record
        self._holder = holder
        self._recording: asyncio.Task[Job] | None = None

    def begin(self) -> None:
        """Begin to record the claim of a job without a file."""
        self._recording = asyncio.create_task(self._record.settle(Claimed(self._holder, 0)))

    async def settle(self, offset: int) -> None:
        """Record the claim of a job with `offset` bytes of its file, unless that has begun. Raises
        `Lost`.
        """
        if self._recording is None:
            await self._record.settle(Claimed(self._holder, offset))

    async def settled(self) -> None:
        """Wait until the claim is recorded. Raises `Lost`."""
        if self._recording is not None:
            await self._recording

    async def ended(self) -> None:
        """Wait until the claim is recorded or lost."""
        if self._recording is not None:
            await asyncio.wait([self._recording])

    def give_up(self) -> None:
        """Stop recording. The store may have the claim."""
        if self._recording is not None:
            self._recording.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._recording.cancel()

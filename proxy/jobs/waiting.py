"""Waits for a change of a job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.core.job import Job
from proxy.ports import JobStore


async def until(jobs: JobStore, job: Job, condition: Callable[[Job], bool], timeout: float) -> Job:
    """Return the job when the condition holds, or as last known when it is removed or `timeout`
    seconds are over. Raises `StoreUnavailable`.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    while not condition(job) and (left := end - loop.time()) > 0:
        current = await jobs.wait(job.id, job.version, left)
        if current is None:
            break
        job = current
    return job

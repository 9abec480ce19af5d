"""Steps of a job in a store that replicas share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from proxy.core.events import Assigned, CancelRequested, Claimed, Event
from proxy.core.job import Job
from proxy.core.transitions import advance
from proxy.ports import Bounds, SharedJobs, SlotLimits, SlotUse, Turn
from tests.support.fakes import new_job

#: Seconds of a lease that is to end in a test.
SHORT = 0.3
ONE = SlotLimits(total=1, per_caller=0, hold=60)
MANY = SlotLimits(total=100, per_caller=0, hold=60)
NO_BOUNDS = Bounds(per_caller=100, queued=100, records_per_caller=100, records=100, slots=MANY)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - time has to pass
            await asyncio.sleep(0.01)


async def queued(store: SharedJobs, number: int = 0, **changes: Any) -> Job:
    """A job that waits for a slot, whose credentials the store's replica has."""
    return await store.add(new_job(number, **({"replica": store.replica} | changes)), b"body")


async def claimed(store: SharedJobs, job: Job, slots: SlotLimits = MANY) -> Job:
    """The job with a slot."""
    new = advance(job, Assigned(store.replica), 1)
    assert await store.claim(job, new, slots) is Turn.TAKEN
    return new


async def added(store: SharedJobs, slots: SlotLimits, number: int = 0, **changes: Any) -> Job:
    """A new job, with a slot if there was one for it."""
    job = new_job(number, **({"replica": store.replica} | changes))
    started = advance(advance(job, Assigned(store.replica), 1), Claimed(store.replica), 1)
    stored = await store.add_within(job, b"body", replace(NO_BOUNDS, slots=slots), started)
    assert stored in (job, started)
    assert await store.get(job.id) == stored
    assert await store.body(job.id) == b"body"
    return stored


async def try_claim(store: SharedJobs, job: Job, slots: SlotLimits) -> Turn:
    return await store.claim(job, advance(job, Assigned(store.replica), 1), slots)


async def changed(store: SharedJobs, job: Job, *events: Event) -> Job:
    for event in events:
        new = advance(job, event, 2)
        assert await store.replace(job, new)
        job = new
    return job


def use(running: int = 0, waiting: int = 0, held: int = 0, mine: int = 0) -> SlotUse:
    return SlotUse(running=running, waiting=waiting, held=held, held_by_caller=mine)


async def read(changes: AsyncIterator[str | None], count: int) -> list[str | None]:
    """The next items of a feed."""
    async with asyncio.timeout(20):
        return [await anext(changes) for _ in range(count)]


async def abandoned(store: SharedJobs, slots: SlotLimits, **changes: Any) -> Job:
    """A job that is being cancelled while VB365 generates its file."""
    job = await claimed(store, await queued(store, **changes), slots)
    return await changed(store, job, Claimed(store.replica), CancelRequested())

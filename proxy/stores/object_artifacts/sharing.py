"""Segments that are removed only when no replica reads them (CONTRACT §6).

A replica that reads an artifact for some time stores a mark, the empty object
`artifacts/<id>/reading/<replica>-<number>`, and replaces it by that with the next number regularly.
Whoever removes the artifact waits for a moment, and then for each mark until it goes, or stays the
same for so long that its replica must be dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from proxy.ports import StorageFull, StoreUnavailable
from proxy.stores.object_artifacts.bucket import Bucket
from proxy.stores.object_artifacts.layout import Place

log = structlog.get_logger(__name__)

#: Seconds between two checks of what is to be done.
TICK = 2.0
#: Seconds after which a mark is replaced, and after which an unchanged one counts for nothing.
_RENEWED, _DEAD = 20.0, 70.0
#: Seconds until segments are removed at the earliest: a reader that has no mark yet gets it.
GRACE = 10.0
#: Marks and removals at a time.
_RENEWALS, _REMOVALS = 32, 4

_Step = Callable[[str], Awaitable[None]]


@dataclass(slots=True)
class _Reading:
    """An artifact that this replica reads."""

    readers: int = 0
    number: int = 0
    renewed: float | None = None


@dataclass(slots=True)
class _Removal:
    """Segments to remove. `seen` has the marks of other replicas, and since when."""

    keys: set[str]
    due: float
    seen: dict[str, float] = field(default_factory=dict)


class Sharing:
    """What this replica reads, and what it removes when nobody else reads it."""

    def __init__(self, bucket: Bucket, replica: str) -> None:
        self._bucket = bucket
        self._replica = replica
        self._reading: dict[str, _Reading] = {}
        self._removals: dict[str, _Removal] = {}
        self._task: asyncio.Task[None] | None = None
        #: What is done for a job now, by step and job.
        self._steps: dict[tuple[_Step, str], asyncio.Task[None]] = {}
        self._renewals = asyncio.Semaphore(_RENEWALS)
        self._removing = asyncio.Semaphore(_REMOVALS)

    @property
    def removed(self) -> set[str]:
        """The jobs whose segments are still to be removed."""
        return set(self._removals)

    def doomed(self, id: str) -> set[str]:
        """The segments of the job that are still to be removed."""
        removal = self._removals.get(id)
        return set() if removal is None else removal.keys

    def reads(self, id: str) -> bool:
        """Whether this replica reads the job's artifact."""
        return id in self._reading

    def opened(self, id: str) -> None:
        """Note a reader of the job's artifact."""
        self._reading.setdefault(id, _Reading()).readers += 1
        self._start()

    def closed(self, id: str) -> None:
        """Note that the reader is closed."""
        self._reading[id].readers -= 1

    def remove_later(self, id: str, keys: set[str]) -> None:
        """Remove the segments when nobody reads them. After a crash any replica can do it again."""
        removal = self._removals.setdefault(id, _Removal(set(), _time() + GRACE))
        removal.keys |= keys
        self._start()

    async def close(self) -> None:
        """Stop. What is left is found by `ids` of any replica."""
        tasks = [*self._steps.values(), *([] if self._task is None else [self._task])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._reading or self._removals:
            await asyncio.sleep(TICK)
            for job in self._reading:
                self._begin(self._renew, job, self._renewals)
            for job, removal in self._removals.items():
                if removal.due <= _time() and job not in self._reading:
                    self._begin(self._remove, job, self._removing)

    def _begin(self, step: _Step, id: str, limit: asyncio.Semaphore) -> None:
        """Take the step for the job, unless it is being taken. It delays no other job: a mark that
        is late does not count.
        """
        key = step, id
        if key not in self._steps:
            task = self._steps[key] = asyncio.create_task(self._try(step, id, limit))
            task.add_done_callback(lambda _: self._steps.pop(key))

    async def _try(self, step: _Step, id: str, limit: asyncio.Semaphore) -> None:
        try:
            async with limit:
                await step(id)
        except (StoreUnavailable, StorageFull) as why:
            log.warning("removed segments not settled", job=id, reason=str(why))

    def _mark(self, id: str, number: int) -> str:
        return f"{_marks(id)}/{self._replica}-{number}"

    async def _renew(self, id: str) -> None:
        reading = self._reading[id]
        old = [self._mark(id, reading.number)] if reading.renewed is not None else []
        if not reading.readers:
            del self._reading[id]
            await self._bucket.remove(old)
        elif reading.renewed is None or _time() - reading.renewed >= _RENEWED:
            reading.number += 1
            await self._bucket.store(self._mark(id, reading.number), b"")
            reading.renewed = _time()
            await self._bucket.remove(old)

    async def _remove(self, id: str) -> None:
        removal, now = self._removals[id], _time()
        marks = await self._bucket.sizes(_marks(id))
        removal.seen = {mark: removal.seen.get(mark, now) for mark in marks}
        if any(now - since < _DEAD for since in removal.seen.values()):
            removal.due = now + TICK
            return
        await self._bucket.remove(removal.keys | marks.keys())
        del self._removals[id]


def _marks(id: str) -> str:
    return f"{Place(id).job}/reading"


def _time() -> float:
    return asyncio.get_running_loop().time()

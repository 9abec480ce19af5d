"""Stores in memory, with faults on demand: they pass the contract suite of the real ones
(tests/contract).

`faults` of a store maps the name of a method to exceptions to raise, one for each call to come::

    jobs.faults["replace"].append(StoreUnavailable("the disk is gone"))

A fault strikes before anything changes. `gates` maps the name of a method to an `asyncio.Event` to
wait for first.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import sys
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any
from uuid import UUID, uuid4

from proxy.core import outbox, retention
from proxy.core.job import ExportRequest, Job
from proxy.core.rescue import gained, rescue_key, unique_key
from proxy.ports import (
    Artifact,
    Counts,
    Fields,
    KeyTaken,
    LengthMismatch,
    PartialLost,
    StorageFull,
    StoreUnavailable,
)
from proxy.stores.growth import Growth
from tests.support.export_requests import export_request

#: A job id and a fence.
Key = tuple[str, int]


class Faulty:
    """What both stores share: faults, gates and being closed."""

    def __init__(self) -> None:
        self.faults: defaultdict[str, deque[BaseException]] = defaultdict(deque)
        self.gates: dict[str, asyncio.Event] = {}
        self.closed = False

    async def enter(self, method: str) -> None:
        """To be called first by every method."""
        if method in self.gates:
            await self.gates[method].wait()
        if self.faults[method]:
            raise self.faults[method].popleft()
        if self.closed:
            raise StoreUnavailable("the store is closed")


class MemoryJobs(Faulty):
    """A `JobStore` in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, Job] = {}
        self.bodies: dict[str, bytes] = {}
        self.changed = asyncio.Condition()

    async def add(self, job: Job, body: bytes) -> Job:
        await self.enter("add")
        known = self.jobs.get(job.id)
        for owner in job.owners:
            known = known or self._find(owner, unique_key(job))
        if known is not None:
            return known
        self.bodies[job.id] = body
        await self._put(job)
        return job

    async def get(self, id: str) -> Job | None:
        await self.enter("get")
        return self.jobs.get(id)

    async def recent(self, id: str, *, fresh: bool = False) -> Job | None:
        return await self.get(id)

    def in_memory(self, id: str) -> Job | None:
        return None

    async def find(self, owner: str, idempotency_key: str) -> Job | None:
        await self.enter("find")
        return self._find(owner, idempotency_key)

    def _find(self, owner: str, key: str | None) -> Job | None:
        matches = (
            job for job in self.jobs.values() if owner in job.owners and unique_key(job) == key
        )
        return None if key is None else next(matches, None)

    async def match(self, owner: str, fingerprint: str) -> Job | None:
        await self.enter("match")
        return self._find(owner, rescue_key(fingerprint))

    async def body(self, id: str) -> bytes | None:
        await self.enter("body")
        return self.bodies.get(id)

    async def replace(self, old: Job, new: Job) -> bool:
        await self.enter("replace")
        if old.id != new.id:
            raise ValueError("a job is replaced by its own next version")
        if not self._is_stored(old):
            return False
        if any(self._find(owner, key) for owner, key in gained(old, new)):
            raise KeyTaken
        if new.terminal or new.forgotten:
            self.bodies.pop(new.id, None)
        await self._put(new)
        return True

    async def remove(self, job: Job) -> bool:
        await self.enter("remove")
        if not self._is_stored(job):
            return False
        self.bodies.pop(job.id, None)
        del self.jobs[job.id]
        await self._wake()
        return True

    def _is_stored(self, job: Job) -> bool:
        stored = self.jobs.get(job.id)
        return stored is not None and stored.version == job.version

    async def list(self, *, owner: str | None = None, session: str | None = None) -> list[Job]:
        await self.enter("list")
        chosen = [job for job in self.jobs.values() if owner in (None, *job.owners)]
        if session is not None:
            chosen = [job for job in chosen if job.request.session is not None]
            chosen = [job for job in chosen if str(job.request.session).lower() == session.lower()]
        return sorted(chosen, key=lambda job: (job.created, job.id), reverse=True)

    async def newest(
        self, *, owners: Collection[str] = (), session: str | None = None
    ) -> AsyncGenerator[Sequence[Job], None]:
        if session is not None:
            yield await self.list(session=session)
            return
        found = {job.id: job for owner in owners for job in await self.list(owner=owner)}
        yield sorted(found.values(), key=lambda job: job.sort_key, reverse=True)

    async def counts(self, owners: Collection[str]) -> Counts:
        await self.enter("counts")
        mine = [job for job in self.jobs.values() if set(owners) & set(job.owners)]
        return Counts(sum(not job.terminal for job in mine), len(mine), len(self.jobs))

    async def spent(self, owners: Collection[str] | None, limit: int) -> Sequence[Job]:
        await self.enter("spent")
        chosen = [
            job for job in self.jobs.values() if owners is None or set(owners) & set(job.owners)
        ]
        ranks = sorted(rank for job in chosen if (rank := retention.spent(job)) is not None)
        return [self.jobs[each] for *_, each in ranks[:limit]]

    async def pending(self, endpoint: str, until: float, limit: int) -> Sequence[Job]:
        await self.enter("pending")
        due = [(outbox.pending(job).get(endpoint), key) for key, job in self.jobs.items()]
        found = sorted((at, key) for at, key in due if at is not None and at <= until)
        return [self.jobs[key] for _, key in found[:limit]]

    async def backlog(self, endpoint: str) -> int:
        await self.enter("backlog")
        return sum(endpoint in outbox.pending(job) for job in self.jobs.values())

    async def due(self, stage: retention.Stage, until: float) -> Sequence[Job]:
        await self.enter("due")
        found = [
            (at[1], job.id)
            for job in self.jobs.values()
            if (at := retention.stage(job)) and at[0] is stage
        ]
        return [self.jobs[each] for moment, each in sorted(found) if moment <= until]

    async def wait(self, id: str, version: int, timeout: float) -> Job | None:
        await self.enter("wait")

        def differs() -> bool:
            job = self.jobs.get(id)
            return self.closed or job is None or job.version != version

        try:
            async with asyncio.timeout(timeout), self.changed:
                await self.changed.wait_for(differs)
        except TimeoutError:
            pass
        return self.jobs.get(id)

    async def probe(self) -> None:
        await self.enter("probe")

    async def close(self) -> None:
        self.closed = True
        await self._wake()

    async def _put(self, job: Job) -> None:
        self.jobs[job.id] = job
        await self._wake()

    async def _wake(self) -> None:
        async with self.changed:
            self.changed.notify_all()


class MemoryPartial:
    """A `Partial` in memory."""

    def __init__(self, store: MemoryArtifacts, key: Key, data: bytearray) -> None:
        self._store = store
        self._key = self.key = key
        self._data = data
        self._failure: BaseException | None = None
        self._ended = False
        self.growth = Growth()

    @property
    def offset(self) -> int:
        return len(self._data)

    async def write(self, chunk: bytes) -> None:
        await self._enter("write")
        if len(chunk) > self._store.room():
            self._failure = StorageFull("no space")
            raise self._failure
        self._data += chunk
        self.growth.grew()

    def tail(self) -> MemoryTail:
        return MemoryTail(self._store, self._data, self.growth)

    async def read(self, start: int, stop: int) -> bytes:
        await self._enter("read")
        return bytes(self._data[start:stop])

    def publish(self) -> int:
        return len(self._data)

    async def _enter(self, method: str) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            await self._store.enter(method)
        except StorageFull as why:
            self._failure = why
            raise
        if self._ended:
            raise PartialLost("the partial is closed")

    async def commit(self, size: int, record_copy: Callable[[Artifact], bytes]) -> Artifact:
        await self._enter("commit")
        if self._store.partials.get(self._key) is not self._data or any(
            self._later(self._store.files)
        ):
            raise PartialLost("the partial is not ours any more")
        if len(self._data) != size:
            raise LengthMismatch(f"{len(self._data)} bytes, not {size}")
        artifact = Artifact(
            self._key[0], size, hashlib.sha256(self._data).digest(), self._store.now()
        )
        note = record_copy(artifact)
        self._end()
        self._store.files[self._key] = (artifact, bytes(self._data), note)
        del self._store.partials[self._key]
        self.growth.end(committed=True)
        return artifact

    async def keep(self) -> None:
        await self._store.enter("keep")
        if (
            any(self._later(self._store._keys(self._key[0])))
            and self._store.partials.get(self._key) is self._data
        ):
            del self._store.partials[self._key]
        self._end()
        self.growth.end(committed=False)

    async def discard(self) -> None:
        await self._store.enter("discard")
        if not self._ended and self._store.partials.get(self._key) is self._data:
            del self._store.partials[self._key]
        self._end()

        self.growth.end(committed=False)

    def _later(self, keys: Iterable[Key]) -> Iterator[bool]:
        job, fence = self._key
        return (each[0] == job and each[1] > fence for each in keys)

    def _end(self) -> None:
        self._ended = True
        self._store.growing.pop(id(self._data), None)
        self._store.writers.pop(id(self._data), None)


class MemoryTail:
    """A `Tail` in memory."""

    def __init__(self, store: MemoryArtifacts, data: bytearray, growth: Growth) -> None:
        self._store = store
        self._data = data
        self._growth = growth

    async def read(self, start: int) -> bytes:
        await self._store.enter("tail")
        while True:
            if self._growth.stopped:
                raise PartialLost("the partial is closed")
            if start < len(self._data):
                return bytes(self._data[start : start + (1 << 16)])
            if self._growth.committed:
                return b""
            await self._growth.wait()

    async def close(self) -> None:
        """Nothing is open."""


class MemoryReader:
    """A `Reader` in memory."""

    def __init__(self, store: MemoryArtifacts, artifact: Artifact, data: bytes) -> None:
        self.artifact = artifact
        self._store = store
        self._data = data
        self._closed = False

    async def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        for at in range(start, stop, 1 << 16):
            await self._store.enter("chunks")
            piece = self._data[at : min(at + (1 << 16), stop)]
            if self._closed or len(piece) < min(1 << 16, stop - at):
                raise StoreUnavailable("the bytes are not there")
            yield piece

    async def close(self) -> None:
        self._closed = True


class MemoryArtifacts(Faulty):
    """An `ArtifactStore` in memory, with room for `capacity` bytes (None: no limit). Faults of
    partials and readers are those of the store: "write", "read", "commit", "keep", "discard",
    "chunks". It shares the files of the store `shared`, as that of another replica does.
    """

    def __init__(
        self,
        *,
        capacity: int | None = None,
        clock: Callable[[], float] = time.time,
        shared: MemoryArtifacts | None = None,
    ) -> None:
        super().__init__()
        self.now = clock
        self.capacity = capacity
        self.files: dict[Key, tuple[Artifact, bytes, bytes]] = shared.files if shared else {}
        self.partials: dict[Key, bytearray] = shared.partials if shared else {}
        self.growing: dict[int, bytearray] = {}
        self.writers: dict[int, MemoryPartial] = {}

    async def create(self, id: str, fence: int = 0) -> MemoryPartial:
        await self.enter("create")
        self._drop(_checked(id), below=fence)
        return self._begin((id, fence), bytearray())

    async def resume(self, id: str, fence: int = 0) -> MemoryPartial | None:
        await self.enter("resume")
        kept = self.partials.get((_checked(id), fence))
        if kept is not None and any(kept is data for data in self.growing.values()):
            raise StoreUnavailable("the partial is being written")
        if kept is None and (id, fence) not in self.files:
            kept = self._taken_over(id, fence)
        return None if kept is None else self._begin((id, fence), kept)

    def _taken_over(self, id: str, fence: int) -> bytearray | None:
        below = [each for each in self._keys(id) if each[1] < fence]
        if not below:
            return None
        key = max(below)
        data = bytearray(self.partials[key] if key in self.partials else self.files[key][1])
        self._drop(id, below=fence)
        return data

    def _keys(self, id: str) -> list[Key]:
        return [key for key in self.files.keys() | self.partials.keys() if key[0] == id]

    def _drop(self, id: str, *, below: float) -> None:
        for key in self._keys(id):
            if key[1] < below:
                self.files.pop(key, None)
                self.partials.pop(key, None)

    def _begin(self, key: Key, data: bytearray) -> MemoryPartial:
        self.partials[key] = data
        self.growing[id(data)] = data
        made = MemoryPartial(self, key, data)
        self.writers[id(data)] = made
        return made

    async def open_published(self, id: str, fence: int, size: int) -> MemoryReader | None:
        await self.enter("open_published")
        data: bytes | bytearray | None = self.partials.get((_checked(id), fence))
        if (id, fence) in self.files:
            data = self.files[id, fence][1]
        if data is None or len(data) < size:
            return None
        return MemoryReader(self, Artifact(id, size, b"", 0.0), bytes(data))

    def tail(self, id: str, fence: int = 0) -> MemoryTail | None:
        wanted = _checked(id), fence
        found = (each for each in self.writers.values() if each.key == wanted)
        return next((each.tail() for each in found), None)

    async def get(self, id: str, fence: int = 0) -> Artifact | None:
        await self.enter("get")
        found = self.files.get((_checked(id), fence))
        return None if found is None else found[0]

    async def record_copy(self, id: str, fence: int | None = 0) -> bytes | None:
        await self.enter("record_copy")
        if fence is None:
            fence = max((each[1] for each in self.files if each[0] == id), default=0)
        found = self.files.get((_checked(id), fence))
        return None if found is None else found[2]

    async def open(self, id: str, fence: int = 0) -> MemoryReader | None:
        await self.enter("open")
        found = self.files.get((_checked(id), fence))
        return None if found is None else MemoryReader(self, found[0], found[1])

    async def remove(self, id: str) -> None:
        await self.enter("remove")
        self._drop(_checked(id), below=math.inf)

    async def ids(self) -> set[str]:
        await self.enter("ids")
        return {key[0] for key in (*self.files, *self.partials)}

    async def free(self) -> int:
        await self.enter("free")
        return max(0, self.room())

    def room(self) -> int:
        return sys.maxsize if self.capacity is None else self.capacity - self._used()

    async def used(self) -> int:
        await self.enter("used")
        return self._used()

    def _used(self) -> int:
        held = {id(data): len(data) for data in (*self.partials.values(), *self.growing.values())}
        return sum(held.values()) + sum(artifact.size for artifact, _, _ in self.files.values())

    async def close(self) -> None:
        self.closed = True


class NobodyKnown:
    """A `Trust` that knows no credentials; `refused` lists those that it was told to distrust."""

    def __init__(self) -> None:
        self.refused: list[Fields] = []

    def knows(self, fields: Fields) -> bool:
        return False

    async def rejects(self, fields: Fields) -> bool:
        return False

    def distrust(self, fields: Fields) -> None:
        self.refused.append(fields)


def _checked(job: str) -> str:
    if str(UUID(job)) != job:
        raise ValueError(f"not a job id: {job!r}")
    return job


def new_job(number: int = 0, **changes: Any) -> Job:
    """A queued job created at second `number`; `key`, `session` and other members of the request go
    into it.
    """
    request = export_request(
        target="/v8/RestoreSessions/s1/organization/mailboxes/m1/exportToPst",
        session="s1",
        content_type="application/json",
        fingerprint="0" * 64,
    )
    of_request = {field.name for field in fields(ExportRequest)}
    inner = {name: changes.pop(name) for name in list(changes) if name in of_request}
    if "key" in changes:
        inner["idempotency_key"] = changes.pop("key")
    outer: dict[str, Any] = {
        "id": str(uuid4()),
        "owner": "alice",
        "version": 1,
        "created": float(number),
        "updated": float(number),
    }
    return Job(request=replace(request, **inner), **(outer | changes))

"""A partial file: segments are hashed in a thread and stored while the network is read."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from proxy.ports import Artifact, LengthMismatch, PartialLost, StorageFull, StoreUnavailable
from proxy.stores.object_artifacts.documents import read_commit, read_head
from proxy.stores.object_artifacts.failures import Missing
from proxy.stores.object_artifacts.interface import Store
from proxy.stores.object_artifacts.layout import (
    Commit,
    Head,
    Place,
    Run,
    Segment,
    Sequence,
    by_fence,
    length,
)
from proxy.stores.object_artifacts.tail import ObjectTail
from proxy.stores.partial_state import PartialState
from proxy.stores.threads import undisturbed

log = structlog.get_logger(__name__)

#: Bytes of a segment.
SEGMENT = 8 << 20
#: Segments being stored at a time. A partial file has at most this many segments in memory, and
#: what the last call to `write` added.
UPLOADS = 3


@dataclass(slots=True, eq=False)
class _Pending:
    """A segment that is not stored yet. `task` is None after a failure."""

    index: int
    start: int
    data: bytearray
    task: asyncio.Task[None] | None = None
    hashed: bool = False


class ObjectPartial:
    """A `Partial` over the segments of a job under one fence. One call at a time.

    A segment that could not be stored is kept in memory, and the next call first tries to store it
    again.
    """

    def __init__(self, store: Store, place: Place, head: Head, digest: hashlib._Hash) -> None:
        self.place = place
        self._state = PartialState(place.id)
        self.growth = self._state.growth
        self._store = store
        self._head = head
        self._digest = digest
        #: Sizes of the segments that this writer has begun to store.
        self._sizes: list[int] = []
        #: All segments, found and begun.
        self._segments = Sequence(place, (*head.runs, Run(head.token, ())))
        self._first = sum(len(run.sizes) for run in head.runs)
        self._sealed = length(head.runs)
        self._buffer = bytearray()
        self._pending: dict[int, _Pending] = {}
        self._hashing = asyncio.Lock()
        self._kept: int | None = None
        #: Whether the artifact may be stored: the response to that may have been lost.
        self._committing = False
        self._committed = False

    @property
    def offset(self) -> int:
        """As `Partial.offset`."""
        return self._sealed + len(self._buffer) if self._kept is None else self._kept

    @property
    def _runs(self) -> tuple[Run, ...]:
        own = (Run(self._head.token, tuple(self._sizes)),) if self._sizes else ()
        return (*self._head.runs, *own)

    def in_memory(self, start: int, limit: int) -> bytes:
        """At most `limit` of the accepted bytes from `start` on; none if they are in a stored
        segment.
        """
        pending = ((each.start, each.data) for each in self._pending.values())
        for begin, data in ((self._sealed, self._buffer), *pending):
            if begin <= start < begin + len(data):
                return bytes(data[start - begin : start - begin + limit])
        return b""

    def segment_at(self, start: int) -> Segment:
        """The stored segment that has the byte `start`."""
        return self._segments.at(start)

    def tail(self) -> ObjectTail:
        """A follower of the file."""
        return ObjectTail(self._store, self)

    async def write(self, chunk: bytes) -> None:
        """As `Partial.write`. The bytes may not be stored yet: a later call raises for them."""
        self._state.check()
        if self._state.trouble is not None:
            await self._settled()
        rest = memoryview(chunk)
        while rest:
            free = SEGMENT - len(self._buffer)
            self._buffer += rest[:free]
            rest = rest[free:]
            if len(self._buffer) == SEGMENT:
                self._seal()
        self.growth.grew()
        while len(self._pending) >= UPLOADS and not self._state.failing:
            await self._wait(asyncio.FIRST_COMPLETED)
        self._state.check()

    def publish(self) -> int:
        """As `Partial.publish`: whole segments. A smaller one each time would be too many."""
        return min((each.start for each in self._pending.values()), default=self._sealed)

    def _seal(self) -> None:
        """Begin to store what is gathered as a segment."""
        if not self._buffer:
            return
        data, self._buffer = self._buffer, bytearray()
        pending = _Pending(self._first + len(self._sizes), self._sealed, data)
        self._pending[pending.index] = pending
        self._sizes.append(len(data))
        self._segments.add(len(data))
        self._sealed += len(data)
        self._begin(pending)

    def _begin(self, pending: _Pending) -> None:
        pending.task = asyncio.ensure_future(self._upload(pending))
        pending.task.add_done_callback(lambda task: self._uploaded(pending, task))

    async def _upload(self, pending: _Pending) -> None:
        key = self.place.segment(pending.index, self._head.token)
        hashing = asyncio.ensure_future(self._hash(pending))
        try:
            await self._store.bucket.store(key, pending.data)
        finally:
            await hashing

    async def _hash(self, pending: _Pending) -> None:
        """Hash the segment after those before it: the lock is fair."""
        async with self._hashing:
            if not pending.hashed:
                await self._store.begin(self._digest.update, pending.data)
                pending.hashed = True

    def _uploaded(self, pending: _Pending, task: asyncio.Task[None]) -> None:
        pending.task = None
        why = None if task.cancelled() else task.exception()
        if isinstance(why, StoreUnavailable):
            self._state.trouble = why
        elif isinstance(why, Exception):
            self._state.failure = why
        elif not task.cancelled():
            del self._pending[pending.index]

    async def _wait(self, when: str) -> None:
        tasks = [each.task for each in self._pending.values() if each.task is not None]
        if tasks:
            await asyncio.wait(tasks, return_when=when)

    async def _settle(self) -> None:
        """Try to store each segment that is not stored, and wait until that is done."""
        await self._wait(asyncio.ALL_COMPLETED)
        if self._state.failure is None and self._pending:
            self._state.trouble = None
            for pending in list(self._pending.values()):
                self._begin(pending)
            await self._wait(asyncio.ALL_COMPLETED)

    async def _settled(self) -> None:
        """Store every segment. Raises the failure."""
        await self._settle()
        self._state.check_stored()

    async def read(self, start: int, stop: int) -> bytes:
        """As `Partial.read`."""
        self._state.check()
        pieces = []
        at, sealed = start, min(stop, self._sealed)
        while at < sealed:
            segment = self._segments.at(at)
            last = min(sealed, segment.start + segment.size)
            pieces.append(await self._read(segment, at, last))
            at = last
        if stop > self._sealed:
            view = self._buffer[max(0, start - self._sealed) : stop - self._sealed]
            pieces.append(bytes(view))
        return b"".join(pieces)

    async def _read(self, segment: Segment, start: int, stop: int) -> bytes:
        start, stop = start - segment.start, stop - segment.start
        for pending in self._pending.values():
            if pending.start == segment.start:
                return bytes(pending.data[start:stop])
        try:
            return bytes(await self._store.bucket.read_range(segment.key, start, stop))
        except Missing:
            raise PartialLost(f"a part of the file of job {self.place.id} is gone") from None

    async def commit(self, size: int, record_copy: Callable[[Artifact], bytes]) -> Artifact:
        """As `Partial.commit`."""
        self._state.check()
        if self.offset != size:
            raise LengthMismatch(
                f"the file of job {self.place.id} has {self.offset} bytes, not {size}"
            )
        self._seal()
        await self._settled()
        artifact = Artifact(self.place.id, size, self._digest.digest(), self._store.now())
        commit = Commit(artifact, self._runs, record_copy(artifact))
        async with self._store.turn(self.place.id):
            superseded = await undisturbed(asyncio.ensure_future(self._commit(commit)))
        if superseded:
            await self._clear()
            raise PartialLost(f"another replica has stored the file of job {self.place.id}")
        self._end(committed=True)
        return artifact

    async def _commit(self, commit: Commit) -> bool:
        """Store the artifact, if every segment is stored and the partial file is still this one.
        Return whether a writer with a greater fence has committed the file before.
        """
        bucket, place = self._store.bucket, self.place
        if not (await self._is_mine() or await self._is_stored()):
            raise PartialLost(f"the partial file of job {place.id} was removed or replaced")
        stored = await bucket.sizes(place.segments)
        for segment in place.listed(commit.runs):
            if stored.get(segment.key) != segment.size:
                raise PartialLost(f"a part of the file of job {place.id} is gone")
        self._committing = True
        await bucket.store(place.commit, commit.encode())
        self._committed = True
        try:
            return await self._store.tidy(place, commit.runs)
        except (StoreUnavailable, StorageFull) as why:
            log.warning("segments not removed", job=place.id, reason=str(why))
            return False

    async def _is_mine(self) -> bool:
        head = await read_head(self._store.bucket, self.place)
        return head is not None and head.token == self._head.token

    async def _is_stored(self) -> bool:
        """Whether this writer has stored the artifact. Any replica may have removed the partial
        file beside it since then.
        """
        if not self._committing:
            return False
        artifact = await read_commit(self._store.bucket, self.place)
        return artifact is not None and artifact.runs == self._runs

    async def keep(self) -> None:
        """As `Partial.keep`. Raises if accepted bytes could not be stored, except for a
        `StorageFull` that was raised before.
        """
        await self._state.keep(self._keep)

    async def _keep(self) -> None:
        try:
            if self._state.failure is None:
                self._seal()
            await self._settle()
            if await self._is_superseded():
                await self._clear()
                self._state.failure = self._state.trouble = None  # nobody needs the bytes
        finally:
            self._end(committed=self._committed)

    async def _is_superseded(self) -> bool:
        """Whether a writer with a greater fence has taken the file over: it has a copy, and removed
        what it found, perhaps before the last segments of this writer were stored.
        """
        found = by_fence(self.place.id, await self._store.bucket.sizes(self.place.job))
        return any(
            fence > self.place.fence and (files.head or files.commit)
            for fence, files in found.items()
        )

    async def discard(self) -> None:
        """As `Partial.discard`. It also removes a file whose `commit` was cancelled too late, but
        not one whose `commit` returned.
        """
        await self._state.discard(self._discard)

    async def _discard(self) -> None:
        self._buffer = bytearray()
        try:
            await self._wait(asyncio.ALL_COMPLETED)
            await self._clear()
        finally:  # what cannot be removed now counts until it is
            self._end(committed=False)

    async def _clear(self) -> None:
        """Remove the objects of this writer; what it has found only if nobody has replaced it."""
        place, bucket = self.place, self._store.bucket
        async with self._store.turn(place.id):
            keys = [segment.key for segment in place.listed(self._runs)]
            documents = [place.commit] if self._committed or await self._is_stored() else []
            if not self._committed and await self._is_mine():
                documents.append(place.head)
            if not documents:
                keys = keys[self._first :]
            await bucket.remove(documents)
            await bucket.remove(keys)
        self._pending.clear()
        self._sizes, self._sealed = [], 0

    def _end(self, *, committed: bool) -> None:
        missing = min((each.start for each in self._pending.values()), default=self._sealed)
        self._pending.clear()
        self._buffer = bytearray()
        self._kept = missing
        self._state.end(committed=committed)
        self._store.ended(self, kept=missing, committed=committed)

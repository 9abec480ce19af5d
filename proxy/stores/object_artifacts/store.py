"""Artifacts in a bucket; see `layout` for its objects."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar
from weakref import WeakValueDictionary

import structlog

from proxy.net.budget import Budget
from proxy.ports import Artifact, Readable, StorageFull, StoreUnavailable, Tail
from proxy.ports.artifacts import STORE_ID
from proxy.stores.object_artifacts import opening
from proxy.stores.object_artifacts.bucket import Bucket
from proxy.stores.object_artifacts.documents import read_commit
from proxy.stores.object_artifacts.interface import GrowingFile
from proxy.stores.object_artifacts.layout import (
    ROOT,
    Commit,
    Files,
    Place,
    Run,
    by_fence,
    checked,
    is_id,
)
from proxy.stores.object_artifacts.location import Location
from proxy.stores.object_artifacts.partial import ObjectPartial
from proxy.stores.object_artifacts.reader import LARGE_PIECES, ObjectReader
from proxy.stores.object_artifacts.sharing import Sharing
from proxy.stores.object_artifacts.thread import keep_thread
from proxy.stores.threads import Threads, begin

_P = ParamSpec("_P")
_T = TypeVar("_T")
log = structlog.get_logger(__name__)

#: Threads that hash what is stored and read again.
_THREADS = 4
#: Jobs whose objects are counted at a time.
_AT_A_TIME = 32
#: Seconds for each listed object until the objects of a job that another replica writes are listed
#: again.
_SURVEY_COST = 0.005
#: Seconds between two times at which the id of the bucket is stored again, so that no rule which
#: expires old objects removes it from a proxy that runs. Such rules count days.
_REFRESH = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class _Known:
    """Bytes of the files of a job that this process does not write; `due` is the time at which they
    are counted again, None if they do not change.
    """

    size: int
    due: float | None = None


class ObjectArtifacts:
    """An `ArtifactStore` in a bucket."""

    def __init__(self, bucket: Bucket, *, clock: Callable[[], float] = time.time) -> None:
        self.now = clock
        self.large_pieces = Budget(LARGE_PIECES)
        self._bucket = bucket
        self._threads = Threads(_THREADS, "objects")
        self._keeping = asyncio.create_task(keep_thread())
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._growing: set[GrowingFile] = set()
        self._writers = opening.Writers()
        self._sharing = Sharing(bucket, opening.new_token())
        self._known: dict[str, _Known] = {}
        self._id: str | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def at(
        cls, location: Location, *, clock: Callable[[], float] = time.time
    ) -> ObjectArtifacts:
        """Open the artifacts at the location. Raises `StoreUnavailable`, and ValueError as
        `Location.connect` does.
        """
        bucket = await asyncio.get_running_loop().run_in_executor(None, location.connect)
        store = cls(bucket, clock=clock)
        try:
            await store.ids()
        except BaseException:
            await store._end_threads()
            raise
        return store

    def location(self) -> str:
        """The name of the store, without secrets."""
        return self._bucket.location

    async def probe(self) -> None:
        """Store, read and remove a small object. Raises `StoreUnavailable` or `StorageFull` with
        the cause and the fix.
        """
        key, content = f"probe/{opening.new_token()}", b"vb365-async-proxy"
        await self.bucket.store(key, content)
        found = await self.bucket.read(key)
        await self.bucket.remove([key])
        if found != content:
            raise StoreUnavailable(f"{self.location()} does not return what was stored in it")

    async def identity(self) -> str | None:
        """As `Identified.identity`."""
        content = await self.bucket.read(STORE_ID)
        if content is None:
            return None
        try:
            return str(uuid.UUID(content.decode("ascii").strip()))
        except ValueError as why:
            raise StoreUnavailable(f"{self.location()}: {STORE_ID} is damaged: delete it") from why

    async def identify(self, id: str) -> str:
        """As `Identified.identify`. Replicas that call it at the same time offer the same id."""
        found = await self.identity()
        if found is None:
            await self._store_id(id)
            found = id
        self._id = found
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh(found))
        return found

    async def _store_id(self, id: str) -> None:
        await self.bucket.store(STORE_ID, f"{id}\n".encode())

    async def _refresh(self, id: str) -> None:
        """Store the id again and again while it is there, until cancelled."""
        while True:
            await asyncio.sleep(_REFRESH)
            try:
                if await self.identity() == id:
                    await self._store_id(id)
            except (StoreUnavailable, StorageFull) as why:
                log.warning("the id of the bucket is not stored again", reason=str(why))

    async def check(self) -> None:
        """As `Checked.check`."""
        if await self.identity() != self._id and self._id is not None:
            raise StoreUnavailable(
                f"{self.location()} is not the bucket that it was at the start: its {STORE_ID} is "
                "another one, or missing"
            )

    async def _checked(self, found: _T) -> _T:
        """What was found. Nothing found in a bucket that was emptied, or in another one, is not
        nothing.
        """
        if found is None:
            await self.check()
        return found

    async def create(self, id: str, fence: int = 0) -> ObjectPartial:
        """As `ArtifactStore.create`."""
        place = Place(checked(id), fence)
        async with self.turn(id):
            with self._writers.opening(place) as token:
                made = await opening.begin(self, place, token)
            self._growing.add(made)
        return made

    async def resume(self, id: str, fence: int = 0) -> ObjectPartial | None:
        """As `ArtifactStore.resume`. Raises `StoreUnavailable` while another writer in this process
        has the file open.
        """
        place = Place(checked(id), fence)
        async with self.turn(id):
            if any(each.place == place for each in self._growing):
                raise StoreUnavailable(f"the partial file of job {id} is being written")
            with self._writers.opening(place) as token:
                kept = await self._checked(await opening.resume(self, place, token))
            if kept is not None:
                self._growing.add(kept)
                self._count(id, -kept.offset)
        return kept

    async def get(self, id: str, fence: int = 0) -> Artifact | None:
        """As `ArtifactStore.get`."""
        found = await self._committed(Place(checked(id), fence))
        return None if found is None else found.artifact

    async def record_copy(self, id: str, fence: int | None = 0) -> bytes | None:
        """As `ArtifactStore.record_copy`."""
        if fence is None:
            found_files = await opening.survey(self.bucket, checked(id))
            fence = max((each for each, of in found_files.items() if of.commit), default=0)
        found = await self._committed(Place(checked(id), fence))
        return None if found is None else found.record_copy

    async def _committed(self, place: Place) -> Commit | None:
        return await self._checked(await read_commit(self.bucket, place))

    async def open(self, id: str, fence: int = 0) -> ObjectReader | None:
        """As `ArtifactStore.open`."""
        place = Place(checked(id), fence)
        async with self.turn(id):
            found = await self._committed(place)
            if found is None:
                return None
            self._sharing.opened(id)
        return ObjectReader(self, place, found)

    async def open_published(self, id: str, fence: int, size: int) -> Readable | None:
        """As `Published.open_published`."""
        place = Place(checked(id), fence)
        found = await opening.published(self.bucket, place, size)
        if found is None:
            return None
        self._sharing.opened(id)
        return ObjectReader(self, place, found)

    def tail(self, id: str, fence: int = 0) -> Tail | None:
        """As `Followable.tail`."""
        place = Place(checked(id), fence)
        return next((each.tail() for each in self._growing if each.place == place), None)

    async def remove(self, id: str) -> None:
        """As `ArtifactStore.remove`. Segments that may be read are removed later."""
        async with self.turn(checked(id)):
            stored = await self.bucket.sizes(Place(id).job)
            documents = {key for key in stored if "." in key.rpartition("/")[2]}
            # without a document it may be an artifact that another replica has begun to remove
            readable = not documents or any(key.endswith(".json") for key in documents)
            await self.bucket.remove(documents)
            await self._remove_segments(id, stored.keys() - documents, readable=readable)
            self._known.pop(id, None)
            self._writers.forget(id)

    async def _remove_segments(self, id: str, keys: set[str], *, readable: bool) -> None:
        keys = keys - self._sharing.doomed(id)
        if readable and keys:
            self._sharing.remove_later(id, keys)
        else:
            await self.bucket.remove(keys)

    async def ids(self) -> set[str]:
        """As `ArtifactStore.ids`. Lists the bucket, and so finds the changes of other replicas."""
        before = dict(self._known)
        found = {name for name in await self.bucket.names(ROOT) if is_id(name)}
        growing = {each.place.id for each in self._growing}
        found -= self._sharing.removed - growing - self._known.keys()
        for job, counted in before.items():
            if job not in found and self._known.get(job) is counted:
                del self._known[job]
        now = time.monotonic()
        rest = [job for job in found - growing if self._is_due(job, now)]
        while rest:
            some, rest = rest[:_AT_A_TIME], rest[_AT_A_TIME:]
            counted_now = await asyncio.gather(*(self._measure(job) for job in some))
            found -= {job for job, there in zip(some, counted_now, strict=True) if not there}
        return found

    def _is_due(self, id: str, now: float) -> bool:
        known = self._known.get(id)
        return known is None or (known.due is not None and known.due <= now)

    async def _measure(self, id: str) -> bool:
        """Count the bytes of the job. False if it has no objects: SeaweedFS lists the names of some
        whose objects were removed.
        """
        async with self.turn(id):
            if any(each.place.id == id for each in self._growing):
                return True
            stored = await self.bucket.sizes(Place(id).job)
            if not stored:
                self._known.pop(id, None)
                return False
            found = by_fence(id, stored)
            committed = max((fence for fence, of in found.items() if of.commit), default=None)
            due = None if committed is not None else time.monotonic() + len(stored) * _SURVEY_COST
            self._known[id] = _Known(_stored(id, stored), due)
            if committed is not None and _has_remains(found, committed):
                await self._remove_remains(Place(id, committed))
            return True

    async def _remove_remains(self, place: Place) -> None:
        """Remove what its writers have left beside a committed artifact."""
        kept = await read_commit(self.bucket, place)
        if kept is not None and not await opening.is_written_again(self.bucket, place, kept):
            await self.tidy(place, kept.runs)

    async def free(self) -> int:
        """As `ArtifactStore.free`: a bucket has no limit."""
        self._check_open()
        return sys.maxsize

    async def used(self) -> int:
        """As `ArtifactStore.used`."""
        self._check_open()
        kept = sum(known.size for known in self._known.values())
        return kept + sum(each.offset for each in self._growing)

    async def close(self) -> None:
        """As `ArtifactStore.close`. Files that are being written are kept. Idempotent."""
        if self._closed:
            return
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        failures = await asyncio.gather(
            *(each.keep() for each in self._growing), return_exceptions=True
        )
        self._closed = True
        await self._sharing.close()
        await self._end_threads()
        for failure in failures:
            if failure is not None:
                raise failure

    async def _end_threads(self) -> None:
        self._threads.shutdown(wait=False)
        self._keeping.cancel()
        await asyncio.wait([self._keeping])

    # What partial files and readers need of their store

    @property
    def bucket(self) -> Bucket:
        """The bucket. Raises `StoreUnavailable` if the store is closed."""
        self._check_open()
        return self._bucket

    def begin(
        self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> asyncio.Future[_T]:
        """Run blocking work in a thread."""
        self._check_open()
        return begin(self._threads, partial(work, *args, **kwargs))

    def turn(self, id: str) -> asyncio.Lock:
        """Change the names of the job's files; one at a time."""
        self._check_open()
        return self._turns.setdefault(id, asyncio.Lock())

    async def tidy(self, place: Place, runs: tuple[Run, ...], *, head: bool = False) -> bool:
        """As `Store.tidy`."""
        # until it is done, the next call of `ids` looks at the job again
        self._count(place.id, 0, due=time.monotonic())
        found = await self.bucket.sizes(place.job)
        mine = {place.commit, *(segment.key for segment in place.listed(runs))}
        if head:
            mine.add(place.head)
        documents, segments = set[str](), set[str]()
        fences = by_fence(place.id, found)
        for fence, files in fences.items():
            if fence <= place.fence:
                each = Place(place.id, fence)
                documents |= ({each.commit, each.head} & found.keys()) - mine
                segments |= {each.segment(*name) for name in files.segments} - mine
        await self.bucket.remove(documents)
        # what is not part of an artifact has no reader; a job commits only one
        await self._remove_segments(place.id, segments, readable=self._sharing.reads(place.id))
        rest = {key: size for key, size in found.items() if key not in segments}
        self._known[place.id] = _Known(_stored(place.id, rest))
        return any(fence > place.fence and files.commit for fence, files in fences.items())

    def ended(self, growing: GrowingFile, *, kept: int, committed: bool) -> None:
        """Note that the file is no longer written, and how many of its bytes are kept."""
        self._growing.discard(growing)
        if not committed:
            # another replica may take it over: it is counted again
            self._count(growing.place.id, kept, due=time.monotonic())

    def _count(self, id: str, more: int, *, due: float | None = None) -> None:
        size = max(0, self._known.get(id, _Known(0)).size + more)
        self._known[id] = _Known(size, due)

    def closed(self, id: str) -> None:
        """Note that a reader of the job's artifact is closed."""
        self._sharing.closed(id)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the artifact store is closed")


def _has_remains(found: dict[int, Files], committed: int) -> bool:
    """Whether there may be more than the artifact that was committed under the fence."""
    return found[committed].head or any(fence < committed for fence in found)


def _stored(id: str, sizes: dict[str, int]) -> int:
    return sum(files.stored for files in by_fence(id, sizes).values())

"""A partial file: a thread writes and hashes it while the network is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import chain

from proxy.ports import Artifact, LengthMismatch, PartialLost, Source, StoreUnavailable
from proxy.stores.file_artifacts import files
from proxy.stores.file_artifacts.files import Places
from proxy.stores.file_artifacts.interface import Store
from proxy.stores.file_artifacts.spool import Spool
from proxy.stores.file_artifacts.tail import STAYS_OPEN, FileTail
from proxy.stores.partial_state import PartialState
from proxy.stores.threads import undisturbed

#: Bytes handed to the thread at a time: few enough to overlap with the network, and enough that
#: the cost of the thread does not matter.
_BATCH = 1 << 20
#: The writer waits when this many bytes are gathered behind the current batch. A partial file keeps
#: at most twice as many in memory.
_GATHERED = 2 << 20
#: Bytes up to which pieces that arrive are joined: followers look through those in memory.
_JOINED = 4 << 10


class FilePartial:
    """A `Partial` over a `Spool`. One call at a time.

    Bytes are gathered, then handed to a thread as a batch. A batch that could not be written is
    kept, and the next call first tries to write it again.
    """

    def __init__(self, store: Store, places: Places, spool: Spool) -> None:
        self.id = places.id
        self.places = places
        self._state = PartialState(places.id)
        self.growth = self._state.growth
        self._store = store
        self._spool = spool
        self._offset = spool.length
        self._written = spool.length
        self._batch: list[bytes] = []
        self._gathered: list[bytes] = []
        self._waiting = 0
        self._appending: asyncio.Future[None] | asyncio.Future[bool] | None = None
        self._syncing: asyncio.Future[None] | None = None
        self._publishing = False
        self._committed = False
        store.begun(self)

    @property
    def offset(self) -> int:
        """As `Partial.offset`."""
        return self._offset

    @property
    def written(self) -> int:
        """Bytes that are on disk. The others are in memory."""
        return self._written

    def in_memory(self, start: int, limit: int) -> bytes:
        """At most `limit` of the accepted bytes from `start` on, which is at least `written`."""
        at = self._offset
        # from the end, where followers usually are
        for chunk in chain(reversed(self._gathered), reversed(self._batch)):
            at -= len(chunk)
            if at <= start:
                return chunk[start - at : start - at + limit]
        raise ValueError(f"byte {start} is not in memory")

    def tail(self) -> FileTail:
        """A follower of the file."""
        return FileTail(self._store, self)

    async def write(self, chunk: bytes) -> None:
        """As `Partial.write`. The bytes may not be on disk yet: a later call raises for them."""
        self._state.check()
        if self._state.trouble is not None:
            await self._settled()
        if self._gathered and len(self._gathered[-1]) + len(chunk) <= _JOINED:
            self._gathered[-1] += chunk
        else:
            self._gathered.append(chunk)
        self._waiting += len(chunk)
        self._offset += len(chunk)
        self._store.ledger.put(self, self._offset)
        self.growth.grew()
        if self._waiting >= _BATCH:
            self._append()
        while self._waiting >= _GATHERED and self._appending is not None:
            await asyncio.wait([self._appending])
        self._state.check()

    async def fill(self, source: Source) -> bool:
        """As `Fillable.fill`."""
        self._state.check()
        await self._settled()
        filling = self._store.receive(source.pour, self._spool.append_piece)
        self._appending = filling
        filling.add_done_callback(self._filled)
        return await undisturbed(filling)

    def _filled(self, filling: asyncio.Future[bool]) -> None:
        self._appending = None
        self._offset = self._written = self._spool.length
        self._store.ledger.put(self, self._offset)
        self.growth.grew()
        why = filling.exception()
        if why is None:
            self._sync_early()
        elif not isinstance(why, StoreUnavailable):
            self._state.failure = why

    async def read(self, start: int, stop: int) -> bytes:
        """As `Partial.read`."""
        self._state.check()
        await self._settled()
        return await undisturbed(self._store.begin(self._spool.read, start, stop))

    def publish(self) -> int:
        """As `Partial.publish`. What is synced can be read by whoever opens the file afterwards,
        also over NFS, which promises no more.
        """
        if not STAYS_OPEN:
            return 0
        self._publishing = True
        self._append()
        if self._appending is None:
            self._sync_early()
        return self._spool.synced

    def _append(self) -> None:
        """Hand a batch to the thread unless it is busy: the current one, else what is gathered."""
        if self._appending is not None:
            return
        if not self._batch:
            self._batch, self._gathered, self._waiting = self._gathered, [], 0
        if not self._batch:
            return
        self._state.trouble = None
        try:
            appending = self._store.begin(self._spool.append, self._batch)
        except StoreUnavailable as why:
            self._state.trouble = why
        else:
            self._appending = appending
            appending.add_done_callback(self._appended)

    def _appended(self, appending: asyncio.Future[None]) -> None:
        self._appending = None
        why = appending.exception()
        if isinstance(why, StoreUnavailable):
            self._state.trouble = why
            return
        self._batch.clear()  # first: if what follows finds no memory, it is not written again
        self._state.failure = why
        if why is not None:
            self._gathered, self._waiting = [], 0
            return
        self._written = self._spool.length
        self._sync_early()
        if self._waiting >= _BATCH:
            self._append()

    def _sync_early(self) -> None:
        """Sync in another thread what is written, while more is received: the commit, which waits
        for the disk, then has less to do.
        """
        wanted = self._publishing and self._spool.synced < self._spool.length
        if self._syncing is None and (wanted or self._spool.sync_due):
            self._publishing = False
            with suppress(StoreUnavailable):  # it is being closed
                self._syncing = self._store.begin(self._spool.sync_early)
                self._syncing.add_done_callback(self._synced)

    def _synced(self, syncing: asyncio.Future[None]) -> None:
        self._syncing = None
        syncing.result()

    async def _quiet(self) -> None:
        """As `_settle`, and wait until no thread uses the file."""
        await self._settle()
        await self._unused()

    async def _unused(self) -> None:
        while using := [each for each in (self._appending, self._syncing) if each is not None]:
            await asyncio.wait(using)

    async def _settle(self) -> None:
        """Wait until everything gathered is written or has failed."""
        self._append()
        while self._appending is not None:
            await asyncio.wait([self._appending])
            if self._state.trouble is None:
                self._append()

    async def _settled(self) -> None:
        """Wait until everything gathered is written. Raises its failure."""
        await self._settle()
        self._state.check_stored()

    async def commit(self, size: int, record_copy: Callable[[Artifact], bytes]) -> Artifact:
        """As `Partial.commit`."""
        self._state.check()
        await self._quiet()
        self._state.check_stored()
        if self._offset != size:
            raise LengthMismatch(f"the file of job {self.id} has {self._offset} bytes, not {size}")
        artifact = Artifact(self.id, size, self._spool.digest(), self._store.now())
        await self._store.exclusively(
            self.id, partial(self._commit, artifact, record_copy(artifact))
        )
        self._store.ended(self, self.places.entry("file"))
        self._state.end(committed=True)
        return artifact

    def _commit(self, artifact: Artifact, record_copy: bytes) -> None:
        if files.is_superseded(self.places, committed=True):
            raise PartialLost(f"another replica has stored the file of job {self.id}")
        try:
            self._spool.commit(artifact, record_copy)
        except PartialLost:
            self._store.volume.check()  # it may be mounted again
            raise
        self._committed = True

    async def keep(self) -> None:
        """As `Partial.keep`. Raises if accepted bytes could not be stored, except for a
        `StorageFull` that was raised before.
        """
        await self._state.keep(self._keep)

    async def _keep(self) -> None:
        kept = True
        try:
            await self._quiet()
            if not self._committed:
                kept = await self._store.exclusively(self.id, self._keep_own)
        finally:
            await self._end(kept=kept)

    def _keep_own(self) -> bool:
        """Keep the file, or remove what is left of it if a writer with a greater fence has taken it
        over. Return whether it is kept.
        """
        try:
            if not files.is_superseded(self.places):
                self._spool.keep()
                return True
        finally:
            self._spool.close()  # also if that is not known, because the volume failed
        files.remove(self.places)
        return False

    async def discard(self) -> None:
        """As `Partial.discard`. It also removes a file whose `commit` was cancelled too late, but
        not one whose `commit` returned.
        """
        await self._state.discard(self._discard)

    async def _discard(self) -> None:
        self._batch, self._gathered, self._waiting = [], [], 0
        kept = True  # a file that cannot be removed now takes space until it is
        try:
            await self._quiet()
            if self._committed:
                await self._store.exclusively(self.id, partial(files.remove, self.places))
            else:
                await self._store.exclusively(self.id, self._spool.discard)
            kept = False
        finally:
            await self._end(kept=kept)

    async def _end(self, *, kept: bool) -> None:
        """End also without memory for a thread: nobody could resume a file that stays locked."""
        await self._unused()
        self._spool.close()  # mostly a thread has done that
        kind = "file" if self._committed else "partial"
        self._state.end(committed=False)
        self._offset = self._spool.length
        self._store.ended(self, self.places.entry(kind) if kept else None)

"""An open artifact: ranged requests for its segments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from proxy.ports import Artifact, StoreUnavailable
from proxy.stores.object_artifacts.failures import Missing
from proxy.stores.object_artifacts.interface import Store
from proxy.stores.object_artifacts.layout import Commit, Place, Sequence

#: Bytes of a request. A piece is in memory until the client has received it. Therefore only a few
#: readers at a time get large ones, and the next one ahead, and only if their last piece was sent
#: at `_FAST` bytes/s.
_SMALL, _LARGE = 256 << 10, 2 << 20
_FAST = 4 << 20
#: Bytes yielded at a time.
_YIELDED = 256 << 10
#: Readers that may have large pieces at a time, each at most two.
LARGE_PIECES = 16


class ObjectReader:
    """A `Reader` over the segments of an artifact."""

    def __init__(self, store: Store, place: Place, commit: Commit) -> None:
        self.artifact: Artifact = commit.artifact
        self._store = store
        self._segments = Sequence(place, commit.runs)
        self._closed = False

    async def chunks(self, start: int, stop: int) -> AsyncGenerator[bytes | bytearray, None]:
        """As `Reader.chunks`."""
        loop, grants = asyncio.get_running_loop(), self._store.large_pieces
        ahead: asyncio.Task[memoryview] | None = None
        large = fast = False
        try:
            while start < stop:
                large = large or (fast and grants.take(1))
                if ahead is None:
                    ahead = self._begin(start, stop, large=large)
                piece = await ahead
                ahead, begun = None, loop.time()
                start += len(piece)
                if large and start < stop:
                    ahead = self._begin(start, stop, large=True)
                size = len(piece)
                while piece:
                    yield bytes(piece[:_YIELDED])
                    piece = piece[_YIELDED:]
                fast = size > (loop.time() - begun) * _FAST
                if large and not fast:
                    grants.give(1)
                    large = False
        finally:
            if large:
                grants.give(1)
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    def _begin(self, start: int, stop: int, *, large: bool) -> asyncio.Task[memoryview]:
        return asyncio.ensure_future(self._read(start, stop, _LARGE if large else _SMALL))

    async def _read(self, start: int, stop: int, most: int) -> memoryview:
        """At least one byte from `start` on, and at most `most`."""
        if self._closed:
            raise StoreUnavailable(f"the reader of artifact {self.artifact.id} is closed")
        if start >= self.artifact.size:
            raise StoreUnavailable(f"artifact {self.artifact.id} ends at byte {start}")
        segment = self._segments.at(start)
        first = start - segment.start
        last = min(segment.size, first + most, stop - segment.start)
        try:
            return await self._store.bucket.read_range(segment.key, first, last)
        except Missing:
            raise StoreUnavailable(f"artifact {self.artifact.id} was removed") from None

    async def close(self) -> None:
        """As `Reader.close`."""
        if not self._closed:
            self._closed = True
            self._store.closed(self.artifact.id)

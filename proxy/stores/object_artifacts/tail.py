"""Follows a partial file: its writer's memory first, then the segments that are stored."""

from __future__ import annotations

from typing import Protocol

from proxy.ports import PartialLost
from proxy.stores.growth import Growth
from proxy.stores.object_artifacts.bucket import Bucket
from proxy.stores.object_artifacts.failures import Missing
from proxy.stores.object_artifacts.layout import Place, Segment

#: Bytes of a piece: what a follower has in memory at most. A piece of a stored segment costs a
#: request to the object store.
MEMORY_PIECE, STORED_PIECE = 64 << 10, 256 << 10


class Followed(Protocol):
    """A partial file, as its followers see it."""

    place: Place
    growth: Growth

    @property
    def offset(self) -> int:
        """Bytes accepted so far."""

    def in_memory(self, start: int, limit: int) -> bytes:
        """At most `limit` of the bytes from `start` on; none if they are in a stored segment."""

    def segment_at(self, start: int) -> Segment:
        """The segment that has the byte `start`."""


class Store(Protocol):
    """The store, as its followers see it."""

    @property
    def bucket(self) -> Bucket:
        """The bucket."""


class ObjectTail:
    """A `Tail` of the file."""

    def __init__(self, store: Store, partial: Followed) -> None:
        self._store = store
        self._partial = partial
        self._segment: Segment | None = None

    async def read(self, start: int) -> bytes:
        """As `Tail.read`."""
        partial = self._partial
        while True:
            if partial.growth.stopped:
                raise PartialLost(f"the file of job {partial.place.id} is not written any more")
            if start < partial.offset:
                return partial.in_memory(start, MEMORY_PIECE) or await self._stored(start)
            if partial.growth.committed:
                return b""
            await partial.growth.wait()

    async def _stored(self, start: int) -> bytes:
        segment = self._segment
        if segment is None or not segment.start <= start < segment.start + segment.size:
            segment = self._segment = self._partial.segment_at(start)
        first = start - segment.start
        last = min(first + STORED_PIECE, segment.size)
        try:
            return bytes(await self._store.bucket.read_range(segment.key, first, last))
        except Missing:
            raise PartialLost(
                f"a part of the file of job {self._partial.place.id} is gone"
            ) from None

    async def close(self) -> None:
        """As `Tail.close`."""
        self._segment = None

"""Follows a partial file: its writer's memory first, then the same file on disk."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, Protocol

from proxy.ports import PartialLost
from proxy.stores.durable import PLAIN, close
from proxy.stores.file_artifacts import files
from proxy.stores.file_artifacts.files import Places, disk_errors
from proxy.stores.file_artifacts.interface import CLOSING, READING, Store
from proxy.stores.growth import Growth
from proxy.stores.threads import ended

_P = ParamSpec("_P")
#: Bytes of a piece: what a follower has in memory at most.
PIECE = 64 << 10
#: Whether a follower may keep the file open: Windows does not rename an open file, and the rename
#: is the commit.
STAYS_OPEN = sys.platform != "win32"


class Followed(Protocol):
    """A partial file, as its followers see it."""

    places: Places
    growth: Growth

    @property
    def offset(self) -> int:
        """Bytes accepted so far."""

    @property
    def written(self) -> int:
        """The number of them that are on disk."""

    def in_memory(self, start: int, limit: int) -> bytes:
        """At most `limit` of the bytes from `start` on, which is at least `written`."""


class FileTail:
    """A `Tail` of the file. It opens the file itself, since the writer closes its own."""

    def __init__(self, store: Store, partial: Followed) -> None:
        self._store = store
        self._partial = partial
        self._descriptor = -1
        self._reading: asyncio.Future[bytes] | None = None

    async def read(self, start: int) -> bytes | bytearray:
        """As `Tail.read`."""
        followed = self._partial
        while True:
            if followed.growth.stopped:
                raise PartialLost(f"the file of job {followed.places.id} is not written any more")
            if start < followed.written:
                return await self._on_disk(start, min(PIECE, followed.written - start))
            if start < followed.offset:
                return followed.in_memory(start, PIECE)
            if followed.growth.committed:
                return b""
            await followed.growth.wait()

    async def _on_disk(self, start: int, count: int) -> bytes | bytearray:
        places, reading = self._partial.places, self._store.reading
        if not STAYS_OPEN:
            once = partial(self._begin, _read_once, places, start, count)
            piece = await reading.call(places.id, once, READING)
            self._check_there()
            return piece
        if self._descriptor < 0:
            opening = partial(self._store.begin, _open, places)
            self._descriptor = await reading.call(
                places.id, opening, READING, unwanted=self._store.close_file
            )
            self._check_there()  # the name may be that of another file by now
        if cached := files.read_cached(self._descriptor, start, count):
            await asyncio.sleep(0)  # a fast client must not block the loop
            return cached
        read = partial(self._begin, files.read_at, self._descriptor, start, count)
        return await reading.call(places.id, read, READING)

    def _check_there(self) -> None:
        if self._partial.growth.stopped:
            raise PartialLost(f"the file of job {self._partial.places.id} is gone")

    def _begin(
        self, read: Callable[_P, bytes], *args: _P.args, **kwargs: _P.kwargs
    ) -> asyncio.Future[bytes]:
        self._reading = self._store.begin(read, *args, **kwargs)
        return self._reading

    async def close(self) -> None:
        """As `Tail.close`. The descriptor is not closed while a thread reads from it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            await ended(asyncio.ensure_future(self._close(descriptor)), CLOSING)

    async def _close(self, descriptor: int) -> None:
        if self._reading is not None:
            await asyncio.wait([self._reading])
        await self._store.close_file(descriptor)


def _read_once(places: Places, start: int, count: int) -> bytes:
    descriptor = _open(places)
    try:
        return files.read_at(descriptor, start, count)
    finally:
        close(descriptor)


def _open(places: Places) -> int:
    with disk_errors(places.partial):
        try:
            return os.open(places.partial, os.O_RDONLY | PLAIN)
        except FileNotFoundError:
            pass  # it may have been committed
        try:
            return os.open(places.file, os.O_RDONLY | PLAIN)
        except FileNotFoundError:
            raise PartialLost(f"{places.partial} is gone") from None

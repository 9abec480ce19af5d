"""A bucket: requests for objects, bounded in time, with the failures of the port.

obstore must not be used in a process forked from one that has used it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import obstore

from proxy.ports import StoreUnavailable
from proxy.stores.availability import Availability
from proxy.stores.object_artifacts.failures import Missing, store_errors
from proxy.stores.threads import undisturbed

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_T = TypeVar("_T")
#: Keys of one request to remove objects.
_REMOVED_TOGETHER = 1000
#: Objects removed at a time where there is no request for many.
_AT_A_TIME = 16


@dataclass(frozen=True, slots=True)
class Bucket:
    """A prefix in a bucket; all keys are relative to it. `data` is for requests with many bytes,
    `control` for those that must return soon. `location` names it without secrets.
    """

    location: str
    data: ObjectStore
    control: ObjectStore
    availability: Availability = field(
        default_factory=lambda: Availability("artifacts"), compare=False
    )

    async def read(self, key: str) -> bytes | None:
        """The whole object, or None."""
        try:
            with self._request():
                result = await obstore.get_async(self.control, key)
                return bytes(await result.bytes_async())
        except Missing:
            return None

    async def read_range(self, key: str, start: int, stop: int) -> memoryview:
        """The bytes [start, stop) of the object. Raises `Missing` if it is gone or shorter."""
        with self._request():
            piece = memoryview(await obstore.get_range_async(self.data, key, start=start, end=stop))
        if len(piece) != stop - start:
            raise Missing
        return piece

    async def store(self, key: str, content: bytes | bytearray) -> None:
        """Store the object, in one request. Cancellation does not interrupt it: it could arrive
        after a later one. Raises `StorageRefused`, too.
        """
        # never as a multipart upload, which a crash would leave behind
        storing = obstore.put_async(self.data, key, content, use_multipart=False)
        try:
            await self._whole(storing, storing=True)
        except Missing:
            raise StoreUnavailable(f"{self.location} answered 404 to a new object") from None

    async def remove(self, keys: Collection[str]) -> None:
        """Remove the objects that are there. Cancellation does not interrupt it."""
        rest = list(keys)
        while rest:
            some, rest = rest[:_REMOVED_TOGETHER], rest[_REMOVED_TOGETHER:]
            try:
                await self._whole(obstore.delete_async(self.data, some))
            except Missing:
                await self._remove_singly(some)

    async def _remove_singly(self, keys: list[str]) -> None:
        """Remove each object; some services fail at the first that is gone."""

        async def remove(key: str) -> None:
            try:
                await self._whole(obstore.delete_async(self.data, key))
            except Missing:
                return

        for start in range(0, len(keys), _AT_A_TIME):
            await asyncio.gather(*(remove(key) for key in keys[start : start + _AT_A_TIME]))

    async def sizes(self, prefix: str) -> dict[str, int]:
        """The size of each object whose key begins with the prefix and a slash."""
        found: dict[str, int] = {}
        with self._request():
            async for objects in obstore.list(self.control, prefix, chunk_size=1000):
                found.update((each["path"], each["size"]) for each in objects)
        return found

    async def names(self, prefix: str) -> set[str]:
        """What follows the prefix and a slash in the keys, up to the next slash."""
        with self._request():
            listed = await obstore.list_with_delimiter_async(self.control, prefix)
        return {each.rstrip("/").rpartition("/")[2] for each in listed["common_prefixes"]}

    @contextmanager
    def _request(self, *, storing: bool = False) -> Iterator[None]:
        """As `store_errors`; also note whether the store is available."""
        try:
            with store_errors(self.location, storing=storing):
                yield
        except StoreUnavailable as why:
            self.availability.failed(why)
            raise
        except Exception:  # the store has responded
            self.availability.worked()
            raise
        self.availability.worked()

    async def _whole(self, request: Awaitable[_T], *, storing: bool = False) -> _T:
        with self._request(storing=storing):
            return await undisturbed(asyncio.ensure_future(request))

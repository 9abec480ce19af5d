"""Free space, less what is promised to running exports (CONTRACT §15). Nothing else subtracts
promises.
"""

from __future__ import annotations

import asyncio
from math import inf

from proxy.core.amounts import size as amount
from proxy.ports import ArtifactStore, StorageFull

#: A measurement is used again for so many seconds if it left so many bytes.
_FRESH, _PLENTY = 1.0, 1 << 30


class SpaceShortage(StorageFull):
    """Less is free than a file needs. The text has numbers only and may be shown to callers."""


class Reservations:
    """Promises each free byte to one export only. Sizes are in bytes; with `max_bytes` None only
    the disk limits them.

    The store is measured from time to time. Bytes written since the last measurement are subtracted
    here, so that promised space counts as taken while it is being filled.
    """

    def __init__(self, artifacts: ArtifactStore, *, min_free: int, max_bytes: int | None) -> None:
        self._artifacts = artifacts
        self._min_free = min_free
        self._max_bytes = max_bytes
        self._disk: float = 0
        self._quota: float = inf
        self._written = 0
        self._measured = 0
        #: When the last measurement began, in the time of the event loop.
        self._began = -inf
        self._promised: dict[str, int] = {}
        #: What other replicas have promised on the same storage, as they last reported.
        self.others = 0

    @property
    def promised(self) -> int:
        """The bytes promised and not yet stored."""
        return sum(self._promised.values())

    @property
    def written(self) -> int:
        """The bytes stored since the start."""
        return self._written

    async def measure(self) -> None:
        """Measure the free space. Raises `StoreUnavailable`."""
        began = asyncio.get_running_loop().time()
        written = self._written  # a measurement may or may not include what is written meanwhile
        disk = await self._artifacts.free()
        quota = inf if self._max_bytes is None else self._max_bytes - await self._artifacts.used()
        self._disk, self._quota, self._measured = disk, quota, written
        self._began = began

    async def refresh(self) -> None:
        """As `measure`, unless that was a moment ago and much was free: kick-offs come in bursts,
        and measuring takes a thread.
        """
        age = asyncio.get_running_loop().time() - self._began
        left = min(self._disk - self._min_free, self._quota) - self._taken()
        if age >= _FRESH or left < _PLENTY:
            await self.measure()

    def shortage(self) -> str | None:
        """The reason why there is too little space for another export, with numbers. None if there
        is enough (CONTRACT §3.5).
        """
        taken = self._taken()
        if (free := self._disk - taken) < self._min_free:
            return f"{amount(max(0, free))} free, storage.min_free is {amount(self._min_free)}"
        if self._max_bytes is not None and self._quota - taken <= 0:
            return f"storage.max_bytes ({amount(self._max_bytes)}) is used up"
        return None

    async def promise(self, id: str, size: int) -> None:
        """Reserve `size` more bytes for the job's file, in place of its earlier promise.

        Raises `SpaceShortage` if they are not free, `StoreUnavailable`.
        """
        self.release(id)
        if size > self._left():
            await self.measure()  # files may have been removed since
        if size > self._left():
            raise SpaceShortage(
                f"{size} bytes are announced and {max(0, int(self._left()))} are free"
            )
        self._promised[id] = size

    async def stored(self, id: str, count: int) -> None:
        """Count `count` more stored bytes of the job's file.

        Raises `SpaceShortage` if a file of unknown length needs space that was promised to others,
        `StoreUnavailable` if that is not known: call `check` then.
        """
        self.count(id, count)
        if self.overdrawn(id):
            await self.check()

    def count(self, id: str, count: int) -> None:
        """Count `count` more stored bytes of the job's file; see `overdrawn`."""
        self._written += count
        if id in self._promised:
            self._promised[id] = max(0, self._promised[id] - count)

    def overdrawn(self, id: str) -> bool:
        """Whether the job's file, of unknown length, seems to need space that was promised to
        others: call `check` then.
        """
        return id not in self._promised and self._left() < 0

    async def check(self) -> None:
        """Measure, and raise `SpaceShortage` if more was promised than is free. Raises
        `StoreUnavailable`.
        """
        await self.measure()
        if self._left() < 0:
            raise SpaceShortage("a file of unknown length has outgrown the free space")

    def release(self, id: str) -> None:
        """End the promise to the job. Idempotent."""
        self._promised.pop(id, None)

    def _taken(self) -> int:
        return self._written - self._measured + self.promised + self.others

    def _left(self) -> float:
        return min(self._disk, self._quota) - self._taken()

"""The books of free space: what the stores have left, less what running exports were promised
(CONTRACT §15).
"""

from __future__ import annotations

from math import inf

from proxy.core.amounts import size as amount
from proxy.ports import ArtifactStore, StorageFull


class Reservations:
    """Keeps N exports from being promised the same room. Sizes in bytes; `max_bytes` None leaves
    that to the disk.

    The stores are asked now and then; what is written in between is deducted here, so that room
    that was promised and is being filled is never free in between.
    """

    def __init__(self, artifacts: ArtifactStore, *, min_free: int, max_bytes: int | None) -> None:
        self._artifacts = artifacts
        self._min_free = min_free
        self._max_bytes = max_bytes
        self._disk: float = 0
        self._quota: float = inf
        self._written = 0
        self._seen = 0
        self._promised: dict[str, int] = {}

    async def measure(self) -> None:
        """Ask the store. Raises `StoreUnavailable`."""
        seen = self._written  # what is written while the store answers may be in its answer or not
        disk = await self._artifacts.free()
        quota = inf if self._max_bytes is None else self._max_bytes - await self._artifacts.used()
        self._disk, self._quota, self._seen = disk, quota, seen

    def shortage(self) -> str | None:
        """Why there is too little space for another kick-off, in numbers; None when there is enough
        (CONTRACT §3.5).
        """
        taken = self._taken()
        if (free := self._disk - taken) < self._min_free:
            return f"{amount(max(0, free))} free, storage.min_free is {amount(self._min_free)}"
        if self._max_bytes is not None and self._quota - taken <= 0:
            return f"storage.max_bytes ({amount(self._max_bytes)}) is used up"
        return None

    async def promise(self, id: str, size: int) -> None:
        """Reserve `size` more bytes for the job's file, in place of what it was promised before.

        Raises `StorageFull` if they are not free, `StoreUnavailable`.
        """
        self.release(id)
        if size > self._left():
            await self.measure()  # files may have gone since the last look
        if size > self._left():
            raise StorageFull(
                f"{size} bytes are announced and {max(0, int(self._left()))} are free"
            )
        self._promised[id] = size

    async def stored(self, id: str, count: int) -> None:
        """`count` more bytes of the job's file are stored. Raises `StorageFull` when a file of
        unknown length takes the last room that others were not promised, `StoreUnavailable` if that
        is not known: `check` again.
        """
        self._written += count
        if id in self._promised:
            self._promised[id] = max(0, self._promised[id] - count)
            return
        if self._left() < 0:
            await self.check()

    async def check(self) -> None:
        """Ask the store whether there is room for what was promised and stored. Raises
        `StorageFull`, `StoreUnavailable`.
        """
        await self.measure()
        if self._left() < 0:
            raise StorageFull("a file of unknown length has outgrown the free space")

    def release(self, id: str) -> None:
        """The job needs no more room. Idempotent."""
        self._promised.pop(id, None)

    def _taken(self) -> int:
        return self._written - self._seen + sum(self._promised.values())

    def _left(self) -> float:
        return min(self._disk, self._quota) - self._taken()

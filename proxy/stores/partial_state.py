"""How far a partial file is, and what has failed: the part that all kinds of `Partial` share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from proxy.ports import PartialLost, StoreUnavailable
from proxy.stores.growth import Growth
from proxy.stores.threads import undisturbed


class PartialState:
    """The state of the partial file of a job.

    `trouble` is why some bytes are not stored yet; the next call tries again. `failure` is why no
    more bytes can be stored.
    """

    def __init__(self, id: str) -> None:
        self.growth = Growth()
        self.trouble: StoreUnavailable | None = None
        self.failure: BaseException | None = None
        self._id = id
        self._stopped = False
        self._ended = False

    @property
    def failing(self) -> bool:
        """Whether some bytes are not stored because of `trouble` or `failure`."""
        return self.trouble is not None or self.failure is not None

    def check(self) -> None:
        """Raise if no more bytes can be stored."""
        if self.failure is not None:
            raise self.failure
        if self._stopped:
            raise PartialLost(f"the partial file of job {self._id} is closed")

    def check_stored(self) -> None:
        """Raise also if some bytes are not stored yet."""
        self.check()
        if self.trouble is not None:
            raise self.trouble

    def end(self, *, committed: bool) -> None:
        """Note that the file is committed, kept or discarded."""
        self._stopped = self._ended = True
        self.growth.end(committed=committed)

    async def keep(self, store: Callable[[], Awaitable[None]]) -> None:
        """End with `store`, which stores the accepted bytes, unless the file has ended before.
        Raises if it could not, except for a failure that was raised before.
        """
        await undisturbed(asyncio.ensure_future(self._keep(store)))

    async def _keep(self, store: Callable[[], Awaitable[None]]) -> None:
        if self._ended:
            return
        known = self.failure
        await self._stop(store)
        failure = self.failure or self.trouble
        if failure is not None and failure is not known:
            raise failure

    async def discard(self, remove: Callable[[], Awaitable[None]]) -> None:
        """End with `remove`, which removes the file, unless the file has ended before."""
        await undisturbed(asyncio.ensure_future(self._discard(remove)))

    async def _discard(self, remove: Callable[[], Awaitable[None]]) -> None:
        if not self._ended:
            await self._stop(remove)

    async def _stop(self, work: Callable[[], Awaitable[None]]) -> None:
        self._stopped = True
        self.growth.end(committed=False)
        await work()

"""Measures the free space of a volume that may hang, as a network file system does whose server is
away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.ports import StoreUnavailable
from proxy.stores.threads import Threads, begin

#: Seconds that a measurement may take: kick-offs and `/readyz` wait for it.
_PATIENCE = 1.5


class Gauge:
    """Calls `measure` in a thread of its own: those of the files may all hang.

    A call cannot be interrupted. While one hangs, no other is begun.
    """

    def __init__(self, measure: Callable[[], int], name: str) -> None:
        self._measure = measure
        self._name = name
        self._thread = Threads(1, "space")
        self._running: set[asyncio.Future[int]] = set()
        #: When the one that is being made began, or a little earlier.
        self._begun = 0.0

    async def __call__(self) -> int:
        """Return the bytes, measured during this call. Raises `StoreUnavailable`, also if it takes
        too long.
        """
        loop = asyncio.get_running_loop()
        if not self._running:
            self._begun = loop.time()
        elif loop.time() >= self._begun + _PATIENCE:
            raise self._hangs()
        running = begin(self._thread, self._measure, self._ended)
        self._running.add(running)
        await asyncio.wait([running], timeout=_PATIENCE)
        if not running.done():
            raise self._hangs()
        return running.result()

    def _hangs(self) -> StoreUnavailable:
        return StoreUnavailable(f"{self._name} does not respond: its volume hangs")

    def _ended(self, running: asyncio.Future[int]) -> None:
        self._running.discard(running)
        self._begun = running.get_loop().time()
        if not running.cancelled():
            running.exception()  # read, so that none is reported if its caller has left

    def close(self) -> None:
        """End the thread when it is free. Call nothing afterwards."""
        self._thread.shutdown(wait=False)

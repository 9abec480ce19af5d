"""The clock of a shared job store, which all replicas follow (CONTRACT §18): their own may differ
by minutes, and a job must not expire on one replica before another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from proxy.clock import SteadyClock
from proxy.parts.start import Clock
from proxy.ports import StoreUnavailable

log = structlog.get_logger(__name__)

#: Seconds between two measurements.
_PAUSE = 60.0
#: Measurements at a time, of which the fastest counts.
_ATTEMPTS = 3
#: Seconds. A smaller difference may be due to the measurement.
_TOLERANCE = 0.25


class StoreClock:
    """The time of the store, in Unix seconds: that of this machine and the difference to it.

    `ask` returns the time of the store, `local` that of this machine. A difference that changes is
    followed slowly, as `SteadyClock` follows a jump.
    """

    def __init__(self, ask: Callable[[], Awaitable[float]], local: Clock) -> None:
        self._ask = ask
        self._local = local
        self._ahead = 0.0
        #: The clock, once `start` has returned.
        self.now: Clock = local

    async def start(self) -> None:
        """Measure the difference. Raises `StoreUnavailable`."""
        await self._measure()
        self.now = SteadyClock(lambda: self._local() + self._ahead)

    async def _measure(self) -> None:
        found: list[tuple[float, float]] = []
        for _ in range(_ATTEMPTS):
            before = self._local()
            store = await self._ask()
            after = self._local()
            found.append((after - before, store - (before + after) / 2))
        _, ahead = min(found)
        if abs(ahead - self._ahead) > _TOLERANCE:
            self._ahead = ahead

    async def watch(self) -> None:
        """Measure again and again until cancelled."""
        while True:
            await asyncio.sleep(_PAUSE)
            try:
                await self._measure()
            except StoreUnavailable as why:
                log.info("clock of the job store not known", reason=str(why))

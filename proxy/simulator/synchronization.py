"""Two asyncio primitives: wait for a state change, and suspend work until a test releases it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Notifier:
    """Wakes all waiting tasks at each `notify`."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Report a state change."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Return at the next `notify`."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    async def wait_for(self, predicate: Callable[[], bool], timeout: float) -> bool:
        """Wait up to `timeout` seconds for the predicate; return whether it is true."""
        try:
            async with asyncio.timeout(timeout):
                while not predicate():
                    await self.wait()
        except TimeoutError:
            return predicate()
        return True


class HoldPoint:
    """Suspends each task that waits here until the next `release`.

    Each arriving task is reported to `notifier`.
    """

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._held: set[asyncio.Future[None]] = set()

    @property
    def held(self) -> int:
        """The number of suspended tasks."""
        return len(self._held)

    def release(self) -> None:
        """Resume all suspended tasks."""
        held, self._held = self._held, set()
        for waiter in held:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Suspend the calling task until the next `release`."""
        waiter = asyncio.get_running_loop().create_future()
        self._held.add(waiter)
        self._notifier.notify()
        try:
            await waiter
        finally:
            self._held.discard(waiter)

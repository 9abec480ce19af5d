"""Waiting for something to change, without polling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Bell:
    """Wakes everybody who waits, at each `ring`."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        """Something changed."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Return at the next ring."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    async def until(self, predicate: Callable[[], bool], timeout: float) -> bool:
        """True as soon as the predicate holds, False when it does not within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not predicate():
                    await self.wait()
        except TimeoutError:
            return predicate()
        return True


class Gate:
    """Holds whoever comes until the next `release`; `bell` rings when somebody is held."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._held: set[asyncio.Future[None]] = set()

    @property
    def held(self) -> int:
        """How many are held."""
        return len(self._held)

    def release(self) -> None:
        """Let them all go on."""
        held, self._held = self._held, set()
        for waiter in held:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Be held."""
        waiter = asyncio.get_running_loop().create_future()
        self._held.add(waiter)
        self._bell.ring()
        try:
            await waiter
        finally:
            self._held.discard(waiter)

"""The number of the proxy's own questions to VB365 that are in progress at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

#: The part for questions about credentials that VB365 has never accepted.
_UNKNOWN = 3 / 4


class Turns:
    """At most `limit` questions are in progress, the others wait, first in, first out.

    The limit of their connections alone would not do: they wait for one in order, whoever asks.
    Anyone can cause any number of questions about invented credentials, and VB365 may take its time
    with each: they leave a quarter to those about credentials that it has accepted before.
    """

    def __init__(self, limit: int) -> None:
        self._all = asyncio.Semaphore(limit)
        self._unknown = asyncio.Semaphore(max(1, int(limit * _UNKNOWN)))

    @asynccontextmanager
    async def turn(self, *, known: bool) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the block runs. `known`: VB365 has accepted the
        credentials before.
        """
        async with AsyncExitStack() as stack:
            if not known:
                await stack.enter_async_context(self._unknown)
            await stack.enter_async_context(self._all)
            yield

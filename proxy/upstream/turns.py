"""The number of the proxy's own questions to VB365 that are in progress at a time, and who has how
many of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from enum import IntEnum


class Standing(IntEnum):
    """What the proxy knows of the credentials that a question is about. REMEMBERED: VB365 could not
    be asked about them when a job was stored for them; those are few. KNOWN: it has accepted them.
    """

    UNKNOWN = 0
    REMEMBERED = 1
    KNOWN = 2


#: The part of the questions that all below each standing share.
_BELOW = {Standing.REMEMBERED: 5 / 8, Standing.KNOWN: 3 / 4}


class Turns:
    """At most `limit` questions are in progress, the others wait, first in, first out.

    The limit of their connections alone would not do: they wait for one in order, whoever asks.
    Anyone can cause any number of questions about invented credentials, and VB365 may take its time
    with each: they leave a quarter to those about credentials that it has accepted before, and an
    eighth to those about remembered ones.
    """

    def __init__(self, limit: int) -> None:
        self._all = asyncio.Semaphore(limit)
        self._below = [
            (standing, asyncio.Semaphore(max(1, int(limit * part))))
            for standing, part in _BELOW.items()
        ]

    @asynccontextmanager
    async def turn(self, standing: Standing) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the block runs."""
        async with AsyncExitStack() as stack:
            for above, shared in self._below:
                if standing < above:
                    await stack.enter_async_context(shared)
            await stack.enter_async_context(self._all)
            yield

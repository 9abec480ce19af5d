"""A thread of obstore's."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import obstore
from obstore.store import MemoryStore

#: Seconds between two uses. obstore ends a thread that has had nothing to do for 10 s.
_PAUSE = 4.0


async def keep_thread() -> None:
    """Keep one of the threads in which obstore resolves names and returns results, until cancelled.

    Without one, while the system starts no thread, all requests would wait, and afterwards until
    another one is made.
    """
    memory = MemoryStore()
    while True:
        with suppress(TimeoutError, MemoryError):
            async with asyncio.timeout(_PAUSE):
                await obstore.list_with_delimiter_async(memory)
        await asyncio.sleep(_PAUSE)

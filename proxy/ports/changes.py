"""What a reader of the feed of changed jobs has not read yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

#: Ids that a slow reader may leave unread. With more it gets a gap instead.
_UNREAD = 10_000


class Changes(AsyncIterator[str | None]):
    """Ids of changed jobs, each once until it is read, in the order in which they changed first.
    None is a gap: any job may have changed.
    """

    def __init__(self) -> None:
        self._unread: dict[str | None, None] = {}
        self._ready = asyncio.Event()
        self._closed = False

    def put(self, id: str | None) -> None:
        """Note a change, or a gap, which includes all changes before it."""
        if id is None or len(self._unread) >= _UNREAD:
            self._unread = {None: None}
        elif None not in self._unread:
            self._unread[id] = None
        self._ready.set()

    def take(self) -> list[str | None]:
        """Read all that is unread, without waiting."""
        found = list(self._unread)
        self._unread.clear()
        return found

    def close(self) -> None:
        """End the iteration."""
        self._closed = True
        self._ready.set()

    async def __anext__(self) -> str | None:
        while not self._unread:
            if self._closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        first = next(iter(self._unread))
        del self._unread[first]
        return first

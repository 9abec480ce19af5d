"""Wakes the followers of a file that is being written (CONTRACT §14)."""

from __future__ import annotations

import asyncio


class Growth:
    """Whether a partial file grows, or has ended: committed, or stopped before that."""

    __slots__ = ("_changed", "committed", "stopped")

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self.committed = False
        self.stopped = False

    def grew(self) -> None:
        """Wake all followers. They cost the writer nothing but that."""
        self._changed.set()
        self._changed.clear()

    def end(self, *, committed: bool) -> None:
        """Note that the file grows no more. Idempotent: the first call counts."""
        if not (self.committed or self.stopped):
            self.committed = committed
            self.stopped = not committed
        self.grew()

    async def wait(self) -> None:
        """Wait until the file has grown or ended."""
        await self._changed.wait()

"""Several deadlines of one connection on a single timer of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf


class Deadlines:
    """`count` independent deadlines, numbered from 0. `expired` is called with the number of each
    one that passes.

    Setting one is cheap: the timer moves only if the deadline is before the next expiry.
    """

    __slots__ = ("_at", "_due", "_expired", "_loop", "_timer")

    def __init__(self, count: int, expired: Callable[[int], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._expired = expired
        self._at: list[float | None] = [None] * count
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf

    def set(self, which: int, seconds: float) -> None:
        """Set the deadline to that many seconds from now."""
        self._at[which] = at = self._loop.time() + seconds
        if at < self._due:
            self._schedule(at)

    def clear(self, which: int) -> None:
        """Remove the deadline."""
        self._at[which] = None

    def is_set(self, which: int) -> bool:
        """Report whether the deadline is set."""
        return self._at[which] is not None

    def cancel(self) -> None:
        """Remove all deadlines for good, and drop `expired`: a method of the owner would keep it in
        memory until the garbage collector finds the cycle.
        """
        self._expired = _no_deadline
        self._at = [None] * len(self._at)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._due = inf

    def _schedule(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._fire)
        self._due = at

    def _fire(self) -> None:
        self._timer = None
        self._due = inf
        now = self._loop.time()
        for which, at in enumerate(self._at):
            if at is not None and at <= now and self._at[which] == at:
                self._at[which] = None
                self._expired(which)
        due = min((at for at in self._at if at is not None), default=inf)
        if due < self._due:
            self._schedule(due)


def _no_deadline(which: int) -> None:
    """Nothing follows the end of the connection."""

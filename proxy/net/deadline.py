"""The time limits of one connection, each with one meaning, on one timer of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf


class Deadlines:
    """`count` independent time limits, numbered from 0. `expired` is called with the number of each
    that passes.

    Setting one costs an assignment: the timer is moved only when a limit is due before it rings.
    """

    __slots__ = ("_at", "_expired", "_loop", "_rings", "_timer")

    def __init__(self, count: int, expired: Callable[[int], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._expired = expired
        self._at: list[float | None] = [None] * count
        self._timer: asyncio.TimerHandle | None = None
        self._rings = inf

    def set(self, which: int, seconds: float) -> None:
        """Let it expire that many seconds from now, not when it was set to before."""
        self._at[which] = at = self._loop.time() + seconds
        if at < self._rings:
            self._ring_at(at)

    def clear(self, which: int) -> None:
        """Never let it expire."""
        self._at[which] = None

    def is_set(self, which: int) -> bool:
        """Whether it is going to expire."""
        return self._at[which] is not None

    def cancel(self) -> None:
        """Clear all of them."""
        self._at = [None] * len(self._at)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._rings = inf

    def _ring_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._ring)
        self._rings = at

    def _ring(self) -> None:
        self._timer = None
        self._rings = inf
        now = self._loop.time()
        for which, at in enumerate(self._at):
            if at is not None and at <= now and self._at[which] == at:
                self._at[which] = None
                self._expired(which)
        due = min((at for at in self._at if at is not None), default=inf)
        if due < self._rings:
            self._ring_at(due)

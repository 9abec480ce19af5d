"""The wall clock, made proof against jumps (CONTRACT §7 expiry: a clock that is set must not end or
revive files).
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: A difference below this is the drift that time services correct; it is followed at once.
_DRIFT = 5.0
#: After a jump the true time is approached by this much of the time that passes.
_SLEW = 0.1


class SteadyClock:
    """Unix seconds that never jump and never run backwards: a set clock is approached at a tenth of
    its pace.

    `wall` and `monotonic` are the clocks of the system, in seconds.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._mark = monotonic()
        self._now = wall()

    def __call__(self) -> float:
        """The time now."""
        mark = self._monotonic()
        passed = mark - self._mark
        expected = self._now + passed
        ahead = self._wall() - expected
        step = ahead if abs(ahead) <= _DRIFT else max(-_SLEW * passed, min(_SLEW * passed, ahead))
        self._mark = mark
        self._now = max(self._now, expected + step)
        return self._now

"""A wall clock that does not jump: setting the system clock must not expire or revive files
(CONTRACT §7).
"""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds. A smaller difference is the drift that time services correct, and is followed at once.
_DRIFT = 5.0
#: Seconds of correction after a jump, for each second that passes.
_SLEW = 0.1


class SteadyClock:
    """The time in Unix seconds, without jumps and never backwards. A jump of the system clock is
    caught up by 0.1 s per second.

    `wall` and `monotonic` are the system clocks, in seconds.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._mark = monotonic()
        self._now = wall()

    def __call__(self) -> float:
        """The current time."""
        mark = self._monotonic()
        passed = mark - self._mark
        expected = self._now + passed
        ahead = self._wall() - expected
        step = ahead if abs(ahead) <= _DRIFT else max(-_SLEW * passed, min(_SLEW * passed, ahead))
        self._mark = mark
        self._now = max(self._now, expected + step)
        return self._now

    def system(self) -> float:
        """The time of the system clock, for what others compare with theirs."""
        return self._wall()


def elapsed() -> float:
    """Return seconds that never jump, and pass while the machine sleeps, if the system can tell."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)

"""The minimum rate of a request body (CONTRACT §3.1)."""

from __future__ import annotations

from collections import deque

#: At least `BYTES` in each period of `WINDOW` seconds: 1 KiB/s.
WINDOW = 60.0
BYTES = 60 << 10
#: Seconds. Bytes that arrive within this time count as one arrival.
_GRAIN = 0.5


class Pace:
    """Detects a body that is too slow. Times are in seconds of a monotonic clock."""

    __slots__ = ("_arrivals", "_size")

    def __init__(self, now: float) -> None:
        #: Time of each arrival and the size after it, back to the start of the last `BYTES`.
        self._arrivals = deque([(now, 0)])
        self._size = 0

    def arrived(self, count: int, now: float) -> None:
        """Record the arrival of `count` bytes."""
        self._size += count
        last, _ = self._arrivals[-1]
        if now - last < _GRAIN:
            self._arrivals[-1] = (last, self._size)
        else:
            self._arrivals.append((now, self._size))
        while self._arrivals[0][1] <= self._size - BYTES:
            self._arrivals.popleft()

    @property
    def due(self) -> float:
        """The time by which more bytes must arrive."""
        return self._arrivals[0][0] + WINDOW

"""How fast a body must arrive (CONTRACT §3.1)."""

from __future__ import annotations

from collections import deque

#: At least `BYTES` in any `WINDOW` seconds: 1 KiB/s.
WINDOW = 60.0
BYTES = 60 << 10
#: Bytes that arrive within so many seconds count as one arrival.
_GRAIN = 0.5


class Pace:
    """Tells when a body is too slow. Times are in seconds of any clock that does not go back."""

    __slots__ = ("_arrivals", "_size")

    def __init__(self, now: float) -> None:
        #: Time of an arrival and the size after it, back to the one that the last `BYTES` began
        #: with.
        self._arrivals = deque([(now, 0)])
        self._size = 0

    def arrived(self, count: int, now: float) -> None:
        """`count` bytes have arrived."""
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
        """The time by which more must have arrived."""
        return self._arrivals[0][0] + WINDOW

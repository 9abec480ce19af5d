"""How fast a transfer goes (CONTRACT §5 `bytesPerSecond`)."""

from __future__ import annotations

#: Seconds that a measurement takes at least. What arrives together with the head of a response says
#: nothing of the rate.
_LEAST = 0.1


class Meter:
    """Bytes per second, smoothed over the last reports; `received` bytes at the second `moment`."""

    def __init__(self, received: int, moment: float) -> None:
        self._received = received
        self._moment = moment
        self._rate: int | None = None

    def update(self, received: int, moment: float) -> int | None:
        """Return the rate, given `received` bytes at the second `moment`; None while unknown."""
        elapsed = moment - self._moment
        if elapsed >= _LEAST:
            latest = (received - self._received) / elapsed
            self._rate = int(latest if self._rate is None else 0.6 * latest + 0.4 * self._rate)
            self._received, self._moment = received, moment
        return self._rate

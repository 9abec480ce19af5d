"""The clock of the store, so that a command can name the moment after which it is useless."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

#: Readings that count: those of one measurement by `parts.store_clock`.
_READINGS = 3


class ServerClock:
    """What the store's clock shows, from its last replies. `seconds` never jumps."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._ahead: deque[float] = deque(maxlen=_READINGS)

    @property
    def known(self) -> bool:
        """Whether there has been a reading."""
        return bool(self._ahead)

    def read(self, time: float) -> None:
        """Note a reading that has just arrived, in Unix seconds."""
        self._ahead.append(time - self._seconds())

    def now(self) -> float:
        """The Unix second, or slightly less: a reading is as old as its reply took to arrive, and
        the one that took the shortest counts.
        """
        return self._seconds() + max(self._ahead)

"""The request fields of accepted exports, in memory until VB365 has responded (CONTRACT §9)."""

from __future__ import annotations

from collections import deque
from weakref import finalize

from proxy.core.errors import Problem
from proxy.jobs.run import Run

_RETRY_AFTER = 30
#: Bytes of memory that a field needs in addition to its name and value.
_PER_FIELD = 200


class HeldFields:
    """Limits the fields of all runs together, in bytes. A run counts while it is in memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        #: The sizes of runs that are no longer in memory. Any thread may collect a run.
        self._released: deque[int] = deque()

    def take(self, run: Run) -> None:
        """Count the fields of the run. Raises `Problem` 503 if they are too many."""
        while self._released:
            self._held -= self._released.popleft()
        size = sum(len(name) + len(value) + _PER_FIELD for name, value in run.fields)
        if self._held + size > self._limit:
            detail = "The header fields of unfinished exports use all the memory reserved for them."
            raise Problem("capacity-exhausted", detail, retry_after=_RETRY_AFTER)
        self._held += size
        finalize(run, self._released.append, size).atexit = False

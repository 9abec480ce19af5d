"""The request fields of accepted exports, in memory until VB365 has responded (CONTRACT §9)."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from proxy.core.errors import Problem
from proxy.jobs.run import Run

_RETRY_AFTER = 30
#: Bytes of memory that a field needs in addition to its name and value.
_PER_FIELD = 200


class HeldFields:
    """Limits the fields of all runs together, in bytes. A run counts while it is in memory."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sizes: WeakKeyDictionary[Run, int] = WeakKeyDictionary()

    def take(self, run: Run) -> None:
        """Count the fields of the run. Raises `Problem` 503 if they are too many."""
        size = sum(len(name) + len(value) + _PER_FIELD for name, value in run.fields)
        if sum(self._sizes.values()) + size > self._limit:
            detail = "The header fields of unfinished exports use all the memory reserved for them."
            raise Problem("capacity-exhausted", detail, retry_after=_RETRY_AFTER)
        self._sizes[run] = size

"""The request fields of accepted exports, in memory until VB365 has responded (CONTRACT §9)."""

from __future__ import annotations

from collections import deque
from weakref import finalize

from proxy.core.errors import Problem
from proxy.core.http.fields import PER_FIELD
from proxy.jobs.admission import UnacceptedCallers
from proxy.jobs.run import Run

_RETRY_AFTER = 30
#: The part of the memory for callers that VB365 has never accepted.
_UNACCEPTED = 1 / 4


class Counted:
    """The fields of one run count while this is in memory."""


class HeldFields:
    """Limits the fields of all runs together, in bytes. They count while the run is in memory, or
    anyone else has its `counted`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        #: The part of that of callers that VB365 had not accepted at their kick-off.
        self._unaccepted = 0
        #: The sizes of those that are no longer in memory, and whether VB365 had accepted their
        #: callers. Any thread may collect one.
        self._released: deque[tuple[int, bool]] = deque()

    def take(self, run: Run, sealed: str | None, *, accepted: bool) -> None:
        """Count the fields of the run, and the `sealed` ones of its job's record, which is in
        memory with it. Raises `Problem` 503 if they are too many, `UnacceptedCallers` if they are
        only for a caller that VB365 has not `accepted`.
        """
        while self._released:
            size, known = self._released.popleft()
            self._count(-size, accepted=known)
        size = sum(len(name) + len(value) + PER_FIELD for name, value in run.fields)
        size += len(sealed or "")
        if self._held + size > self._limit:
            raise _exhausted(Problem, "unfinished exports")
        if not accepted and self._unaccepted + size > self._limit * _UNACCEPTED:
            raise _exhausted(
                UnacceptedCallers, "exports of callers that VB365 has not confirmed yet"
            )
        self._count(size, accepted=accepted)
        run.counted = Counted()
        finalize(run.counted, self._released.append, (size, accepted)).atexit = False

    def _count(self, size: int, *, accepted: bool) -> None:
        self._held += size
        if not accepted:
            self._unaccepted += size


def _exhausted(kind: type[Problem], whose: str) -> Problem:
    detail = f"The header fields of {whose} use all the memory reserved for them."
    return kind("capacity-exhausted", detail, retry_after=_RETRY_AFTER)

"""Slots and the queue for them: which export runs next (CONTRACT §3.5, §3.6). No clock, no store,
no task.

Callers take turns: a free slot goes to the waiting caller whose last start is longest ago, and
within a caller to the job that waits longest. A caller is known by one or more hashes
(`Job.owners`): jobs that have one in common are of the same caller, also if its identity was known
for one of them only. A job is known by a ticket of the user's choice (any hashable, here `Run`).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Generic, TypeVar

_Ticket = TypeVar("_Ticket")

#: Hashes whose last start is remembered. Those of the longest ago are forgotten first, and then
#: count as callers that never started anything: their place in the order is the same.
_REMEMBERED = 10_000


class Slots(Generic[_Ticket]):
    """`total` slots, at most `per_caller` (0: no limit) of them for one caller."""

    def __init__(self, *, total: int, per_caller: int = 0) -> None:
        self._total = total
        self._per_caller = per_caller
        self._running: dict[_Ticket, tuple[str, ...]] = {}
        #: In the order of arrival.
        self._waiting: dict[_Ticket, tuple[str, ...]] = {}
        self._held: list[tuple[float, tuple[str, ...]]] = []
        self._taken: Counter[str] = Counter()
        self._started: OrderedDict[str, int] = OrderedDict()
        self._count = 0

    @property
    def running(self) -> int:
        """Jobs that have a slot."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._waiting)

    @property
    def free(self) -> int:
        """Slots that neither a job has nor a cancelled one still holds. More may be held than there
        are.
        """
        return max(0, self._total - len(self._running) - len(self._held))

    def held(self, *owners: str) -> int:
        """Slots that cancelled jobs of the caller still hold."""
        return sum(not set(owners).isdisjoint(holder) for _, holder in self._held)

    def wait(self, ticket: _Ticket, *owners: str) -> None:
        """Put the caller's job at the end of its queue."""
        self._waiting[ticket] = owners

    def next(self) -> _Ticket | None:
        """Give a free slot to the job whose turn it is; None without a free slot or a job that may
        have it.
        """
        if not self.free:
            return None
        eligible = [ticket for ticket, owners in self._waiting.items() if self._may_start(owners)]
        if not eligible:
            return None
        ticket = min(eligible, key=self._last_start)  # of several the first, which waits longest
        owners = self._waiting.pop(ticket)
        self._running[ticket] = owners
        self._taken.update(owners)
        self.started(*owners)
        return ticket

    def _may_start(self, owners: tuple[str, ...]) -> bool:
        return not self._per_caller or all(self._taken[each] < self._per_caller for each in owners)

    def _last_start(self, ticket: _Ticket) -> int:
        return max(self._started.get(each, 0) for each in self._waiting[ticket])

    def started(self, *owners: str) -> None:
        """Note that the caller had the last turn."""
        self._count += 1
        for each in owners:
            self._started[each] = self._count
            self._started.move_to_end(each)
        while len(self._started) > _REMEMBERED:
            self._started.popitem(last=False)

    def leave(self, ticket: _Ticket, *, hold_until: float | None = None) -> None:
        """Take the job out of the queue or its slot. Idempotent.

        `hold_until`: the slot stays taken until then, because VB365 may go on with the work
        (CONTRACT §3.5).
        """
        self._waiting.pop(ticket, None)
        owners = self._running.pop(ticket, None)
        if owners is None:
            return
        self._release(owners)
        if hold_until is not None:
            self.hold(hold_until, *owners)

    def hold(self, until: float, *owners: str) -> None:
        """Count one more slot as the caller's until the moment `until`."""
        self._held.append((until, owners))
        self._taken.update(owners)

    def expire(self, now: float) -> None:
        """End the holds whose time is over."""
        for entry in [entry for entry in self._held if entry[0] <= now]:
            self._held.remove(entry)
            self._release(entry[1])

    def clear(self) -> None:
        """Empty the queue."""
        self._waiting.clear()

    def _release(self, owners: tuple[str, ...]) -> None:
        for each in owners:
            self._taken[each] -= 1
            if not self._taken[each]:
                del self._taken[each]

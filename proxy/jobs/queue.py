"""Slots and the queue for them: which export runs next (CONTRACT §3.5, §3.6). No clock, no store,
no task.

Callers take turns: a free slot goes to the waiting caller whose last start is longest ago, and
within a caller to the job that waits longest. A job is known by a ticket of the user's choice (any
hashable, here `Run`).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Generic, TypeVar

_Ticket = TypeVar("_Ticket")

#: Callers whose last start is remembered. Those that started longest ago are forgotten first, and
#: then count as callers that never started anything: their place in the order is the same.
_REMEMBERED = 10_000


class Slots(Generic[_Ticket]):
    """`total` slots, at most `per_caller` (0: no limit) of them for one caller."""

    def __init__(self, *, total: int, per_caller: int = 0) -> None:
        self._total = total
        self._per_caller = per_caller
        self._running: dict[_Ticket, str] = {}
        self._waiting: dict[_Ticket, str] = {}
        self._queues: dict[str, dict[_Ticket, int]] = {}
        self._held: list[tuple[float, str]] = []
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
        """Slots that cancelled jobs of the owners still hold."""
        return sum(holder in owners for _, holder in self._held)

    def wait(self, ticket: _Ticket, owner: str) -> None:
        """Put the owner's job at the end of the owner's queue."""
        self._count += 1
        self._waiting[ticket] = owner
        self._queues.setdefault(owner, {})[ticket] = self._count

    def next(self) -> _Ticket | None:
        """Give a free slot to the job whose turn it is; None without a free slot or a job that may
        have it.
        """
        if not self.free:
            return None
        callers = [
            owner
            for owner in self._queues
            if not self._per_caller or self._taken[owner] < self._per_caller
        ]
        if not callers:
            return None
        owner = min(
            callers,
            key=lambda each: (self._started.get(each, 0), next(iter(self._queues[each].values()))),
        )
        ticket = next(iter(self._queues[owner]))
        self._leave_queue(ticket)
        self._running[ticket] = owner
        self._taken[owner] += 1
        self.started(owner)
        return ticket

    def started(self, owner: str) -> None:
        """Note that the owner had the last turn."""
        self._count += 1
        self._started[owner] = self._count
        self._started.move_to_end(owner)
        if len(self._started) > _REMEMBERED:
            self._started.popitem(last=False)

    def leave(self, ticket: _Ticket, *, hold_until: float | None = None) -> None:
        """Take the job out of the queue or its slot. Idempotent.

        `hold_until`: the slot stays taken until then, because VB365 may go on with the work
        (CONTRACT §3.5).
        """
        if ticket in self._waiting:
            self._leave_queue(ticket)
        owner = self._running.pop(ticket, None)
        if owner is None:
            return
        self._release(owner)
        if hold_until is not None:
            self.hold(owner, hold_until)

    def hold(self, owner: str, until: float) -> None:
        """Count one more slot as the owner's until the moment `until`."""
        self._held.append((until, owner))
        self._taken[owner] += 1

    def expire(self, now: float) -> None:
        """End the holds whose time is over."""
        for entry in [entry for entry in self._held if entry[0] <= now]:
            self._held.remove(entry)
            self._release(entry[1])

    def clear(self) -> None:
        """Empty the queue."""
        self._waiting.clear()
        self._queues.clear()

    def _leave_queue(self, ticket: _Ticket) -> None:
        owner = self._waiting.pop(ticket)
        queue = self._queues[owner]
        del queue[ticket]
        if not queue:
            del self._queues[owner]

    def _release(self, owner: str) -> None:
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]

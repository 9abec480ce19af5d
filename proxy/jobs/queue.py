"""The queue and its slots: which export runs next (CONTRACT §3.5, §3.6). It has no clock, no store
and no task.

Callers take turns: a free slot goes to the waiting caller whose last start is longest ago, and
within a caller to the job that has waited longest. A caller is identified by one or more hashes
(`Job.owners`): jobs that share a hash belong to the same caller. Callers that VB365 has never
accepted (`Job.accepted`) have one turn together, and take turns among themselves: anyone can invent
any number of tokens, none of which has ever started a job. A job is identified by a ticket, which
is any hashable value; the runner uses its `Run`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Generic, TypeVar

_Ticket = TypeVar("_Ticket")

#: The number of hashes whose last start is remembered. The oldest are forgotten first; they then
#: count as hashes of callers that have never started a job, which keeps their order.
_REMEMBERED = 10_000
#: Stands for all callers that VB365 has never accepted. No hash is equal to it.
_UNACCEPTED = "unaccepted"


class Slots(Generic[_Ticket]):
    """`total` slots, at most `per_caller` (0: no limit) of them for one caller."""

    def __init__(self, *, total: int, per_caller: int = 0) -> None:
        self._total = total
        self._per_caller = per_caller
        self._running: dict[_Ticket, tuple[str, ...]] = {}
        #: Owners, and whether VB365 has accepted them, in the order of arrival.
        self._waiting: dict[_Ticket, tuple[tuple[str, ...], bool]] = {}
        self._held: list[tuple[float, tuple[str, ...]]] = []
        self._taken: Counter[str] = Counter()
        self._started: OrderedDict[str, int] = OrderedDict()
        self._count = 0

    @property
    def running(self) -> int:
        """The number of jobs that have a slot."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """The number of jobs in the queue."""
        return len(self._waiting)

    @property
    def free(self) -> int:
        """The number of slots that no running job has and no cancelled job still holds. It is
        never negative, although more slots may be held than there are.
        """
        return max(0, self._total - len(self._running) - len(self._held))

    def held(self, *owners: str) -> int:
        """The number of slots that cancelled jobs of the caller still hold; of all callers if none
        is named.
        """
        return sum(not owners or not set(owners).isdisjoint(holder) for _, holder in self._held)

    def wait(self, ticket: _Ticket, *owners: str, accepted: bool = True) -> None:
        """Add the caller's job to the end of the queue."""
        self._waiting[ticket] = owners, accepted

    def next(self) -> _Ticket | None:
        """Give a free slot to the job whose turn it is, and return its ticket. Returns None if no
        slot is free or no waiting job may start.
        """
        if not self.free:
            return None
        eligible = [
            ticket for ticket, (owners, _) in self._waiting.items() if self._may_start(owners)
        ]
        if not eligible:
            return None
        # of equals, min returns the first, which has waited longest
        ticket = min(eligible, key=self._last_start)
        self._give(ticket, *self._waiting.pop(ticket))
        return ticket

    def take(self, ticket: _Ticket, *owners: str, accepted: bool = True) -> bool:
        """Give a free slot to a job of the caller that has not waited, unless a waiting job may
        start. Return whether it has got one.
        """
        if not self.free or not self._may_start(owners):
            return False
        if any(self._may_start(waiting) for waiting, _ in self._waiting.values()):
            return False
        self._give(ticket, owners, accepted)
        return True

    def _give(self, ticket: _Ticket, owners: tuple[str, ...], accepted: bool) -> None:
        self._running[ticket] = owners
        self._taken.update(owners)
        self.started(*owners, accepted=accepted)

    def _may_start(self, owners: tuple[str, ...]) -> bool:
        return not self._per_caller or all(self._taken[each] < self._per_caller for each in owners)

    def _last_start(self, ticket: _Ticket) -> tuple[int, int]:
        """When the caller had its last turn. The second number decides between callers that have
        one turn together.
        """
        owners, accepted = self._waiting[ticket]
        last = max(self._started.get(each, 0) for each in owners)
        return last if accepted else max(last, self._started.get(_UNACCEPTED, 0)), last

    def started(self, *owners: str, accepted: bool = True) -> None:
        """Record that the caller has just had a turn."""
        self._count += 1
        for each in owners if accepted else (*owners, _UNACCEPTED):
            self._started[each] = self._count
            self._started.move_to_end(each)
        while len(self._started) > _REMEMBERED:
            self._started.popitem(last=False)

    def leave(self, ticket: _Ticket, *, hold_until: float | None = None) -> None:
        """Remove the job from the queue, or release its slot. Idempotent.

        With `hold_until` the slot stays held until then, because VB365 may continue the work
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
        """Hold one more slot for the caller until the Unix second `until`."""
        self._held.append((until, owners))
        self._taken.update(owners)

    def expire(self, now: float) -> None:
        """Release the slots that were held until `now` or earlier."""
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

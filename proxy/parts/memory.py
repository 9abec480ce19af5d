"""The memory that clients may use before it is known who they are (CONTRACT §3.1, §12)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.api.request_body import RequestBodies
from proxy.config.settings import Settings
from proxy.net.budget import Budget, Part, SharedBudget
from proxy.net.seat import Seat
from proxy.ports import Fields

#: CONTRACT §12.
_HEADS = 64 << 20


@dataclass(frozen=True, slots=True)
class ClientMemory:
    """`heads` is for the unfinished heads, pipelined requests and large heads of all clients,
    `bodies` for those of kick-offs and rescued exports that are being received, `strange_bodies`
    what of these callers may use whom VB365 has never accepted, `strange_rescues` the part of it
    for rescued exports. `processes` serve exports, and divide what they do not count together.
    """

    heads: Budget
    bodies: Budget
    strange_bodies: Part
    strange_rescues: Part
    processes: int = 1

    @classmethod
    def of(cls, settings: Settings, seat: Seat | None = None) -> ClientMemory:
        """Make it from the settings. The workers of one proxy share it."""
        limit, largest = settings.exports.body_memory, settings.exports.max_request_body
        # rescued bodies, and those at another worker, make no room for others, so that they leave
        # some, but a first kick-off may have a body of any valid size
        part = max(limit * 3 // 4, largest)
        if seat is None:
            bodies = Budget(limit)
            kickoffs, rescues = Part(bodies, Budget(limit)), Part(bodies, Budget(part))
            return cls(Budget(_HEADS), bodies, kickoffs, rescues)
        bodies = SharedBudget(limit, seat.bodies, seat.index)
        strangers = Part(bodies, SharedBudget(part, seat.strange_bodies, seat.index))
        rescued = SharedBudget(max(part - largest, largest), seat.strange_rescues, seat.index)
        return cls(
            SharedBudget(_HEADS, seat.heads, seat.index),
            bodies,
            strangers,
            Part(strangers, rescued),
            seat.count if seat.handover is None else 1,
        )

    def receiver(self, max_body: int, knows: Callable[[Fields], bool]) -> RequestBodies:
        """Make what receives the bodies of kick-offs."""
        return RequestBodies(max_body=max_body, part=self.strange_bodies, knows=knows)

    def for_rescue(self, knows: Callable[[Fields], bool], fields: Fields) -> Budget:
        """Return the memory that the body of a rescued export with these fields may take. `knows`
        as `RequestBodies`.
        """
        return self.bodies if knows(fields) else self.strange_rescues

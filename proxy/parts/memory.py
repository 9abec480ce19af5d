"""The memory that clients may use before it is known who they are (CONTRACT §3.1, §12)."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.config.settings import Settings
from proxy.net.budget import Budget, SharedBudget
from proxy.net.seat import Seat

#: CONTRACT §12.
_HEADS = 64 << 20


@dataclass(frozen=True, slots=True)
class ClientMemory:
    """`heads` is for the unfinished heads, pipelined requests and large heads of all clients,
    `bodies` for those of kick-offs and rescued exports that are being received. `processes` serve
    exports, and divide what they do not count together.
    """

    heads: Budget
    bodies: Budget
    processes: int = 1

    @classmethod
    def of(cls, settings: Settings, seat: Seat | None = None) -> ClientMemory:
        """Make it from the settings. The workers of one proxy share it."""
        limit = settings.exports.body_memory
        if seat is None:
            return cls(Budget(_HEADS), Budget(limit))
        return cls(
            SharedBudget(_HEADS, seat.heads, seat.index),
            SharedBudget(limit, seat.bodies, seat.index),
            seat.count if seat.handover is None else 1,
        )

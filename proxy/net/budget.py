"""Memory, or another thing that can be counted, that many users share."""

from __future__ import annotations


class Budget:
    """`limit` units at most are taken at a time."""

    __slots__ = ("limit", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def take(self, count: int) -> bool:
        """Take `count` units; False, and nothing is taken, if fewer are left."""
        if self.taken + count > self.limit:
            return False
        self.taken += count
        return True

    def give(self, count: int) -> None:
        """Give back `count` units that were taken."""
        self.taken -= count

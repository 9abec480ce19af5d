"""A shared limit on memory or another countable resource."""

from __future__ import annotations


class Budget:
    """At most `limit` units are in use at a time."""

    __slots__ = ("limit", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def take(self, count: int) -> bool:
        """Take `count` units. Return False, and take nothing, if fewer are free."""
        if self.taken + count > self.limit:
            return False
        self.taken += count
        return True

    def give(self, count: int) -> None:
        """Return `count` units."""
        self.taken -= count

"""A shared limit on memory or another countable resource."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """At most `limit` units are in use at a time. `returned` counts those that were in use before,
    each time.
    """

    __slots__ = ("limit", "returned", "taken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.returned = 0

    def take(self, count: int) -> bool:
        """Take `count` units. Return False, and take nothing, if fewer are free."""
        if self.taken + count > self.limit:
            return False
        self.taken += count
        return True

    def give(self, count: int) -> None:
        """Return `count` units."""
        self.taken -= count
        self.returned += count


class Tally:
    """How many units of one limit each of `count` processes has taken. The memory is made before
    they are forked from the one that makes it.
    """

    def __init__(self, count: int) -> None:
        self.taken = memoryview(mmap.mmap(-1, 8 * count)).cast("q")


class SharedBudget(Budget):
    """At most `limit` units are in use at a time by all processes of `tally`; this one is `index`,
    and what a process in its place has taken before it ended is free again.

    Two that take at the same moment can exceed the limit once: there is no lock between processes.
    """

    __slots__ = ("_all", "_index")

    def __init__(self, limit: int, tally: Tally, index: int) -> None:
        super().__init__(limit)
        self._all, self._index = tally.taken, index
        self._all[index] = 0

    def take(self, count: int) -> bool:
        """As `Budget.take`."""
        if sum(self._all) + count > self.limit:
            return False
        self.taken += count
        self._all[self._index] = self.taken
        return True

    def give(self, count: int) -> None:
        """As `Budget.give`."""
        super().give(count)
        self._all[self._index] = self.taken


class Part(Budget):
    """The units of `whole` that some of its users may take: together no more than `part` has."""

    __slots__ = ("_part", "whole")

    def __init__(self, whole: Budget, part: Budget) -> None:
        super().__init__(part.limit)
        self.whole, self._part = whole, part

    def take(self, count: int) -> bool:
        """As `Budget.take`."""
        if not self._part.take(count):
            return False
        if not self.whole.take(count):
            self._part.give(count)
            return False
        self.taken += count
        return True

    def give(self, count: int) -> None:
        """As `Budget.give`."""
        super().give(count)
        self._part.give(count)
        self.whole.give(count)


class Share:
    """Units of a budget that are returned together, once nobody holds them. Its maker does until
    `release`.
    """

    __slots__ = ("_holders", "_released", "_size", "budget")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._size = 0
        self._holders = 1
        self._released = False

    def take(self, count: int) -> bool:
        """Take `count` more units. Return False, and take nothing, if fewer are free."""
        if not self.budget.take(count):
            return False
        self._size += count
        return True

    def release(self) -> None:
        """End the hold of the maker. Idempotent."""
        if not self._released:
            self._released = True
            self._leave()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the units within the block, also after `release`."""
        self._holders += 1
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        self._holders -= 1
        if not self._holders:
            self.budget.give(self._size)
            self._size = 0

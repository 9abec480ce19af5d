"""Counts of values in fixed buckets, as a Prometheus histogram shows them (CONTRACT §16)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence


class Histogram:
    """How many values were at most each bound. The last count is that of values above all bounds.

    `bounds` are ascending. `total` is the sum of all values. Each value is counted in one bucket;
    buckets become cumulative when they are shown.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count the value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_all(self, values: list[float]) -> None:
        """Count all values, faster than one by one. The list is sorted."""
        values.sort()
        self.total += sum(values)
        start = 0
        for index, bound in enumerate(self.bounds):
            end = bisect_right(values, bound, start)
            self.counts[index] += end - start
            start = end
        self.counts[-1] += len(values) - start

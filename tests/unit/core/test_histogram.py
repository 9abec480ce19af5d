"""Counts in buckets (CONTRACT §16)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.histogram import Histogram


def test_a_value_counts_in_the_first_bucket_that_it_does_not_exceed() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.1, 100.0):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 2]
    assert histogram.total == 106.6


@given(st.lists(st.integers(0, 50).map(float)))
def test_many_values_count_as_one_by_one(values: list[float]) -> None:
    one, many = Histogram((1.0, 5.0, 40.0)), Histogram((1.0, 5.0, 40.0))
    for value in values:
        one.observe(value)
    many.observe_all(list(values))
    assert (one.counts, one.total) == (many.counts, many.total)

"""Counting does not grow (CONTRACT §16)."""

from __future__ import annotations

import tracemalloc

from proxy.ports.counts import ClientCounts


def test_16_a_hundred_thousand_requests_take_no_memory() -> None:
    counts = ClientCounts()

    def count(number: int) -> None:
        for index in range(number):
            counts.relay.ended(200 + index % 5, 1.0, 0.0, 1.0 + index / 1000)
            counts.own.ended(200, 1.0, 1.5, 2.0)
            if not index % 1000:  # as every second
                counts.settle()

    count(10_000)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        count(100_000)
        counts.settle()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 64 << 10
    assert sum(counts.relay.codes.values()) == sum(counts.relay.at_once.counts) == 110_000

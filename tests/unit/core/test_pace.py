"""The minimum rate of a request body: 1 KiB/s over any 60 s (CONTRACT §3.1)."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from proxy.core.pace import BYTES, WINDOW, Pace


def in_time(arrivals: Iterable[tuple[float, int]]) -> bool:
    """Whether each arrival (time, bytes) is in time."""
    pace = Pace(0)
    for now, count in arrivals:
        if now > pace.due:
            return False
        pace.arrived(count, now)
    return True


def test_3_1_the_rate_is_1_kib_per_second() -> None:
    assert BYTES / WINDOW == 1024


@pytest.mark.parametrize("step", [0.01, 0.3, 1, 7, 59])
def test_3_1_a_body_at_the_minimum_rate_is_accepted_and_a_slower_one_is_not(step: float) -> None:
    at_pace = int(1024 * step * 1.2) + 1
    assert in_time((n * step, at_pace) for n in range(int(600 / step)))
    assert not in_time((n * step, int(1024 * step * 0.8)) for n in range(int(600 / step)))


def test_3_1_a_burst_is_no_credit_for_later() -> None:
    assert in_time([(0, 16 << 20), (WINDOW, 1)])
    assert not in_time([(0, 16 << 20), (30, 1), (WINDOW + 1, 1)])
    assert not in_time([(0, 16 << 20), *((n, 1) for n in range(1, 70))])


def test_3_1_many_small_chunks_take_little_memory() -> None:
    pace = Pace(0)
    for n in range(100_000):
        pace.arrived(1, n / 1500)
    assert len(pace._arrivals) < 200

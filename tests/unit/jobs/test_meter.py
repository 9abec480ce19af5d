"""The rate of a transfer."""

from __future__ import annotations

from proxy.jobs.meter import Meter


def test_5_the_rate_is_unknown_until_it_can_be_measured() -> None:
    """§5: unknown numbers are null. The first bytes may arrive together with the head."""
    meter = Meter(0, 10.0)
    assert meter.update(100_000, 10.0) is None
    assert meter.update(150_000, 10.05) is None
    assert meter.update(200_000, 10.5) == 400_000


def test_5_the_rate_is_that_of_the_last_reports() -> None:
    meter = Meter(1000, 0.0)
    assert meter.update(3000, 2.0) == 1000
    assert meter.update(3000, 2.01) == 1000  # too short to measure
    assert meter.update(7000, 4.0) == 1600
    assert meter.update(7000, 6.0) == 640

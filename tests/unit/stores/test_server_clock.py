"""The clock of a store, as its replies show it."""

from __future__ import annotations

from proxy.stores.redis_jobs.server_clock import ServerClock


def test_the_fastest_of_the_last_readings_counts() -> None:
    seconds = 100.0
    clock = ServerClock(lambda: seconds)
    assert not clock.known
    for delay in (0.5, 0.1, 0.3):  # between the reading and the arrival of the reply
        clock.read(1_000.0 + seconds - delay)
    assert clock.known
    seconds += 7
    assert clock.now() == 1_000.0 + seconds - 0.1
    for _ in range(3):
        clock.read(500.0 + seconds)
    assert clock.now() == 500.0 + seconds

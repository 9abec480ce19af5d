"""How large a run is."""

from __future__ import annotations

from dataclasses import dataclass

MB = 1_000_000


@dataclass(frozen=True)
class Sizes:
    """Rounds; seconds of each load; bytes of a large file and of all; jobs on record, and pending ones among them;
    exchanges for a latency; modes of TLS.
    """

    rounds: int = 5
    seconds: int = 3
    large: int = 1000 * MB
    total: int = 5000 * MB
    jobs: int = 10_000
    pending: int = 1_000
    probes: int = 1_000
    modes: int = 3


FULL = Sizes()
TINY = Sizes(rounds=1, seconds=1, large=4 * MB, total=8 * MB, jobs=20, pending=5, probes=10, modes=1)

"""The sizes of a benchmark run."""

from __future__ import annotations

from dataclasses import dataclass

MB = 1_000_000


@dataclass(frozen=True)
class Sizes:
    """The sizes of a run.

    `rounds`: interleaved rounds per benchmark.
    `seconds`: duration of one run of the load generator.
    `large`: bytes of a large file.
    `total`: bytes of all files of the memory benchmark.
    `jobs`: jobs on record, of which `pending` wait for the upstream.
    `probes`: requests per latency measurement.
    `replicas`: replicas to run at most.
    `modes`: how many TLS modes of `small` to run, in the order of its table.
    """

    rounds: int = 5
    seconds: int = 3
    large: int = 1000 * MB
    total: int = 5000 * MB
    jobs: int = 10_000
    pending: int = 1_000
    probes: int = 1_000
    replicas: int = 4
    modes: int = 3


FULL = Sizes()
TINY = Sizes(
    rounds=1,
    seconds=1,
    large=4 * MB,
    total=8 * MB,
    jobs=20,
    pending=5,
    probes=10,
    replicas=2,
    modes=1,
)

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
    `stored`: bytes of a file that is stored. 1 GB stays in the page cache, 2 GB do not.
    `total`: bytes of all files of the memory benchmark.
    `jobs`: jobs on record, of which `pending` wait for the upstream.
    `probes`: requests per latency measurement.
    `replicas`: the numbers of replicas to run.
    `modes`: how many TLS modes of `small` to run, in the order of its table.
    `tls`: whether to use TLS, one run each. `all_cores`: measure on all cores too, not only on one.
    `connections`, `records`: the steps of the growth benchmarks.
    """

    rounds: int = 3
    seconds: int = 2
    large: int = 1000 * MB
    stored: int = 2000 * MB
    total: int = 3000 * MB
    jobs: int = 10_000
    pending: int = 1_000
    probes: int = 1_000
    replicas: tuple[int, ...] = (1, 4)
    modes: int = 3
    tls: tuple[bool, ...] = (False, True)
    all_cores: bool = True
    connections: tuple[int, ...] = (10, 1_000, 10_000)
    records: tuple[int, ...] = (100, 10_000, 100_000)


FULL = Sizes()
TINY = Sizes(
    rounds=1,
    seconds=1,
    large=4 * MB,
    stored=4 * MB,
    total=8 * MB,
    jobs=20,
    pending=5,
    probes=10,
    replicas=(1, 2),
    modes=1,
    tls=(True,),
    all_cores=False,
    connections=(10, 64),
    records=(20,),
)

"""`python -m benchmarks [names]`: run the benchmarks and print a table of the results."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.cluster import bucket, redis, replicas, workers
from benchmarks.jobs import jobs, latency, memory
from benchmarks.processes import LOAD_CORE, MissingProgram
from benchmarks.report import Row, table
from benchmarks.rescue import rescue
from benchmarks.servers import Servers
from benchmarks.sizes import FULL, TINY, Sizes
from benchmarks.small import small
from benchmarks.transfers import artifact, spool, through

Benchmark = Callable[[Servers, Sizes], list[Row]]

BENCHMARKS: dict[str, Benchmark] = {
    each.__name__: each
    for each in (
        small,
        through,
        artifact,
        spool,
        latency,
        rescue,
        memory,
        jobs,
        workers,
        redis,
        replicas,
        bucket,
    )
}


def main() -> int:
    """Run the named benchmarks, or all; return 1 if one could not run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(BENCHMARKS), metavar="name")
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="run with tiny sizes, to check that the benchmarks work",
    )
    parser.add_argument("--rounds", type=int, help="number of interleaved rounds (default: 5)")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHMARKS):
        parser.error(f"unknown benchmark: {', '.join(sorted(unknown))}")
    sizes = TINY if options.tiny else FULL
    if options.rounds:
        sizes = replace(sizes, rounds=options.rounds)
    os.sched_setaffinity(0, {LOAD_CORE})
    return run(options.names or list(BENCHMARKS), sizes)


def run(names: list[str], sizes: Sizes) -> int:
    """Run the benchmarks, each in its own directory, and print the table.

    Returns 1 if a benchmark could not run.
    """
    rows: list[Row] = []
    not_run: list[str] = []
    for name in names:
        print(f"{name} …", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory:
            try:
                rows += BENCHMARKS[name](Servers.create(Path(directory)), sizes)
            except MissingProgram as error:
                not_run.append(f"{name} was NOT run: {error}")
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    cores = f"{os.cpu_count()} cores"
    print(f"\n{platform.platform()}, {cores}, load {load}, {sizes.rounds} rounds\n")
    print(table(rows))
    if not_run:
        rule = "*" * 70
        print(f"\n{rule}\n" + "\n".join(not_run) + f"\n{rule}")
    return 1 if not_run else 0


if __name__ == "__main__":
    sys.exit(main())

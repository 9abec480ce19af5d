"""`python -m benchmarks [names]`: run them, print one table."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.files import artifact, spool, through
from benchmarks.machine import LOAD, Missing
from benchmarks.many import jobs, latency, memory
from benchmarks.report import Row, table
from benchmarks.servers import Lab
from benchmarks.sizes import FULL, TINY, Sizes
from benchmarks.small import small

BENCHMARKS: dict[str, Callable[[Lab, Sizes], list[Row]]] = {
    each.__name__: each for each in (small, through, artifact, spool, latency, memory, jobs)
}


def main() -> int:
    """Run what is asked for; 1 if a benchmark could not run."""
    asked = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    asked.add_argument("names", nargs="*", help=", ".join(BENCHMARKS), metavar="name")
    asked.add_argument("--tiny", action="store_true", help="only see that everything works")
    asked.add_argument("--rounds", type=int, help="interleaved rounds (5)")
    given = asked.parse_args()
    if unknown := set(given.names) - set(BENCHMARKS):
        asked.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    sizes = TINY if given.tiny else FULL
    if given.rounds:
        sizes = replace(sizes, rounds=given.rounds)
    os.sched_setaffinity(0, {LOAD})
    return run(given.names or list(BENCHMARKS), sizes)


def run(names: list[str], sizes: Sizes) -> int:
    """Run them one after the other, each in a directory of its own."""
    rows: list[Row] = []
    missing: list[str] = []
    for name in names:
        print(f"{name} …", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as place:
            try:
                rows += BENCHMARKS[name](Lab.at(Path(place)), sizes)
            except Missing as why:
                missing.append(f"{name} was NOT run: {why}")
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"\n{platform.platform()}, {os.cpu_count()} cores, load {load}, {sizes.rounds} rounds\n")
    print(table(rows))
    if missing:
        print("\n" + "*" * 70 + "\n" + "\n".join(missing) + "\n" + "*" * 70)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())

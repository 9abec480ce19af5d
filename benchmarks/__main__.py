"""Run the benchmarks, print their results, and keep them in docs/performance.md."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import results
from benchmarks.cluster import bucket, redis, replicas, workers
from benchmarks.growth import connections, records
from benchmarks.jobs import jobs, latency, memory
from benchmarks.others import LIMIT, Moment, disturbing, taken
from benchmarks.processes import LOAD_CORE, MissingProgram
from benchmarks.report import Row, Run, table
from benchmarks.rescue import rescue
from benchmarks.servers import Servers
from benchmarks.sizes import FULL, TINY, Sizes
from benchmarks.small import small
from benchmarks.startup import startup
from benchmarks.transfers import artifact, spool, through
from benchmarks.webhooks import webhooks

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
        jobs,
        startup,
        memory,
        webhooks,
        workers,
        redis,
        replicas,
        bucket,
        connections,
        records,
    )
}
#: Seconds for which other processes are watched before the benchmarks begin.
_WATCHED = 2.0


def main() -> int:
    """Run the chosen benchmarks, or all; return 1 if one could not run or was disturbed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], help=", ".join(BENCHMARKS), metavar="name")
    parser.add_argument(
        "--anyway",
        action="store_true",
        help=f"judge also beside other processes that take more than {LIMIT:.0%}% of a core",
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="run with tiny sizes, to check that the benchmarks work; no result is kept",
    )
    parser.add_argument("--rounds", type=int, help=f"interleaved rounds ({FULL.rounds})")
    options = parser.parse_args()
    if unknown := set(options.only) - set(BENCHMARKS):
        parser.error(
            f"unknown benchmark: {', '.join(sorted(unknown))} (known: {', '.join(BENCHMARKS)})"
        )
    sizes = TINY if options.tiny else FULL
    if options.rounds:
        sizes = replace(sizes, rounds=options.rounds)
    anyway = options.anyway or options.tiny
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    python = f"Python {platform.python_version()}"
    print(
        f"{platform.platform()}, {python}, {os.cpu_count()} cores, load {load},"
        f" {sizes.rounds} rounds"
    )
    if not anyway and (loud := _loud()):
        print(f"\nNothing is measured: {loud}. Stop it, or use --anyway.")
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the programs are stopped
    os.sched_setaffinity(0, {LOAD_CORE})
    runs, problems = run(options.only or list(BENCHMARKS), sizes, anyway=anyway)
    print("\n" + table(runs.values()))
    if not options.tiny and runs:
        kept = results.merged(results.load(), runs, BENCHMARKS)
        results.save(kept)
        results.publish(kept)
    if problems:
        rule = "*" * 70
        print(f"\n{rule}\n" + "\n".join(problems) + f"\n{rule}")
    return 1 if problems else 0


def _loud() -> str:
    before = Moment.now()
    time.sleep(_WATCHED)
    return disturbing(taken(before, Moment.now(), os.getpid()))


def run(names: list[str], sizes: Sizes, *, anyway: bool) -> tuple[dict[str, Run], list[str]]:
    """Run the benchmarks, each in its own directory. Return their results, and what went wrong."""
    runs: dict[str, Run] = {}
    problems: list[str] = []
    for name in names:
        print(f"{name} …", end=" ", file=sys.stderr, flush=True)
        before = Moment.now()
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory:
            try:
                rows = BENCHMARKS[name](Servers.create(Path(directory)), sizes)
            except MissingProgram as error:
                problems.append(f"{name} was NOT run: {error}")
                continue
            except RuntimeError as error:
                problems.append(f"{name} FAILED: {error}")
                continue
        after = Moment.now()
        print(f"{after.at - before.at:.0f} s", file=sys.stderr, flush=True)
        shares = taken(before, after, os.getpid())
        disturbed = "" if anyway else disturbing(shares)
        if disturbed:
            problems.append(f"{name} is not judged: {disturbed}")
        runs[name] = Run(
            datetime.now(UTC).date().isoformat(),
            round(os.getloadavg()[0], 2),
            round(sum(shares.values()), 3),
            disturbed,
            rows,
        )
    return runs, problems


if __name__ == "__main__":
    sys.exit(main())

"""Jobs: latency during an export, memory of pending exports, and thousands of jobs on record."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

from benchmarks.client import (
    AUTHORIZATION,
    NO_WAIT,
    connect,
    export_path,
    finished_export,
    kick_off,
    request,
    timed_request,
    wait_for_success,
)
from benchmarks.load import curl, wrk
from benchmarks.processes import TESTED_CORE, Program, fsync, median, percentile
from benchmarks.report import Row, spread
from benchmarks.seeding import seeded
from benchmarks.servers import Servers
from benchmarks.sizes import Sizes
from benchmarks.transfers import create_big_file

_PATH = "/v8/Organizations?limit=30"
#: Settings without effective limits on the number of jobs.
UNLIMITED = {
    "EXPORTS__MAX_PER_CALLER": "100000",
    "EXPORTS__MAX_QUEUED": "100000",
    # each one keeps four descriptors back
    "EXPORTS__MAX_RUNNING": "2000",
    "EXPORTS__MAX_RECORDS_PER_CALLER": "100000",
    "STORAGE__MAX_RECORDS": "100000",
    "EXPORTS__GRACE": "0s",
}
#: How many jobs the load generator polls in turn.
_POLLED_JOBS = 50


def latency(servers: Servers, sizes: Sizes) -> list[Row]:
    """Measure small requests over https upstream while exports are stored one after the other."""
    files = create_big_file(servers, sizes.large)
    rows = [_latency(servers, sizes, files, (TESTED_CORE,))]
    if sizes.all_cores and (cores := os.cpu_count() or 1) > 1:
        rows.append(_latency(servers, sizes, files, tuple(range(cores))))
    return rows


def _latency(servers: Servers, sizes: Sizes, files: Path, cores: tuple[int, ...]) -> Row:
    with (
        servers.upstream(files, tls=True) as upstream,
        servers.proxy(upstream.port, tls_upstream=True, cores=cores) as proxy,
    ):
        idle = _probe(proxy, sizes.probes * 5)
        stop = threading.Event()
        with ThreadPoolExecutor(1) as threads:
            exporting = threads.submit(_export_repeatedly, proxy, stop)
            try:
                rounds = [_probe(proxy, sizes.probes * 2) for _ in range(sizes.rounds)]
            finally:
                stop.set()
            exports = exporting.result()
    busy = [value for measured in rounds for value in measured]
    note = ", ".join(
        (
            f"p99 without export {percentile(idle, 0.99):.1f} ms",
            f"median with export {percentile(busy, 0.5):.1f} ms",
            f"{exports} exports",
        )
    )
    count = "one core" if len(cores) == 1 else f"{len(cores)} cores"
    work, p99 = f"small, {count}, beside a spool: p99", percentile(busy, 0.99)
    target, stretch = (8, 4) if len(cores) == 1 else (4, 3)
    span = spread([percentile(measured, 0.99) for measured in rounds])
    return Row(work, p99, "ms", note, target, stretch, higher_is_better=False, span=span)


def _probe(server: Program, count: int) -> list[float]:
    """Return the latencies of small requests in milliseconds."""
    with connect(server) as connection:
        return [timed_request(connection, "GET", _PATH, 200) for _ in range(count)]


def _export_repeatedly(server: Program, stop: threading.Event) -> int:
    """Run exports, at least one, until `stop` is set; return how many."""
    count = 0
    with connect(server) as connection:
        while not stop.is_set() or not count:
            job = kick_off(connection)
            wait_for_success(connection, job)
            request(connection, "DELETE", job, 204)
            count += 1
    return count


def memory(servers: Servers, sizes: Sizes) -> list[Row]:
    """Measure the memory per pending export, and the peak while files are stored and served."""
    with (
        servers.silent_upstream(tls=True) as upstream,
        servers.proxy(upstream.port, tls_upstream=True, settings=UNLIMITED) as proxy,
    ):
        _start_pending(proxy, max(1, sizes.pending // 10))  # warm up
        before = proxy.memory()
        pending = _start_pending(proxy, sizes.pending)
        per_export = (proxy.memory() - before) / sizes.pending
        with connect(proxy) as connection:
            for job in pending:
                request(connection, "GET", job, 202)
    work, note = "memory per pending export over TLS", f"{sizes.pending} pending"
    row = Row(work, per_export / 1000, "KB", note, target=50, stretch=45, higher_is_better=False)
    return [row, _peak_memory(servers, sizes)]


def _peak_memory(servers: Servers, sizes: Sizes) -> Row:
    files, count = create_big_file(servers, sizes.large), sizes.total // sizes.large
    with (
        servers.upstream(files, tls=True) as upstream,
        servers.proxy(upstream.port, tls=True, tls_upstream=True) as proxy,
    ):
        idle = proxy.memory("VmHWM")
        first = 0
        for _ in range(count):
            job = finished_export(proxy, tls=True)
            curl(proxy, job + "/result", size=sizes.large, tls=True, fields=AUTHORIZATION)
            with connect(proxy, tls=True) as connection:
                request(connection, "DELETE", job, 204)
            first = first or proxy.memory("VmHWM")
        peak = proxy.memory("VmHWM")
    note = ", ".join(
        (
            f"{sizes.total / 1e9:.3g} GB over TLS",
            f"idle {idle >> 20} MiB",
            f"after the first file {first >> 20} MiB",
        )
    )
    work = "memory, storing and serving, peak"
    return Row(work, peak / 2**20, "MiB", note, target=96, stretch=64, higher_is_better=False)


def _start_pending(server: Program, count: int) -> list[str]:
    """Start exports to which the upstream never responds; return the paths of their jobs."""
    with connect(server) as connection:
        return [kick_off(connection, "save") for _ in range(count)]


def jobs(servers: Servers, sizes: Sizes) -> list[Row]:
    """Measure kick-off and status with thousands of jobs on record, and the CPU time of polls."""
    with ExitStack() as stack:
        upstream = stack.enter_context(servers.silent_upstream(tls=False))
        data, known = seeded(servers, upstream.port, sizes.jobs - sizes.pending)
        settings = UNLIMITED | {"STORAGE__DIR": str(data)}
        proxy = stack.enter_context(servers.proxy(upstream.port, settings=settings))
        known += _start_pending(proxy, sizes.pending)
        connection = stack.enter_context(connect(proxy))
        rounds = [
            _kick_offs(connection, data.parent / "synced", sizes.probes // 5)
            for _ in range(sizes.rounds)
        ]
        choose = random.Random(1).choice
        sample = [choose(known) for _ in range(sizes.probes)]
        for job in sample:  # warm up
            _timed_poll(connection, job)
        polls = [_timed_poll(connection, job) for job in sample]
        script = servers.new_directory("wrk") / "jobs.lua"
        write_script(script, known[-_POLLED_JOBS:])
        costs = [
            wrk(proxy, "/", seconds=sizes.seconds, fields=AUTHORIZATION, script=script)
            for _ in range(sizes.rounds)
        ]
    rates = [1 / cost.cpu_per_unit for cost in costs]
    cpu = median([cost.cpu_per_unit for cost in costs])
    note = f"{median([cost.rate for cost in costs]):,.0f}/s; {cpu * 1e6:.0f} µs of CPU each"
    work = "status polls per second of CPU"
    return [
        *_kick_off_rows(rounds, sizes),
        _status_row(polls),
        Row(work, median(rates), "/s", note, 8000, 15000, span=spread(rates)),
    ]


def _kick_offs(
    connection: HTTPConnection, synced: Path, count: int
) -> tuple[list[float], list[float]]:
    """Return the latencies of kick-offs and, taken in turns with them, of an fsync of the same
    disk, in milliseconds.
    """
    taken, syncs = [], []
    with synced.open("wb", 0) as file:
        for _ in range(count):
            path = export_path("save")
            taken.append(timed_request(connection, "POST", path, 202, Prefer=NO_WAIT))
            syncs.append(fsync(file.fileno()))
    return taken, syncs


def _kick_off_rows(rounds: list[tuple[list[float], list[float]]], sizes: Sizes) -> list[Row]:
    ratios = [median(taken) / median(syncs) for taken, syncs in rounds]
    tails = [percentile(taken, 0.99) for taken, _ in rounds]
    taken = [value for measured, _ in rounds for value in measured]
    syncs = [value for _, measured in rounds for value in measured]
    note = f"{median(taken):.1f} ms, fsync {median(syncs):.1f} ms"
    tail = f"fsync {percentile(syncs, 0.99):.1f} ms"
    ratio = median(taken) / median(syncs)
    count = f"{sizes.jobs:,} jobs, {sizes.pending:,} pending"
    return [
        Row(
            "kick-off, median vs one fsync",
            ratio,
            "times",
            f"{note}; {count}",
            1.5,
            1.2,
            False,
            span=spread(ratios),
        ),
        Row(
            "kick-off, p99", percentile(taken, 0.99), "ms", tail, 20, 10, False, span=spread(tails)
        ),
    ]


def _status_row(polls: list[float]) -> Row:
    note = f"median {percentile(polls, 0.5):.1f} ms"
    return Row("status, p99", percentile(polls, 0.99), "ms", note, 2, 1, higher_is_better=False)


def _timed_poll(connection: HTTPConnection, job: str) -> float:
    """Get the status of a job, finished or not, and return the latency in milliseconds."""
    start = time.perf_counter()
    connection.request("GET", job, headers=AUTHORIZATION)
    response = connection.getresponse()
    response.read()
    if response.status not in (200, 202):
        raise RuntimeError(f"{job}: {response.status}")
    return (time.perf_counter() - start) * 1000


def write_script(script: Path, paths: list[str]) -> None:
    """Write a Lua script for wrk that requests the paths in turn."""
    quoted = ",".join(f'"{path}"' for path in paths)
    script.write_text(
        f"local paths = {{{quoted}}}\nlocal at = 0\n"
        "request = function() at = at % #paths + 1; return wrk.format('GET', paths[at]) end\n"
    )

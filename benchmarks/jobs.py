"""Jobs: latency during an export, memory of pending exports, and thousands of jobs on record."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
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
from benchmarks.processes import Program, percentile
from benchmarks.report import Row
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
_THREADS = 16
#: How many jobs the load generator polls in turn.
_POLLED_JOBS = 50


def latency(servers: Servers, sizes: Sizes) -> list[Row]:
    """Measure small requests over https upstream while exports are stored one after the other."""
    files = create_big_file(servers, sizes.large)
    with (
        servers.upstream(files, tls=True) as upstream,
        servers.proxy(upstream.port, tls_upstream=True) as proxy,
    ):
        idle = _probe(proxy, sizes.probes * 5)
        stop = threading.Event()
        with ThreadPoolExecutor(1) as threads:
            exporting = threads.submit(_export_repeatedly, proxy, stop)
            try:
                busy = _probe(proxy, sizes.probes * 5)
            finally:
                stop.set()
            exports = exporting.result()
    note = ", ".join(
        (
            f"p99 without export {percentile(idle, 0.99):.1f} ms",
            f"median with export {percentile(busy, 0.5):.1f} ms",
            f"{exports} exports",
        )
    )
    work, p99 = "small, p99 while one export is stored", percentile(busy, 0.99)
    return [Row(work, p99, "ms", note, target=15, stretch=8, higher_is_better=False)]


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
    row = Row(work, per_export / 1000, "KB", note, target=60, stretch=49, higher_is_better=False)
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
    return Row(work, peak / 2**20, "MiB", note, target=128, stretch=64, higher_is_better=False)


def _start_pending(server: Program, count: int) -> list[str]:
    """Start exports to which the upstream never responds; return the paths of their jobs."""
    with connect(server) as connection:
        return [kick_off(connection, "save") for _ in range(count)]


def jobs(servers: Servers, sizes: Sizes) -> list[Row]:
    """Measure kick-off and status with thousands of jobs on record, and the CPU time of polls."""
    with (
        servers.silent_upstream(tls=False) as upstream,
        servers.proxy(upstream.port, settings=UNLIMITED) as proxy,
    ):
        known = _run_exports(proxy, sizes.jobs - sizes.pending)
        known += _start_pending(proxy, sizes.pending)
        with connect(proxy) as connection:
            kick_offs = [
                timed_request(connection, "POST", export_path("save"), 202, Prefer=NO_WAIT)
                for _ in range(sizes.probes // 2)
            ]
            choose = random.Random(1).choice
            sample = [choose(known) for _ in range(sizes.probes)]
            for job in sample:  # warm up
                _timed_poll(connection, job)
            polls = [_timed_poll(connection, job) for job in sample]
        rows = [
            _latency_row("kick-off", kick_offs, sizes, 50, 10),
            _latency_row("status", polls, sizes, 10, 3),
        ]
        script = servers.new_directory("wrk") / "jobs.lua"
        write_script(script, known[-_POLLED_JOBS:])
        cost = wrk(proxy, "/", seconds=sizes.seconds * 2, fields=AUTHORIZATION, script=script)
    cpu = cost.cpu_per_unit
    note = f"{cost.rate:,.0f}/s on a shared machine; {cpu * 1e6:.0f} µs of CPU each"
    work = "status polls per second of CPU"
    rows.append(Row(work, 1 / cpu, "/s", note, target=4000, stretch=15000))
    return rows


def _timed_poll(connection: HTTPConnection, job: str) -> float:
    """Get the status of a job, finished or not, and return the latency in milliseconds."""
    start = time.perf_counter()
    connection.request("GET", job, headers=AUTHORIZATION)
    response = connection.getresponse()
    response.read()
    if response.status not in (200, 202):
        raise RuntimeError(f"{job}: {response.status}")
    return (time.perf_counter() - start) * 1000


def _run_exports(server: Program, count: int) -> list[str]:
    """Run at least `count` exports on several connections; return the paths of their jobs."""
    share = -(-count // _THREADS)
    with ThreadPoolExecutor(_THREADS) as threads:
        batches = threads.map(lambda _: _run_batch(server, share), range(_THREADS))
        return [job for batch in batches for job in batch]


def _run_batch(server: Program, count: int) -> list[str]:
    """Start exports on one connection and wait for the last."""
    with connect(server) as connection:
        started = [kick_off(connection) for _ in range(count)]
        for job in started[-1:]:
            wait_for_success(connection, job)
        return started


def _latency_row(
    name: str, values: list[float], sizes: Sizes, target: float, stretch: float
) -> Row:
    count = f"{sizes.jobs:,} jobs, {sizes.pending:,} pending"
    note = f"median {percentile(values, 0.5):.1f} ms; {count}"
    return Row(
        f"{name}, p99",
        percentile(values, 0.99),
        "ms",
        note,
        target=target,
        stretch=stretch,
        higher_is_better=False,
    )


def write_script(script: Path, paths: list[str]) -> None:
    """Write a Lua script for wrk that requests the paths in turn."""
    quoted = ",".join(f'"{path}"' for path in paths)
    script.write_text(
        f"local paths = {{{quoted}}}\nlocal at = 0\n"
        "request = function() at = at % #paths + 1; return wrk.format('GET', paths[at]) end\n"
    )

"""Many jobs: latencies beside a running export, memory of pending ones, thousands on record."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

from benchmarks.client import ALLOWED, ask, connected, export, follow, kick_off, stored, timed
from benchmarks.files import big
from benchmarks.load import curl, requests
from benchmarks.machine import Program, percentile
from benchmarks.report import Row
from benchmarks.servers import Lab
from benchmarks.sizes import Sizes

_PATH = "/v8/Organizations?limit=30"
_EVERYTHING = {
    "EXPORTS__MAX_PER_CALLER": "100000",
    "EXPORTS__MAX_QUEUED": "100000",
    "EXPORTS__MAX_RUNNING": "5000",
    "EXPORTS__GRACE": "0s",
}


def latency(lab: Lab, sizes: Sizes) -> list[Row]:
    """p99 of small pass-through while exports spool one after the other at full speed, over https."""
    files = big(lab, sizes.large)
    with lab.upstream(files, tls=True) as upstream, lab.ours(upstream.port, tls_upstream=True) as ours:
        alone = _probe(ours, sizes.probes * 5)
        stop = threading.Event()
        with ThreadPoolExecutor(1) as threads:
            spooling = threads.submit(_keep_spooling, ours, stop)
            try:
                beside = _probe(ours, sizes.probes * 5)
            finally:
                stop.set()
            exports = spooling.result()
    note = f"alone {percentile(alone, 0.99):.1f} ms; median beside {percentile(beside, 0.5):.1f} ms; {exports} exports"
    p99 = percentile(beside, 0.99)
    return [Row("small, p99 while one export spools", p99, "ms", note, target=15, moonshot=8, more=False)]


def _probe(server: Program, count: int) -> list[float]:
    with connected(server) as connection:
        return [timed(connection, "GET", _PATH, 200) for _ in range(count)]


def _keep_spooling(server: Program, stop: threading.Event) -> int:
    """At least one whole export."""
    done = 0
    with connected(server) as connection:
        while not stop.is_set() or not done:
            job = kick_off(connection)
            follow(connection, job)
            ask(connection, "DELETE", job, 204)
            done += 1
    return done


def memory(lab: Lab, sizes: Sizes) -> list[Row]:
    """What a pending export over TLS costs, and what storing and serving costs whatever the size."""
    with lab.silent(tls=True) as upstream, lab.ours(upstream.port, tls_upstream=True, more=_EVERYTHING) as ours:
        _pend(ours, max(1, sizes.pending // 10))
        before = ours.memory()
        waiting = _pend(ours, sizes.pending)
        each = (ours.memory() - before) / sizes.pending
        with connected(ours) as connection:
            for job in waiting:
                ask(connection, "GET", job, 202)
    note = f"{sizes.pending} pending"
    pending = Row("memory per pending export over TLS", each / 1000, "KB", note, target=60, moonshot=49, more=False)
    return [pending, _flat(lab, sizes)]


def _flat(lab: Lab, sizes: Sizes) -> Row:
    files, times = big(lab, sizes.large), sizes.total // sizes.large
    with lab.upstream(files, tls=True) as upstream, lab.ours(upstream.port, tls=True, tls_upstream=True) as ours:
        start = ours.memory("VmHWM")
        first = 0
        for _ in range(times):
            job = stored(ours, tls=True)
            curl(ours, job + "/result", size=sizes.large, tls=True, fields=ALLOWED)
            with connected(ours, tls=True) as connection:
                ask(connection, "DELETE", job, 204)
            first = first or ours.memory("VmHWM")
        most = ours.memory("VmHWM")
    note = f"{sizes.total / 1e9:.3g} GB over TLS; idle {start >> 20} MiB, after the first GB {first >> 20} MiB"
    return Row("memory, storing and serving, at most", most / 2**20, "MiB", note, target=128, moonshot=64, more=False)


def _pend(server: Program, count: int) -> list[str]:
    """Exports that the upstream never answers."""
    with connected(server) as connection:
        return [kick_off(connection, "save") for _ in range(count)]


def jobs(lab: Lab, sizes: Sizes) -> list[Row]:
    """With thousands of jobs on record: how long kick-off and status take, and polls per second of CPU."""
    with lab.silent(tls=False) as upstream, lab.ours(upstream.port, more=_EVERYTHING) as ours:
        known = [*_finished(ours, sizes.jobs - sizes.pending), *_pend(ours, sizes.pending)]
        chosen = random.Random(1)
        with connected(ours) as connection:
            asked = {"Prefer": "respond-async, wait=0"}
            begun = [timed(connection, "POST", export("save"), 202, **asked) for _ in range(sizes.probes // 2)]
            sample = [chosen.choice(known) for _ in range(sizes.probes)]
            for job in sample:
                _look(connection, job)
            seen = [_look(connection, job) for job in sample]
        rows = [
            _latency_row("kick-off", begun, sizes, 50, 10),
            _latency_row("status", seen, sizes, 10, 3),
        ]
        script = lab.room("wrk") / "jobs.lua"
        _write_script(script, known[-min(len(known), 50) :])
        polls = requests(ours, "/", seconds=sizes.seconds * 2, fields=ALLOWED, lua=script)
    note = f"{polls.rate:,.0f}/s on a shared machine; {polls.each * 1e6:.0f} µs of CPU each"
    rows.append(Row("status polls per second of CPU", 1 / polls.each, "/s", note, target=4000, moonshot=15000))
    return rows


def _look(connection: HTTPConnection, job: str) -> float:
    """One poll of a job, done or not."""
    began = time.perf_counter()
    connection.request("GET", job, headers=ALLOWED)
    answer = connection.getresponse()
    answer.read()
    if answer.status not in (200, 202):
        raise RuntimeError(f"{job}: {answer.status}")
    return (time.perf_counter() - began) * 1000


def _finished(server: Program, count: int) -> list[str]:
    with ThreadPoolExecutor(16) as threads:
        return [job for some in threads.map(lambda _: _batch(server, -(-count // 16)), range(16)) for job in some]


def _batch(server: Program, count: int) -> list[str]:
    with connected(server) as connection:
        done = [kick_off(connection) for _ in range(count)]
        for job in done[-1:]:
            follow(connection, job)
        return done


def _latency_row(what: str, values: list[float], sizes: Sizes, target: float, moonshot: float) -> Row:
    note = f"median {percentile(values, 0.5):.1f} ms; {sizes.jobs:,} jobs, {sizes.pending:,} pending"
    return Row(f"{what}, p99", percentile(values, 0.99), "ms", note, target=target, moonshot=moonshot, more=False)


def _write_script(script: Path, jobs: list[str]) -> None:
    paths = ",".join(f'"{job}"' for job in jobs)
    script.write_text(
        f"local paths = {{{paths}}}\nlocal at = 0\n"
        "request = function() at = at % #paths + 1; return wrk.format('GET', paths[at]) end\n"
    )

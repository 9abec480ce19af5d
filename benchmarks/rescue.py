"""Rescued exports: how much later the first byte arrives than through the relay."""

from __future__ import annotations

import time
from http.client import HTTPConnection
from pathlib import Path

from benchmarks.client import AUTHORIZATION, connect, export_path
from benchmarks.processes import Program, fsync, median, percentile
from benchmarks.report import Row
from benchmarks.servers import Servers
from benchmarks.sizes import Sizes
from benchmarks.transfers import create_big_file

#: The size of VB365's file: only its first byte is timed.
_SIZE = 10_000
_SETTINGS = {"EXPORTS__RESCUE_SYNC": "true", "EXPORTS__RESULT_TTL": "1s"}


def rescue(servers: Servers, sizes: Sizes) -> list[Row]:
    """Measure the time to the first byte of exports that VB365 answers at once, rescued and
    relayed in turns, beside one fsync of the disk that the job is recorded on.
    """
    files = create_big_file(servers, _SIZE)
    rows = []
    for tls in sizes.tls:
        with (
            servers.upstream(files, tls=tls) as upstream,
            servers.proxy(upstream.port, tls_upstream=tls, settings=_SETTINGS) as proxy,
        ):
            _measure(proxy, servers.directory, max(1, sizes.probes // 10))  # warm up
            rows.append(_row(tls, *_measure(proxy, servers.directory, max(1, sizes.probes // 2))))
    return rows


def _row(tls: bool, rescued: list[float], relayed: list[float], synced: list[float]) -> Row:
    later = median(rescued) - median(relayed)
    note = ", ".join(
        f"{name}: median {median(times):.2f}, p90 {percentile(times, 0.9):.2f} ms"
        for name, times in (("rescued", rescued), ("relayed", relayed), ("fsync", synced))
    )
    work = f"rescue, {'https' if tls else 'http'}: first byte later than relayed"
    return Row(work, later, "ms", note, target=5, stretch=2, higher_is_better=False)


def _measure(
    proxy: Program, directory: Path, count: int
) -> tuple[list[float], list[float], list[float]]:
    """The milliseconds to the first byte, rescued and relayed, and those of an fsync."""
    rescued, relayed, synced = [], [], []
    with connect(proxy) as connection, (directory / "synced").open("wb", 0) as file:
        for _ in range(count):
            rescued.append(_first_byte(connection, export_path()))
            relayed.append(_first_byte(connection, export_path() + "?async=false"))
            synced.append(fsync(file.fileno()))
    return rescued, relayed, synced


def _first_byte(connection: HTTPConnection, target: str) -> float:
    start = time.perf_counter()
    connection.request("POST", target, body=b"{}", headers=AUTHORIZATION)
    response = connection.getresponse()
    elapsed = time.perf_counter() - start
    if response.status != 200 or len(response.read()) != _SIZE:
        raise RuntimeError(f"POST {target}: {response.status}")
    return elapsed * 1000

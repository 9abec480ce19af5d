"""Load generators, and what the load costs the server."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import LOAD_CORE, Program, find_program, on_cores

_SECONDS_PER_UNIT = {"ms": 0.001, "s": 1, "m": 60}


@dataclass(frozen=True)
class Cost:
    """The cost of some work: `amount` units took `cpu` seconds of CPU time in `wall` seconds, and
    the load generator took `client` seconds of CPU time, if that was measured.
    """

    amount: float
    cpu: float
    wall: float
    client: float = 0.0

    @property
    def cpu_per_unit(self) -> float:
        """Seconds of CPU time per unit of work."""
        return self.cpu / self.amount

    @property
    def rate(self) -> float:
        """Units of work per second."""
        return self.amount / self.wall


def wrk(
    server: Program,
    path: str,
    *,
    seconds: int,
    tls: bool = False,
    fields: dict[str, str] | None = None,
    script: Path | None = None,
    connections: int = 64,
) -> Cost:
    """Send requests over persistent connections, one at a time on each; the unit is a request.

    `script` is a Lua script for wrk. Raises RuntimeError if a response is not a success.
    """
    url = _url(server, path, tls)
    scripted = ["-s", str(script)] if script else []
    load = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    command = [find_program("wrk"), *load, *_header_options(fields), *scripted, url]
    before = server.cpu()
    done = subprocess.run(
        on_cores([LOAD_CORE], command), check=True, capture_output=True, text=True
    )
    cpu = server.cpu() - before
    found = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", done.stdout)
    failed = "Non-2xx" in done.stdout or "Socket errors" in done.stdout
    if found is None or int(found[1]) == 0 or failed:
        raise RuntimeError(f"{url}: {done.stdout}")
    return Cost(int(found[1]), cpu, float(found[2]) * _SECONDS_PER_UNIT[found[3]])


def curl(
    server: Program,
    path: str,
    *,
    size: int,
    tls: bool = False,
    fields: dict[str, str] | None = None,
) -> Cost:
    """Download to /dev/null; the unit of work is a GB.

    Raises RuntimeError unless exactly `size` bytes arrive.
    """
    command = [*_curl(server, path, tls, fields), "-o", "/dev/null", "-w", "%{size_download}"]
    before, start = server.cpu(), time.perf_counter()
    with subprocess.Popen(on_cores([LOAD_CORE], command), stdout=subprocess.PIPE) as process:
        client = _wait(process)
        cost = Cost(size / 1e9, server.cpu() - before, time.perf_counter() - start, client)
        received = process.communicate()[0].decode()
    if process.returncode or received != str(size):
        raise RuntimeError(f"{path}: received {received} bytes, expected {size}")
    return cost


def curl_to_file(
    file: Path, upstream: Program, path: str, *, size: int, cores: Sequence[int], tls: bool
) -> Cost:
    """Download to a file with curl on these cores; the unit of work is a GB.

    The CPU time is that of curl, not of the server. Raises RuntimeError unless exactly `size` bytes
    arrive.
    """
    command = [*_curl(upstream, path, tls, None), "-o", str(file)]
    start = time.perf_counter()
    with subprocess.Popen(on_cores(cores, command)) as process:
        cpu = _wait(process)
    wall = time.perf_counter() - start
    if process.returncode or file.stat().st_size != size:
        raise RuntimeError(f"{path}: curl exited with code {process.returncode}")
    return Cost(size / 1e9, cpu, wall)


def _wait(process: subprocess.Popen[bytes]) -> float:
    """Wait for the process to end and return its CPU time in seconds."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def _curl(server: Program, path: str, tls: bool, fields: dict[str, str] | None) -> list[str]:
    url = _url(server, path, tls)
    return [find_program("curl"), "-sSfk", *_header_options(fields), url]


def _header_options(fields: dict[str, str] | None) -> list[str]:
    lines = [f"{name}: {value}" for name, value in (fields or {}).items()]
    return [part for line in lines for part in ("-H", line)]


def _url(server: Program, path: str, tls: bool) -> str:
    return f"{'https' if tls else 'http'}://127.0.0.1:{server.port}{path}"

"""Load on a server, and what it cost the server."""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import LOAD, Program, on_core, tool


@dataclass(frozen=True)
class Cost:
    """Work done, the CPU that the server spent on it, and how long it took, in seconds."""

    amount: float
    cpu: float
    wall: float

    @property
    def each(self) -> float:
        """CPU per unit of work."""
        return self.cpu / self.amount

    @property
    def rate(self) -> float:
        """Units of work per second."""
        return self.amount / self.wall


def requests(
    server: Program,
    path: str,
    *,
    seconds: int,
    tls: bool = False,
    fields: dict[str, str] | None = None,
    lua: Path | None = None,
) -> Cost:
    """wrk with 64 kept connections. Raises RuntimeError unless every answer is a 2xx."""
    url = f"{'https' if tls else 'http'}://127.0.0.1:{server.port}{path}"
    headers = [part for name, value in (fields or {}).items() for part in ("-H", f"{name}: {value}")]
    script = ["-s", str(lua)] if lua else []
    command = [tool("wrk"), "-t1", "-c64", f"-d{seconds}s", "--timeout", "30s", *headers, *script, url]
    before = server.cpu()
    shown = subprocess.run(on_core(LOAD, command), check=True, capture_output=True, text=True).stdout
    cpu = server.cpu() - before
    done = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", shown)
    if done is None or int(done[1]) == 0 or "Non-2xx" in shown or "Socket errors" in shown:
        raise RuntimeError(f"{url}: {shown}")
    wall = float(done[2]) * {"ms": 0.001, "s": 1, "m": 60}[done[3]]
    return Cost(int(done[1]), cpu, wall)


def curl(server: Program, path: str, *, size: int, tls: bool = False, fields: dict[str, str] | None = None) -> Cost:
    """curl to /dev/null, in GB."""
    command = [*_curl(server, path, tls, fields or {}), "-o", "/dev/null", "-w", "%{size_download}"]
    before, began = server.cpu(), time.perf_counter()
    got = subprocess.run(on_core(LOAD, command), check=True, capture_output=True, text=True).stdout
    cost = Cost(size / 1e9, server.cpu() - before, time.perf_counter() - began)
    if int(got) != size:
        raise RuntimeError(f"{path}: {got} bytes, not {size}")
    return cost


def curl_to(file: Path, upstream: Program, path: str, *, size: int, core: int, tls: bool) -> Cost:
    """curl to a file, in GB, with the CPU that curl itself spends."""
    began = time.perf_counter()
    command = [*_curl(upstream, path, tls, {}), "-o", str(file)]
    with subprocess.Popen(on_core(core, command)) as process:
        _, status, usage = _wait(process)
    wall = time.perf_counter() - began
    if status or file.stat().st_size != size:
        raise RuntimeError(f"{path}: curl ended with {status}")
    return Cost(size / 1e9, usage, wall)


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, int, float]:
    pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return pid, status, usage.ru_utime + usage.ru_stime


def _curl(server: Program, path: str, tls: bool, fields: dict[str, str]) -> list[str]:
    headers = [part for name, value in fields.items() for part in ("-H", f"{name}: {value}")]
    return [tool("curl"), "-sSfk", *headers, f"{'https' if tls else 'http'}://127.0.0.1:{server.port}{path}"]

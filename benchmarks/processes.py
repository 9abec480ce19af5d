"""Server processes: start them on a core, measure their CPU time and memory, stop them."""

from __future__ import annotations

import os
import random
import shutil
import socket
import ssl
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: The clock type of a process's CPU time in a clock id (see clock_getcpuclockid(3)). It counts
#: nanoseconds; /proc/<pid>/stat has only ticks.
_CPUCLOCK_SCHED = 2
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
#: The core of the program under test, and that of load generators and upstreams.
TESTED_CORE, LOAD_CORE = 0, min(1, (os.cpu_count() or 1) - 1)
_START_TIMEOUT, _STOP_TIMEOUT = 120, 15


class MissingProgram(Exception):
    """A program that a benchmark needs is not installed."""


def find_program(name: str) -> str:
    """Return the path of a program. Raises `MissingProgram`."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise MissingProgram(f"{name} is not installed: apt-get install {name}")
    return found


@dataclass(frozen=True)
class Program:
    """A running server."""

    pid: int
    port: int

    def cpu(self) -> float:
        """Return the CPU time of all its threads so far, in seconds."""
        return time.clock_gettime(~self.pid << 3 | _CPUCLOCK_SCHED)

    def memory(self, name: str = "VmRSS") -> int:
        """Return its memory in bytes: VmRSS is the current value, VmHWM the peak."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def free_port() -> int:
    """Return a free port outside the range that Linux assigns to clients (from 32768)."""
    while True:
        port = random.randrange(12_000, 32_000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
            return port
        except OSError:
            continue


def on_cores(cores: Sequence[int], command: Sequence[str]) -> list[str]:
    """Return the command line that runs the command pinned to the cores."""
    return [find_program("taskset"), "-c", ",".join(map(str, cores)), *command]


@contextmanager
def running(
    command: Sequence[str],
    port: int,
    *,
    log: Path,
    cores: Sequence[int] = (TESTED_CORE,),
    environ: dict[str, str] | None = None,
) -> Iterator[Program]:
    """Run a server that listens on `port`; yield it when it accepts connections.

    The server must be a single process, because only that process is measured. Raises RuntimeError
    if it does not start.
    """
    with log.open("ab") as out:
        process = subprocess.Popen(
            on_cores(cores, command),
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environ or {})},
        )
    try:
        _wait_until_listening(process, port, log)
        yield Program(process.pid, port)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    output = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{process.args!r} does not listen on port {port}:\n{output}")


def create_certificate(directory: Path) -> tuple[Path, Path]:
    """Create a self-signed certificate for localhost; return the paths of certificate and key.

    both.pem holds the two together, which HAProxy needs.
    """
    chain, key = directory / "chain.pem", directory / "key.pem"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subject = ["-subj", "/CN=localhost", "-addext", names, "-days", "2"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command = [find_program("openssl"), "req", "-x509", *curve, *subject]
    subprocess.run([*command, "-out", chain, "-keyout", key], check=True, capture_output=True)
    (directory / "both.pem").write_bytes(chain.read_bytes() + key.read_bytes())
    return chain, key


def unverified_context() -> ssl.SSLContext:
    """Return a client context that accepts any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def fsync(descriptor: int) -> float:
    """Append 4 KiB to a file and sync it; return the time of the fsync in milliseconds."""
    os.write(descriptor, bytes(4096))
    start = time.perf_counter()
    os.fsync(descriptor)
    return (time.perf_counter() - start) * 1000


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value at this share (0 to 1) of the sorted values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)

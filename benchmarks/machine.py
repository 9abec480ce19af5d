"""Programs on this machine: started on a core, their CPU and memory read, stopped."""

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

#: The kernel's clock of a process's CPU (clock_getcpuclockid): what /proc/<pid>/stat tells in ticks, in nanoseconds.
_PROCESS_CPU = 2
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
TESTED, LOAD = 0, min(1, (os.cpu_count() or 1) - 1)


class Missing(Exception):
    """A program that this benchmark needs is not installed."""


def tool(name: str) -> str:
    """Where the program is. Raises `Missing`."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise Missing(f"{name} is not installed: apt-get install {name}")
    return found


@dataclass(frozen=True)
class Program:
    """A running server."""

    pid: int
    port: int

    def cpu(self) -> float:
        """Seconds of CPU used so far, all threads."""
        return time.clock_gettime(~self.pid << 3 | _PROCESS_CPU)

    def memory(self, name: str = "VmRSS") -> int:
        """Bytes: VmRSS now, VmHWM at most so far."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def free_port() -> int:
    """A port that nobody listens on at this moment, below those that the system gives to clients."""
    while True:
        port = random.randrange(12_000, 32_000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
            return port
        except OSError:
            continue


def on_core(core: int, command: Sequence[str]) -> list[str]:
    """The command, pinned."""
    return [tool("taskset"), "-c", str(core), *command]


@contextmanager
def running(
    command: Sequence[str], port: int, *, log: Path, core: int = TESTED, environ: dict[str, str] | None = None
) -> Iterator[Program]:
    """A server on `port`, ready. It is one process: what is measured is that process."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            on_core(core, command),
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environ or {})},
        )
    try:
        _await_listening(process, port, log)
        yield Program(process.pid, port)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} does not listen on {port}:\n{log.read_text(errors='replace')[-2000:]}")


def certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost and its key; together in both.pem, as HAProxy wants them."""
    chain, key = directory / "chain.pem", directory / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2"]
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *subject]
    subprocess.run([tool("openssl"), *made, "-out", chain, "-keyout", key], check=True, capture_output=True)
    (directory / "both.pem").write_bytes(chain.read_bytes() + key.read_bytes())
    return chain, key


def trusting() -> ssl.SSLContext:
    """A client's context that trusts the certificate whatever it is."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def middle(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)

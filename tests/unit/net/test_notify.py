"""Notifications to the service manager (sd_notify(3)), and the systemd unit that relies on them."""

from __future__ import annotations

import asyncio
import configparser
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.net.notify import READY, STOPPING, notify
from tests.support.commands import ANY_PORTS, LIMIT, PYTHON, ROOT, finished, started
from tests.support.process import served

pytestmark = pytest.mark.skipif(
    sys.platform == "win32",
    reason="systemd is Linux's: its notifications and unit are not tested on Windows",
)
UNIT = ROOT / "config" / "vb365-async-proxy.service"


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """A service manager's socket, by its path or in Linux's abstract namespace."""
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("abstract sockets are Linux's: notifications over one are not tested")
    name = str(tmp_path / "notify") if request.param == "path" else f"@vb365-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0"))
        listener.settimeout(LIMIT)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listener


def test_states_and_status_are_one_datagram(manager: socket.socket) -> None:
    notify(READY, status="listening\nREADY=0\x9b")
    assert manager.recv(4096) == b"READY=1\nSTATUS=listening\\nREADY=0\\x9b"
    notify(status="ün")
    assert manager.recv(4096) == "STATUS=ün".encode()


@pytest.mark.parametrize("name", ["", "relative", "/nowhere/at/all", "@vb365-nobody"])
def test_without_a_service_manager_nothing_happens(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    notify(STOPPING, status="stopping")


def test_a_manager_that_does_not_read_does_not_block_the_proxy(manager: socket.socket) -> None:
    for _ in range(2000):
        notify(status="x" * 1000)


# one kind of socket is enough for the tests that start a process
by_path = pytest.mark.parametrize("manager", ["path"], indirect=True)


def notified(manager: socket.socket, data: Path, count: int, **settings: str) -> list[str]:
    """The first `count` messages of a proxy, and that when it stops."""

    async def scenario() -> list[str]:
        async with served("http://127.0.0.1:1", data, **settings) as program:
            found = [await asyncio.to_thread(manager.recv, 4096) for _ in range(count)]
            url = program.url
            assert await program.stop() == 0
        found.append(manager.recv(4096))
        return [message.decode().replace(url, "URL") for message in found]

    return asyncio.run(scenario())


@by_path
def test_serve_notifies_when_it_is_ready_of_its_jobs_and_when_it_stops(
    manager: socket.socket, tmp_path: Path
) -> None:
    """A status is sent when it changes: VB365 is tried after ten seconds, and does not respond."""
    *started, stopping = notified(manager, tmp_path / "data", 4)
    assert started == [
        "STATUS=starting",
        "READY=1\nSTATUS=listening on URL in front of http://127.0.0.1:1",
        "STATUS=0 running, 0 queued",
        "STATUS=0 running, 0 queued, VB365 down",
    ]
    assert stopping.startswith("STOPPING=1\nSTATUS=stopping")


@by_path
def test_with_several_workers_the_status_is_that_of_the_jobs(
    manager: socket.socket, tmp_path: Path
) -> None:
    *started, stopping = notified(manager, tmp_path / "data", 3, LISTEN__WORKERS="2")
    assert started == [
        "READY=1\nSTATUS=listening on URL in front of http://127.0.0.1:1 with 2 workers",
        "STATUS=0 running, 0 queued",
        "STATUS=0 running, 0 queued, VB365 down",
    ]
    assert stopping.startswith("STOPPING=1\nSTATUS=stopping")


SLOW_SECOND_WORKER = """
import os, sys
from proxy.config import load
from proxy.workers import run

shown, show = os.pipe()

def work(seat):
    if seat.first:
        seat.report("http://first", "http://admin", {})
        seat.show("1 running, 0 queued")
        os.write(show, b".")
    else:
        os.read(shown, 1)
        seat.report("http://second", "", {})
    os.read(seat.alive, 1)  # until the supervisor ends
    return 0

flags = {"upstream.url": "http://vb365", "listen.address": "127.0.0.1:0", "listen.workers": 2}
run(load(None, flags | {"storage.dir": sys.argv[1]}, {}), work, {})
"""


@by_path
def test_a_status_is_not_lost_while_other_workers_start(
    manager: socket.socket, tmp_path: Path
) -> None:
    """The first worker reports it once, until it changes."""
    with started(str(tmp_path / "data"), program=(*PYTHON, "-c", SLOW_SECOND_WORKER)):
        ready, status = manager.recv(4096).decode(), manager.recv(4096).decode()
    assert (
        ready == "READY=1\nSTATUS=listening on http://first in front of http://vb365 with 2 workers"
    )
    assert status == "STATUS=1 running, 0 queued"


@by_path
def test_a_failed_start_is_notified_with_its_reason(manager: socket.socket, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = ("serve", *ANY_PORTS, "--upstream", "http://127.0.0.1:1", "--listen", address)
        done = finished(*line, "--data-dir", str(tmp_path / "data"))
    assert done.returncode == 1
    assert manager.recv(4096) == b"STATUS=starting"
    assert manager.recv(4096).startswith(f"STATUS=listen.address {address}".encode())


def unit() -> dict[str, list[str]]:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    return {name: value.split() for name, value in parser["Service"].items()}


def test_the_unit_neither_restarts_a_bad_configuration_nor_dumps_credentials() -> None:
    """config check exits with 2, and so does serve; an ExecStartPre= that failed would be restarted
    forever.
    """
    settings = unit()
    assert "ExecStartPre" not in settings
    assert settings["RestartPreventExitStatus"] == ["2"]
    assert settings["Type"] == ["notify"]
    assert settings["LimitCORE"] == ["0"]
    assert settings["UMask"] == ["0077"]
    assert {"MemoryMax", "OOMPolicy"} <= set(settings)


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="systemd-analyze is not installed: whether it accepts the unit is not tested",
)
def test_systemd_analyze_accepts_the_unit(tmp_path: Path) -> None:
    """With the program's path replaced, which does not exist on this machine."""
    text = UNIT.read_text(encoding="utf-8")
    installed = text.replace("/opt/vb365-async-proxy/bin/vb365-async-proxy", sys.executable)
    assert installed != text
    path = tmp_path / UNIT.name
    path.write_text(installed, encoding="utf-8")
    done = finished("verify", str(path), program=("systemd-analyze",))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

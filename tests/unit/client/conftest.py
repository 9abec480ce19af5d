"""The fake proxy, and a fixture that runs a command line against it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web
from typer.testing import CliRunner, Result

from proxy import app, logs
from proxy.client import client_app
from proxy.client.proxy import Proxy
from proxy.config import load
from proxy.simulator import Simulator, SimulatorSettings
from tests.support.threads import in_thread
from tests.unit.client.fake_proxy import FakeProxy

#: Of each file that the simulator exports.
SIZE = 300_000


@asynccontextmanager
async def _faked(tls: ssl.SSLContext | None) -> AsyncIterator[FakeProxy]:
    proxy = FakeProxy()
    runner = web.ServerRunner(web.Server(proxy.handle), shutdown_timeout=1)  # type: ignore[arg-type]
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    proxy.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield proxy
    finally:
        await runner.cleanup()


def serving(tls: ssl.SSLContext | None = None) -> AbstractContextManager[FakeProxy]:
    """Run the fake in a thread, since the commands run event loops themselves."""
    return in_thread(_faked(tls))


@pytest.fixture(autouse=True)
def _no_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the user who runs the tests are not used."""
    monkeypatch.setenv("VB365_CONFIG_DIR", str(tmp_path / "config"))


@pytest.fixture
def fake() -> Iterator[FakeProxy]:
    with serving() as proxy:
        yield proxy


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let waiting take no time, and record the times."""
    seconds: list[float] = []

    async def sleep(for_seconds: float) -> None:
        seconds.append(for_seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(Proxy, "sleep", staticmethod(sleep))
    return seconds


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(fake: FakeProxy, slept: list[float], here: Path) -> Any:
    """Run a command line; credentials and address come from the environment unless `env` has
    others.
    """

    def _run(*line: str, stdin: str | None = None, **env: str | None) -> Result:
        around: dict[str, str | None] = {"VB365_URL": fake.url, "VB365_TOKEN": "good"}
        result = CliRunner().invoke(client_app, list(line), input=stdin, env=around | env)
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        return result

    return _run


def commanded(*line: str, stdin: str | None = None, **env: str | None) -> Result:
    """The result of a command line with these variables of the environment."""
    result = CliRunner().invoke(client_app, list(line), input=stdin, env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@dataclass
class Stack:
    """A proxy in front of the simulator, on a loop and thread of their own."""

    simulator: Simulator
    url: str = ""

    def paths(self, method: str = "POST") -> list[str]:
        """The targets that VB365 was asked for so far, in order."""
        return [each.target for each in self.simulator.requests if each.method == method]


@asynccontextmanager
async def _stacked(data: Path) -> AsyncIterator[Stack]:
    running = Stack(Simulator(SimulatorSettings(size=SIZE, generate=0.1, objects=4)))
    flags = {
        "listen.address": "127.0.0.1:0",
        "admin.address": "127.0.0.1:0",
        "storage.dir": str(data),
    }
    settings = {"VB365_PROXY_EXPORTS__GRACE": "0s", "VB365_PROXY_STORAGE__MIN_FREE": "1MiB"}
    await running.simulator.start()
    proxy = await app.start(load(None, flags | {"upstream.url": running.simulator.url}, settings))
    running.url = proxy.url
    try:
        yield running
    finally:
        await proxy.stop()
        await running.simulator.stop()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    logs.configure("console", "critical")  # by default, the log is on stdout
    with in_thread(_stacked(tmp_path_factory.mktemp("data"))) as running:
        yield running
    structlog.reset_defaults()

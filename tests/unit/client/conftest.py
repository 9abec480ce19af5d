"""The fake proxy, and a fixture that runs a command line against it."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner, Result

from proxy.client import client_app
from proxy.client.proxy import Proxy
from tests.unit.client.fake_proxy import FakeProxy


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[FakeProxy]:
    """Run the fake on a loop and thread of its own, since the commands run event loops
    themselves.
    """
    proxy, loop, ready, stop = (
        FakeProxy(),
        asyncio.new_event_loop(),
        threading.Event(),
        asyncio.Event(),
    )

    async def serve() -> None:
        runner = web.ServerRunner(web.Server(proxy.handle), shutdown_timeout=1)  # type: ignore[arg-type]
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        proxy.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


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

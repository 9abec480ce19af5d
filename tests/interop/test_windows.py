"""The proxy without what Windows lacks (`support.windows`). Windows itself cannot be had here."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from proxy.simulator import Simulator, SimulatorSettings
from tests.support.commands import ROOT
from tests.support.process import Caller, ProxyProcess
from tests.support.wire import eventually

#: More than the buffers of a connection.
SIZE = 32_000_000


class WindowsProcess(ProxyProcess):
    """`serve` in a process that has only what Windows has."""

    async def _started(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.windows", *self._arguments),
            env=self._environment,
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )

    async def stop(self) -> int:
        """Ctrl-Break; the exit code."""
        assert self._process is not None
        self.send_signal(signal.SIGQUIT)  # the process has it as SIGBREAK
        async with asyncio.timeout(60):
            return await self._process.wait()


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    simulator = Simulator(SimulatorSettings(size=SIZE))
    await simulator.start()
    yield simulator
    await simulator.stop()


def gone(path: Path) -> bool:
    return not path.exists()


async def test_the_proxy_serves_exports_without_what_windows_lacks(
    tmp_path: Path, simulator: Simulator
) -> None:
    """Every module is imported. A file that is removed while a client downloads it is removed after
    the download, its document at once (CONTRACT §7).
    """
    path = next(
        each
        for each in simulator.export_paths(simulator.open_session())
        if each.endswith("exportToPst")
    )
    proxy = WindowsProcess(tmp_path, simulator.url, EXPORTS__SUSPEND_TTL="1s")
    await proxy.start()
    try:
        async with aiohttp.ClientSession() as http:
            caller = Caller(proxy, http, simulator.login())
            for target, status in (("", 404), ("/result", 410)):
                job = await caller.kick_off(path)
                assert (await caller.finished(job))["status"] == "Success"
                url = f"/v8/_async/exports/{job}"
                file = tmp_path / "artifacts" / job[:2] / f"{job}.file"
                async with http.get(f"{proxy.url}{url}/result", headers=caller.token) as response:
                    digest = hashlib.sha256(await response.content.readexactly(1))
                    assert (await caller.ask("DELETE", url + target))[0] == 204
                    assert (await caller.ask("GET", f"{url}{target}"))[0] == status
                    await eventually(partial(gone, file.with_suffix(".json")))
                    assert file.exists()
                    digest.update(await response.content.read())
                assert digest.hexdigest() == simulator.content(path).sha256()
                await eventually(partial(gone, file))
        code = await proxy.stop()
    finally:
        await proxy.kill()
    assert code == 0, proxy.lines
    assert not any("Traceback" in line for line in proxy.lines), proxy.lines

"""A volume of files that hangs cannot keep the process from starting or from ending (CONTRACT
§15).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from proxy.simulator import Simulator, SimulatorSettings
from tests.faults.hanging import FILES, HANGS
from tests.support.process import Caller, DidNotStart, ProxyProcess
from tests.support.wire import eventually

SIZE = 6_000_000


class Hanging(ProxyProcess):
    program = "tests.faults.hanging"


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    simulator = Simulator(SimulatorSettings(size=SIZE))
    await simulator.start()
    yield simulator
    await simulator.stop()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_15_sigterm_ends_a_process_whose_transfer_hangs(
    simulator: Simulator, tmp_path: Path, workers: str
) -> None:
    """Its log names the job, which the next process completes."""
    proxy = Hanging(tmp_path, simulator.url, LISTEN__WORKERS=workers, EXPORTS__STALL_TIMEOUT="30s")
    path = next(iter(simulator.export_paths(simulator.open_session())))
    simulator.fault(path=path, method="POST", stall_at=SIZE // 2, count=1)
    try:
        await proxy.start()
        async with aiohttp.ClientSession() as http:
            caller = Caller(proxy, http, simulator.login())
            job = await caller.kick_off(path)
            async with asyncio.timeout(20):
                while not (await caller.status(job))[1]["progress"]["bytesReceived"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            (tmp_path / HANGS).write_text(FILES)
            assert await proxy.stop() == 1
            assert f"job {job}" in "".join(proxy.lines)
            (tmp_path / HANGS).unlink()
            await proxy.start()
            assert (await caller.finished(job))["status"] == "Success"
    finally:
        await proxy.kill()


async def test_15_a_start_that_fails_because_its_volume_hangs_ends_the_process(
    simulator: Simulator, tmp_path: Path
) -> None:
    """Python would wait for the thread that hangs, and no service manager would start it again."""
    proxy = Hanging(tmp_path, simulator.url)
    (tmp_path / HANGS).write_text("free")
    try:
        with pytest.raises(DidNotStart, match="its volume hangs"):
            await proxy.start()
    finally:
        await proxy.kill()


@pytest.mark.parametrize(
    ("call", "workers"), [("startup_problems", "1"), ("make_root", "1"), ("survey", "2")]
)
async def test_15_a_start_says_that_it_waits_for_the_volume(
    simulator: Simulator, tmp_path: Path, call: str, workers: str
) -> None:
    """And starts once it responds."""
    said = f"storage.dir {tmp_path} has many files, or its volume does not respond"
    proxy = Hanging(tmp_path, simulator.url, LISTEN__WORKERS=workers)
    (tmp_path / HANGS).write_text(call)
    starting = asyncio.ensure_future(proxy.start())
    try:
        await eventually(lambda: any(said in line for line in proxy.lines))
        (tmp_path / HANGS).unlink()
        await starting
    finally:
        starting.cancel()
        await proxy.kill()

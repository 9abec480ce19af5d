"""A backup of the data directory, with the commands of docs/upgrade.md."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from proxy.simulator import Simulator, SimulatorSettings
from tests.support.commands import ROOT
from tests.support.process import Caller, served

_PLACE = "/var/lib/vb365-async-proxy"


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    simulator = Simulator(SimulatorSettings(size=100_000))
    await simulator.start()
    yield simulator
    await simulator.stop()


def _command(beginning: str, place: Path, archive: Path) -> list[str]:
    """The line of the page that begins with these words, for these paths."""
    lines = (ROOT / "docs/upgrade.md").read_text(encoding="utf-8").splitlines()
    [line] = [each.strip() for each in lines if each.strip().startswith(beginning)]
    return line.replace(_PLACE, str(place)).replace("backup.tar", str(archive)).split()


async def test_jobs_and_files_are_restored_to_another_directory(
    tmp_path: Path, simulator: Simulator
) -> None:
    """With `owner.key`: they still belong to their caller, and to no other."""
    old, new, archive = tmp_path / "old", tmp_path / "new", tmp_path / "backup.tar"
    async with aiohttp.ClientSession() as http:
        path = simulator.export_paths(simulator.open_session())[0]
        async with served(simulator.url, old) as proxy:
            caller = Caller(proxy, http, simulator.login())
            job = await caller.kick_off(path)
            ended = await caller.finished(job)
            content = await caller.file(job)
            assert await proxy.stop() == 0
        for line in (
            _command(f"tar -C {_PLACE} -cpf", old, archive),
            _command(f"install -d -m 700 {_PLACE}", new, archive),
            _command(f"tar -C {_PLACE} -xpf", new, archive),
        ):
            await asyncio.to_thread(subprocess.run, line, check=True, timeout=60)
        async with served(simulator.url, new) as proxy:
            again = Caller(proxy, http, caller.token)
            status, document = await again.status(job)
            assert (status, document["result"]["sha256"]) == (200, ended["result"]["sha256"])
            assert await again.file(job) == content
            other = Caller(proxy, http, simulator.login("bob"))
            assert (await other.status(job))[0] == 404

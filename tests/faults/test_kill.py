"""Killed processes: accepted jobs end, and finished files stay (CONTRACT §9, §10)."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.simulator import Simulator, SimulatorSettings
from tests.support.process import Caller, DidNotStart, ProxyProcess

SIZE = 6_000_000


class Scene:
    def __init__(self, simulator: Simulator, proxy: ProxyProcess, caller: Caller) -> None:
        self.simulator, self.proxy, self.caller = simulator, proxy, caller
        self.path = next(
            p for p in simulator.export_paths(simulator.open_session()) if p.endswith("exportToPst")
        )

    async def halted(self, at: int) -> str:
        """Start a job whose transfer halts when VB365 has sent `at` bytes, which the proxy has
        stored.
        """
        self.simulator.fault(path=self.path, method="POST", stall_at=at, count=1)
        job = await self.caller.kick_off(self.path)
        sent = self.simulator.deliveries
        await self.simulator.until(lambda: len(sent) > 0 and sent[-1].sent >= at)
        async with asyncio.timeout(20):
            while (await self.caller.status(job))[1]["progress"]["bytesReceived"] < at // 2:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        return job

    async def check(self, job: str) -> Any:
        document = await self.caller.finished(job)
        assert document["status"] == "Success", document
        digest = hashlib.sha256(await self.caller.file(job)).hexdigest()
        assert digest == self.simulator.content(self.path).sha256()
        return document


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    simulator = Simulator(SimulatorSettings(size=SIZE))
    await simulator.start()
    proxy = ProxyProcess(tmp_path / "data", simulator.url, EXPORTS__STALL_TIMEOUT="30s")
    try:
        await proxy.start()
        async with aiohttp.ClientSession() as http:
            yield Scene(simulator, proxy, Caller(proxy, http, simulator.login()))
    finally:
        await proxy.kill()
        await simulator.stop()


async def test_a_kill_while_the_upstream_generates_starts_a_new_attempt(scene: Scene) -> None:
    """§10: interrupted before any byte."""
    scene.simulator.fault(path=scene.path, method="POST", hold=True, count=1)
    job = await scene.caller.kick_off(scene.path)
    await scene.simulator.until(lambda: scene.simulator.held > 0)
    await scene.proxy.kill()
    await scene.proxy.start()
    document = await scene.check(job)
    assert document["attempt"] == 2


async def test_a_kill_during_a_transfer_continues_it_by_range(scene: Scene) -> None:
    """§10: no second generation; the digest is over all bytes."""
    job = await scene.halted(4_000_000)
    await scene.proxy.kill()
    await scene.proxy.start()
    document = await scene.check(job)
    assert document["attempt"] == 1
    assert sum(scene.simulator.generations.values()) == 1


async def test_after_a_kill_a_regenerated_file_is_not_joined_to_the_old_one(scene: Scene) -> None:
    """§10: even if it has the same size."""
    job = await scene.halted(4_000_000)
    await scene.proxy.kill()
    scene.simulator.exports.forget_files()
    scene.simulator.fault(path=scene.path, method="POST", seed=7)
    await scene.proxy.start()
    document = await scene.check(job)
    assert document["attempt"] == 2


async def test_after_sigterm_the_next_process_continues_the_job(scene: Scene) -> None:
    """§15 SIGTERM: exit code 0."""
    job = await scene.halted(4_000_000)
    assert await scene.proxy.stop() == 0
    await scene.proxy.start()
    await scene.check(job)
    assert sum(scene.simulator.generations.values()) == 1
    assert scene.simulator.deliveries[-1].start >= 3_000_000


@pytest.mark.parametrize("damage", ["truncated", "garbage", "missing"])
async def test_a_damaged_job_database_is_moved_aside_and_rebuilt(
    scene: Scene, tmp_path: Path, damage: str
) -> None:
    """§9: the proxy logs it, starts, serves the finished files and accepts new exports."""
    job = await scene.caller.kick_off(scene.path)
    await scene.caller.finished(job)
    await scene.proxy.stop()
    database = next((tmp_path / "data" / "jobs").glob("*.db"))
    content = database.read_bytes()
    if damage == "missing":
        database.unlink()
    else:
        database.write_bytes(
            content[: len(content) // 3] if damage == "truncated" else b"garbage" * 5000
        )
    await scene.proxy.start()
    assert any("the job database was damaged" in line for line in scene.proxy.lines)
    await scene.check(job)
    await scene.check(await scene.caller.kick_off(scene.path))


async def does_not_start_elsewhere(scene: Scene, tmp_path: Path) -> None:
    """A start with the wrong `storage.artifacts` is refused, and names the right one."""
    wrong = ProxyProcess(
        tmp_path / "data", scene.simulator.url, STORAGE__ARTIFACTS="s3://other/a?region=us-east-1"
    )
    with pytest.raises(DidNotStart, match=r"files of exports \(1\) .* are in file\."):
        await wrong.start()
    await wrong.kill()


async def test_a_start_with_another_bucket_takes_no_file_for_lost(
    scene: Scene, tmp_path: Path
) -> None:
    """§15: it changes nothing."""
    job = await scene.caller.kick_off(scene.path)
    await scene.check(job)
    await scene.proxy.kill()
    await does_not_start_elsewhere(scene, tmp_path)
    await scene.proxy.start()
    await scene.check(job)


async def test_a_start_with_another_bucket_does_not_begin_a_growing_file_again(
    scene: Scene, tmp_path: Path
) -> None:
    """§10, §15: its first bytes would stay in the old place for ever."""
    job = await scene.halted(4_000_000)
    await scene.proxy.kill()
    await does_not_start_elsewhere(scene, tmp_path)
    await scene.proxy.start()
    await scene.check(job)
    assert sum(scene.simulator.generations.values()) == 1


@contextmanager
def unmounted(volume: Path) -> Iterator[None]:
    """The volume is not mounted: where it should be, there is an empty directory."""
    elsewhere = volume.with_name("elsewhere")
    volume.rename(elsewhere)
    volume.mkdir(mode=0o700)
    try:
        yield
    finally:
        shutil.rmtree(volume)
        elsewhere.rename(volume)


async def test_a_start_without_the_volume_of_the_files_takes_none_for_lost(
    scene: Scene, tmp_path: Path
) -> None:
    """§15: it is refused, and names the volume; the next start with it has all files."""
    job = await scene.caller.kick_off(scene.path)
    await scene.check(job)
    await scene.proxy.kill()
    volume = tmp_path / "data/artifacts"
    with unmounted(volume), pytest.raises(DidNotStart) as caught:
        await scene.proxy.start()
    assert f"{volume} has no store-id" in str(caught.value)
    assert "files of the exports (1)" in str(caught.value)
    assert "Mount their volume" in str(caught.value)
    await scene.proxy.start()
    await scene.check(job)


async def test_a_start_without_the_volume_of_a_growing_file_does_not_begin_it_again(
    scene: Scene, tmp_path: Path
) -> None:
    """§10: hours of a transfer would be lost, and the rest of the disk filled."""
    job = await scene.halted(4_000_000)
    await scene.proxy.kill()
    with unmounted(tmp_path / "data/artifacts"), pytest.raises(DidNotStart, match="no store-id"):
        await scene.proxy.start()
    (tmp_path / "data/artifacts/store-id").unlink()  # alone, it is written again
    await scene.proxy.start()
    await scene.check(job)
    assert len(scene.simulator.deliveries) == 2


async def test_lost_files_can_be_given_up(scene: Scene, tmp_path: Path) -> None:
    """As the message of the refused start says."""
    job = await scene.caller.kick_off(scene.path)
    await scene.check(job)
    await scene.proxy.kill()
    shutil.rmtree(tmp_path / "data/artifacts")
    with pytest.raises(DidNotStart) as caught:
        await scene.proxy.start()
    found = re.search(r"run `(echo .*)` to give them up", str(caught.value))
    assert found is not None
    await asyncio.to_thread(subprocess.run, found[1], shell=True, check=True)
    await scene.proxy.start()
    assert (await scene.caller.status(job))[1]["result"]["state"] == "Deleted"
    await scene.check(await scene.caller.kick_off(scene.path))


async def test_the_first_start_of_this_version_needs_the_volume_too(
    scene: Scene, tmp_path: Path
) -> None:
    """An earlier one has written no id, neither with the files nor beside the jobs."""
    job = await scene.caller.kick_off(scene.path)
    await scene.check(job)
    await scene.proxy.kill()
    for name in ("artifacts/store-id", "artifacts-place"):
        (tmp_path / "data" / name).unlink()
    with unmounted(tmp_path / "data/artifacts"), pytest.raises(DidNotStart, match="no store-id"):
        await scene.proxy.start()
    await scene.proxy.start()
    await scene.check(job)


async def test_a_lost_id_is_replaced_while_the_files_are_there(
    scene: Scene, tmp_path: Path
) -> None:
    """Such as one that a rule of a bucket has expired."""
    job = await scene.caller.kick_off(scene.path)
    await scene.check(job)
    await scene.proxy.kill()
    path = tmp_path / "data/artifacts/store-id"
    before = path.read_text()
    path.unlink()
    await scene.proxy.start()
    assert path.read_text() == before
    await scene.check(job)


async def test_a_volume_that_disappears_loses_no_file(scene: Scene, tmp_path: Path) -> None:
    """§11: 503 until it is mounted again. Nothing is stored in its place, or forgotten."""
    job = await scene.caller.kick_off(scene.path)
    await scene.check(job)
    result = f"/v8/_async/exports/{job}/result"
    with unmounted(tmp_path / "data/artifacts"):
        assert (await scene.caller.ask("GET", result))[0] == 503
        # a moment ago there was space
        status, document = await scene.caller.ask("POST", scene.path, Prefer="respond-async")
        assert status in (202, 503)
    await scene.check(job)
    if status == 202:
        await scene.check(document["id"])

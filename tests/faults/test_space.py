"""Disk space: reserved once, freed at the end, checked at every write (CONTRACT §3.5, §5, §15)."""

from __future__ import annotations

import math
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.core.errors import Problem
from proxy.core.job import ErrorCode, Status
from proxy.jobs.reservations import Reservations
from proxy.ports import StorageFull, StoreUnavailable
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.support.fakes import MemoryArtifacts
from tests.support.harness import CONTENT, LIMITS, new_world

SIZE = len(CONTENT)


async def reservations(free: int, **limits: int | None) -> tuple[Reservations, MemoryArtifacts]:
    artifacts = MemoryArtifacts(capacity=free)
    space = Reservations(artifacts, **({"min_free": 0, "max_bytes": None} | limits))  # type: ignore[arg-type]
    await space.measure()
    return space, artifacts


async def test_reserved_space_is_not_free() -> None:
    space, _ = await reservations(100)
    await space.promise("a", 60)
    with pytest.raises(StorageFull):
        await space.promise("b", 41)
    await space.promise("b", 40)
    space.release("a")
    await space.promise("c", 60)


async def test_bytes_written_since_the_last_measurement_count_as_used() -> None:
    """The disk is measured now and then; otherwise the same space would be reserved twice."""
    space, artifacts = await reservations(100)
    await space.promise("a", 60)
    partial = await artifacts.create("00000000-0000-4000-8000-000000000001")
    await partial.write(bytes(30))
    await space.stored("a", 30)
    with pytest.raises(StorageFull):
        await space.promise("b", 41)
    await space.promise("b", 40)


async def test_space_freed_since_the_last_measurement_counts() -> None:
    """§10: a job that starts over gets the space of its own discarded file."""
    space, artifacts = await reservations(100)
    await space.promise("a", 60)
    partial = await artifacts.create("00000000-0000-4000-8000-000000000001")
    await partial.write(bytes(50))
    await space.stored("a", 50)
    await space.measure()
    await partial.discard()
    await space.promise("a", 60)


async def test_space_is_measured_again_unless_there_is_plenty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """§3.5: a burst of kick-offs measures little space each time, plenty once in a second."""
    monkeypatch.setattr("proxy.jobs.reservations._FRESH", math.inf)
    little, artifacts = await reservations((1 << 30) + 99, min_free=100)
    artifacts.faults["free"].append(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        await little.refresh()
    plenty, artifacts = await reservations((1 << 30) + 100, min_free=100)
    artifacts.faults["free"].append(StoreUnavailable("away"))
    await plenty.refresh()
    await plenty.promise("a", 1)
    with pytest.raises(StoreUnavailable):
        await plenty.refresh()
    plenty.release("a")
    artifacts.faults["free"].append(StoreUnavailable("away"))
    monkeypatch.setattr("proxy.jobs.reservations._FRESH", 0)
    with pytest.raises(StoreUnavailable):
        await plenty.refresh()


async def test_a_kick_off_measures_the_space_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with new_world() as world:
        measure, measured = Reservations.measure, 0

        async def counted(self: Reservations) -> None:
            nonlocal measured
            measured += 1
            await measure(self)

        monkeypatch.setattr(Reservations, "measure", counted)
        monkeypatch.setattr("proxy.jobs.reservations._FRESH", 0)
        async with world.runner.admission("o"):
            assert measured == 1


async def test_a_file_of_unknown_length_cannot_use_the_space_reserved_by_others() -> None:
    space, artifacts = await reservations(100)
    await space.promise("a", 60)
    partial = await artifacts.create("00000000-0000-4000-8000-000000000001")
    await partial.write(bytes(40))
    await space.stored("b", 40)
    await partial.write(b"1")
    with pytest.raises(StorageFull):
        await space.stored("b", 1)


async def test_kick_offs_need_min_free_beyond_all_reservations() -> None:
    """§3.5: 503 if less than `storage.min_free` is free."""
    space, _ = await reservations(100, min_free=30)
    await space.promise("a", 70)
    assert space.shortage() is None
    await space.promise("a", 71)
    assert space.shortage()


async def test_concurrent_exports_never_get_the_same_space() -> None:
    """§15 `storage.max_bytes`: of eight that start together only as many continue as fit, and those
    are complete.
    """
    limits = replace(LIMITS, max_running=8, max_bytes=3 * SIZE + 100)
    with capture_logs():
        async with new_world(limits=limits) as world:
            ids = [(await world.submit())[0] for _ in range(8)]
            await world.quiet()
            jobs = [await world.jobs.get(job_id) for job_id in ids]
            done = [job for job in jobs if job.status is Status.SUCCESS]
            assert len(done) == 3
            assert {job.error.code for job in jobs if job not in done} == {ErrorCode.STORAGE_FULL}
            await world.check()
            assert world.runner._space._promised == {}


async def test_kick_offs_are_rejected_until_there_is_space() -> None:
    """§3.5: 503 capacity-exhausted with Retry-After; deleting a file lets the next one in."""
    with capture_logs():
        async with new_world(limits=replace(LIMITS, max_bytes=SIZE)) as world:
            job_id, _ = await world.submit()
            await world.quiet()
            with pytest.raises(Problem) as refused:
                await world.submit()
            assert (refused.value.status, refused.value.name) == (503, "capacity-exhausted")
            assert refused.value.retry_after
            await world.release(job_id)
            again, _ = await world.submit()
            await world.quiet()
            assert (await world.jobs.get(again)).status is Status.SUCCESS
            await world.check()


@pytest.mark.parametrize("deed", ["ok", "chunked"])
@pytest.mark.parametrize("method", ["create", "write", "commit"])
async def test_a_disk_that_is_full_at_any_write_fails_that_job_alone(
    method: str, deed: str
) -> None:
    """§5 StorageFull: its partial file is removed, the other job is complete."""
    # each of the two files is tried again when VB365's 200 arrives: the fourth is the other one's
    times = 3 if method == "create" else 1
    with capture_logs():
        for skip in range(5 if method == "write" else 1):
            async with new_world() as world:
                world.upstream.gate.clear()
                first, _ = await world.submit()
                original, hits = world.artifacts.enter, 0

                async def enter(name: str, _skip: int = skip, _original: object = original) -> None:
                    nonlocal hits
                    if name == method:
                        hits += 1
                        if _skip < hits <= _skip + times:
                            raise StorageFull("the disk is full")
                    await _original(name)  # type: ignore[operator]

                world.upstream.plan.extend([deed])
                world.artifacts.enter = enter
                second, _ = await world.submit()
                world.upstream.gate.set()
                await world.quiet()
                jobs = [await world.jobs.get(job_id) for job_id in (first, second)]
                failed = [job for job in jobs if job.status is Status.FAILED]
                assert len(failed) == 1
                assert failed[0].error.code is ErrorCode.STORAGE_FULL
                await world.check()


async def test_a_resumed_transfer_needs_space_for_its_rest() -> None:
    """§15: its stored bytes are not counted twice."""
    with capture_logs():
        async with new_world(limits=replace(LIMITS, max_bytes=SIZE + 10)) as world:
            world.upstream.plan.extend(["cut", "401"])
            job_id, _ = await world.submit()
            await world.quiet()
            await world.resume(job_id)
            await world.quiet()
            assert (await world.jobs.get(job_id)).status is Status.SUCCESS


async def test_the_free_space_of_a_directory_is_that_of_its_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reservations and pending writes are subtracted by `Reservations` alone."""
    artifacts = await FileArtifacts.at(tmp_path)
    for free in (100, 7, 50):
        usage = shutil.disk_usage(tmp_path)._replace(free=free)
        monkeypatch.setattr("shutil.disk_usage", lambda root, usage=usage: usage)
        assert await artifacts.free() == free
    await artifacts.close()


_SMALL_DISK = """
import asyncio, sys
from pathlib import Path
from proxy.ports import StorageFull, StoreUnavailable
from proxy.stores.file_artifacts.store import FileArtifacts

async def main(place):
    store = await FileArtifacts.at(place)
    partial = await store.create("00000000-0000-4000-8000-000000000001")
    try:
        for _ in range(64):
            await partial.write(bytes(1 << 20))
        await partial.commit(64 << 20, lambda artifact: b"")
    except StorageFull:
        await partial.discard()
        print("full", await store.ids(), [p.name for p in place.rglob("*") if p.is_file()])
    await store.close()

asyncio.run(main(Path(sys.argv[1])))
"""


def _small_disk(command: list[str], **kwargs: object) -> str:
    completed = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, **kwargs
    )  # type: ignore[call-overload]
    if completed.returncode == 32 or "unshare" in completed.stderr or "mount:" in completed.stderr:
        pytest.skip(f"no mount, so no full file system is tested: {completed.stderr.strip()}")
    assert completed.returncode == 0, completed.stderr
    return str(completed.stdout).strip()


def test_a_full_file_system_leaves_no_bytes_behind(tmp_path: Path) -> None:
    """§5: ENOSPC of a tmpfs of 8 MiB in a mount namespace; needs the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f'mount -t tmpfs -o size=8m none {disk} && exec {sys.executable} -c "$1" {disk}/data'
    output = _small_disk(
        ["unshare", "-m", "sh", "-c", script, "sh", _SMALL_DISK], cwd=Path(__file__).parents[2]
    )
    assert output == "full set() []"


def test_a_file_at_the_size_limit_leaves_no_bytes_behind(tmp_path: Path) -> None:
    """§5: EFBIG of RLIMIT_FSIZE is StorageFull too."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))

    output = _small_disk(
        [
            sys.executable,
            "-X",
            "faulthandler",
            "-c",
            "import signal;signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + _SMALL_DISK,
            str(tmp_path / "data"),
        ],
        preexec_fn=limit,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert output == "full set() []"

"""However the use of a file is cancelled, its descriptor is closed once and its accounting ends."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.core.job import Status
from proxy.stores import durable
from proxy.stores.disk_jobs.store import DiskJobs
from proxy.stores.durable import sync_directory
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.faults.test_store_faults import MIB
from tests.support.artifacts import blocked_read, committed, new_id
from tests.support.harness import new_world


async def open_files() -> int:
    return len(await asyncio.to_thread(os.listdir, "/proc/self/fd"))


async def test_a_reader_cancelled_while_it_closes_closes_its_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§6: a client that disconnects at the last byte of its download, while a thread
    still reads.
    """
    store = await FileArtifacts.at(tmp_path)
    job = await committed(store, b"x" * MIB)
    async with blocked_read(store, job, monkeypatch) as (reader, reading, gate):
        descriptor = reader._descriptor
        closing = asyncio.create_task(reader.close())
        for _ in range(3):
            await asyncio.sleep(0)
            closing.cancel()
        again = asyncio.create_task(reader.close())
        gate.set()
        async with asyncio.timeout(10):
            await asyncio.wait([reading, closing, again])
    assert closing.cancelled()
    assert again.exception() is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    await store.close()


async def test_downloads_aborted_at_any_moment_leave_no_open_file(tmp_path: Path) -> None:
    store = await FileArtifacts.at(tmp_path)
    job = await committed(store, b"x" * MIB)
    before = await open_files()

    async def download() -> None:
        reader = await store.open(job)
        assert reader is not None
        try:
            async for _ in reader.chunks(0, MIB):
                await asyncio.sleep(0)
        finally:
            await reader.close()

    for turn in range(300):
        task = asyncio.create_task(download())
        for _ in range(turn % 30):
            await asyncio.sleep(0 if turn % 3 else 0.0002)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert await open_files() == before
    await store.close()


@pytest.mark.parametrize("end", ["keep", "discard"])
async def test_a_partial_cancelled_at_its_end_closes_its_descriptor(
    tmp_path: Path, end: str
) -> None:
    """Also while it waits for the lock on the job's names, and if it is cancelled twice."""
    store = await FileArtifacts.at(tmp_path)
    before = await open_files()
    for turn in range(12):
        job = new_id()
        partial = await store.create(job)
        await partial.write(b"12345")
        turns = store._turns.setdefault(job, asyncio.Lock())
        await turns.acquire()
        call: Callable[[], Awaitable[None]] = getattr(partial, end)
        ending = asyncio.ensure_future(call())
        for _ in range(turn % 4 + 1):
            await asyncio.sleep(0)
            ending.cancel()
        turns.release()
        await asyncio.wait([ending])
        assert ending.cancelled()
        assert (job in await store.ids()) is (end == "keep")
    assert await open_files() == before
    assert not store._growing
    assert await store.used() == (60 if end == "keep" else 0)
    await store.close()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_a_directory_that_cannot_be_synced_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """vboxsf, CIFS and drvfs: the proxy continues."""
    monkeypatch.setattr(durable, "_logged", set())
    monkeypatch.setattr(os, "fsync", failing(code))
    with capture_logs() as logs:
        sync_directory(tmp_path)
        sync_directory(tmp_path)
    assert [line["log_level"] for line in logs] == ["warning"]
    assert logs[0]["directory"] == str(tmp_path)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_directory_whose_sync_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "fsync", failing(code))
    with pytest.raises(OSError, match=os.strerror(code)):
        sync_directory(tmp_path)


async def test_files_are_committed_on_a_file_system_that_cannot_sync_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def refuse_directories(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_directories)
    store = await FileArtifacts.at(tmp_path)
    job = await committed(store)
    assert await store.get(job) is not None
    await store.close()


def failing(code: int) -> Callable[[int], None]:
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    return fail


async def test_an_empty_partial_file_that_is_resumed_is_closed(tmp_path: Path) -> None:
    """A job that is interrupted within its first MiB keeps an empty file."""
    jobs, store = await DiskJobs.open(tmp_path), await FileArtifacts.at(tmp_path)
    async with new_world(jobs=jobs, artifacts=store) as world:
        world.upstream.plan.extend(["cut", "401"])
        job_id, _ = await world.submit()
        with capture_logs():
            await world.quiet()
            os.truncate(store._places(job_id).partial, 0)
            before = await open_files()
            done = await world.finished(job_id)
            await world.quiet()
        assert (done.status, done.attempt) == (Status.SUCCESS, 2)
        assert not store._growing
        assert await open_files() == before
        await world.check()
    await store.close()
    await jobs.close()

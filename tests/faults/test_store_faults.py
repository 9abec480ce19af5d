"""Stores on a disk that is full, fails or was tampered with: the error is reported, no change is
half made, and all else continues.
"""

from __future__ import annotations

import asyncio
import resource
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.core.events import Failed
from proxy.core.job import ErrorCode, JobError
from proxy.core.transitions import advance
from proxy.ports import StorageFull, StoreUnavailable
from proxy.stores.disk_jobs.store import DiskJobs
from proxy.stores.file_artifacts.partial import FilePartial
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.support.artifacts import new_id, note
from tests.support.fakes import new_job
from tests.support.log_lines import check_documented, logged

MIB = 1 << 20
FAILED = Failed(JobError(code=ErrorCode.STORAGE_FULL, message="no space", retryable=True))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit the size of files of this process (EFBIG), so that the operating system rejects the
    write.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def pour(partial: FilePartial, mebibytes: int) -> None:
    for _ in range(mebibytes):
        await partial.write(b"x" * MIB)


async def on_thread(store: DiskJobs, statement: str) -> None:
    """Run a statement on the store's own connection, so that SQLite itself rejects the
    next write.
    """

    def execute() -> None:
        store._database._cache._con.execute(statement).fetchall()

    await asyncio.get_running_loop().run_in_executor(store._thread, execute)


async def test_a_job_that_does_not_fit_is_rejected_and_leaves_no_trace(tmp_path: Path) -> None:
    """§3.5, §11 store-unavailable: memory never has more than the disk."""
    store = await DiskJobs.open(tmp_path)
    first = await store.add(new_job(1, key="k"), b"small")
    with largest_file(4 * MIB):
        with pytest.raises(StoreUnavailable, match="cannot be written"):
            await store.add(new_job(2, key="l"), b"x" * (8 * MIB))
        assert await store.list() == [first]
        assert await store.find("alice", "l") is None
        assert await store.body(first.id) == b"small"
        second = await store.add(new_job(3, key="l"), b"small")
    third = await store.add(new_job(4), b"x" * (8 * MIB))
    assert await store.list() == [third, second, first]
    await store.close()
    store = await DiskJobs.open(tmp_path)
    assert (store.notes, await store.list()) == ((), [third, second, first])
    await store.close()


async def test_a_job_that_does_not_fit_does_not_fail_concurrent_ones(tmp_path: Path) -> None:
    """Concurrent calls share a transaction, but not its failure."""
    store = await DiskJobs.open(tmp_path)
    small = [new_job(number) for number in range(20)]
    large = new_job(99)
    with largest_file(4 * MIB):
        calls = [
            store.add(job, b"x" * (8 * MIB if job is large else 10))
            for job in (*small[:10], large, *small[10:])
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(outcomes.pop(10), StoreUnavailable)
    assert outcomes == small
    assert await store.list() == small[::-1]
    await store.close()


@pytest.mark.parametrize(
    "statement", ["PRAGMA max_page_count = 1", "PRAGMA query_only = ON"], ids=["full", "read-only"]
)
async def test_a_disk_that_rejects_writes_changes_nothing_and_recovers(
    tmp_path: Path, statement: str
) -> None:
    store = await DiskJobs.open(tmp_path)
    job = await store.add(new_job(1, key="k"), b"body")
    await on_thread(store, statement)
    with logged() as log:
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.add(new_job(2, key="l"), b"x" * MIB)
    check_documented(log.entries)
    assert [(each["event"], each["store"]) for each in log.entries] == [("store.down", "jobs")]
    assert await store.list() == [job]
    assert await store.body(job.id) == b"body"
    if "query_only" in statement:
        with pytest.raises(StoreUnavailable):
            await store.probe()
        with pytest.raises(StoreUnavailable):
            await store.replace(job, advance(job, FAILED, 2))
        with pytest.raises(StoreUnavailable):
            await store.remove(job)
        assert await store.get(job.id) == job
        assert await store.wait(job.id, job.version, 0) == job
    await on_thread(store, "PRAGMA query_only = OFF")
    await on_thread(store, "PRAGMA max_page_count = 1000000")
    ended = advance(job, FAILED, 2)
    with logged() as log:
        assert await store.replace(job, ended)
    assert [(each["event"], each["store"]) for each in log.entries] == [("store.up", "jobs")]
    await store.close()
    store = await DiskJobs.open(tmp_path)
    assert await store.list() == [ended]
    await store.close()


async def test_a_probe_reports_a_full_disk(tmp_path: Path) -> None:
    """§15 /readyz: the stores must be writable, not only open."""
    store = await DiskJobs.open(tmp_path)
    await store.add(new_job(), b"x" * MIB)
    await store.probe()
    with largest_file(1), pytest.raises(StoreUnavailable):
        await store.probe()
    await store.probe()
    await store.close()
    store = await DiskJobs.open(tmp_path)
    assert (store.notes, len(await store.list())) == ((), 1)
    await store.close()


async def test_a_commit_that_fails_is_rolled_back(tmp_path: Path) -> None:
    """diskcache leaves the transaction open: every later write would wait for it forever."""
    store = await DiskJobs.open(tmp_path)
    await on_thread(store, "CREATE TABLE parent (id INTEGER PRIMARY KEY)")
    child = "CREATE TABLE child (id REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED)"
    await on_thread(store, child)
    await on_thread(
        store, "CREATE TRIGGER fail AFTER INSERT ON Cache BEGIN INSERT INTO child VALUES (1); END"
    )
    await on_thread(store, "PRAGMA foreign_keys = ON")
    with pytest.raises(StoreUnavailable, match="FOREIGN KEY"):
        await store.add(new_job(1), b"")
    assert await store.list() == []
    await on_thread(store, "DROP TRIGGER fail")
    job = await store.add(new_job(2), b"")
    assert await store.list() == [job]
    await store.close()


async def test_an_exception_in_the_writer_reaches_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call returns or raises."""
    store = await DiskJobs.open(tmp_path)

    def broken(changes: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(store._writer, "_commit", broken)
    with pytest.raises(ZeroDivisionError):
        await store.add(new_job(), b"")
    assert await store.list() == []
    monkeypatch.undo()
    await store.add(new_job(), b"")
    await store.close()


async def test_a_cancelled_call_leaves_memory_and_disk_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§3.7: a client that disconnects does not corrupt the job's state."""
    store = await DiskJobs.open(tmp_path)
    job = await store.add(new_job(), b"")
    gate, commit = threading.Event(), store._writer._commit
    monkeypatch.setattr(store._writer, "_commit", lambda changes: gate.wait(30) and commit(changes))
    new = replace(job, version=2, holder="left")
    calling = asyncio.create_task(store.replace(job, new))
    waiting = asyncio.create_task(store.replace(job, replace(new, holder="later")))
    never = asyncio.create_task(store.add(new_job(5), b""))
    await asyncio.sleep(0)
    for task in (calling, never):
        task.cancel()
    await asyncio.wait([calling, never])
    assert await store.get(job.id) == job
    gate.set()
    async with asyncio.timeout(10):
        assert await waiting is False
    assert await store.list() == [new]
    await store.close()
    store = await DiskJobs.open(tmp_path)
    assert await store.list() == [new]
    await store.close()


async def test_a_cancelled_open_releases_the_directory(tmp_path: Path) -> None:
    for turns in range(4):
        opening = asyncio.create_task(DiskJobs.open(tmp_path))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled()
        await (await DiskJobs.open(tmp_path)).close()


async def test_closing_completes_pending_writes(tmp_path: Path) -> None:
    store = await DiskJobs.open(tmp_path)
    jobs = [new_job(number) for number in range(200)]
    adding = [asyncio.create_task(store.add(job, b"")) for job in jobs]
    await asyncio.sleep(0)
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    await store.close()
    assert [task.result() for task in adding] == jobs
    store = await DiskJobs.open(tmp_path)
    assert await store.list() == jobs[::-1]
    await store.close()


@contextmanager
def disk_of(place: Path, mebibytes: int) -> Iterator[Path]:
    """Mount a file system of that size."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip(
            "mounting a small disk takes root: a full disk is proven by EFBIG and by "
            "injected errors only"
        )
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of(tmp_path / "tiny", 4) as place:
        yield place


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of(tmp_path / "small", 80) as place:
        yield place


def fill_up(disk: Path) -> Path:
    """Fill the disk, as another program would."""
    file = disk / "greed"
    with file.open("wb", buffering=0) as greedy, suppress(OSError):
        while greedy.write(bytes(4096)):
            pass
    return file


async def test_both_stores_survive_a_full_disk(tiny_disk: Path) -> None:
    """ENOSPC of the operating system; when there is space again everything continues."""
    jobs, artifacts = await DiskJobs.open(tiny_disk), await FileArtifacts.at(tiny_disk)
    job = await jobs.add(new_job(), b"body")
    partial = await artifacts.create(job.id)
    with pytest.raises(StorageFull):
        await pour(partial, 50)
    with pytest.raises(StoreUnavailable):
        await jobs.add(new_job(), b"x" * MIB)
    assert await jobs.list() == [job]
    assert await artifacts.free() < MIB
    await partial.discard()
    assert await jobs.replace(job, advance(job, FAILED, 2))
    await jobs.add(new_job(5), b"x" * 1000)
    again = await artifacts.create(new_id())
    await again.write(b"x" * MIB)
    await again.commit(MIB, note)
    await jobs.close()
    jobs = await DiskJobs.open(tiny_disk)
    assert (jobs.notes, len(await jobs.list())) == ((), 2)
    await jobs.close()
    await artifacts.close()


async def test_the_store_opens_on_a_full_disk_and_records_deletions(
    small_disk: Path,
) -> None:
    """A restart on a full disk must not stop pass-through, and a clean-up must be able to free
    space.
    """
    store = await DiskJobs.open(small_disk)
    jobs = [await store.add(new_job(number), b"body") for number in range(50)]
    await store.close()
    greed = await asyncio.to_thread(fill_up, small_disk)
    assert await asyncio.to_thread(lambda: shutil.disk_usage(small_disk).free) == 0

    store = await DiskJobs.open(small_disk)
    assert store.notes == ()
    assert await store.list() == jobs[::-1]
    for job in jobs[:25]:
        assert await store.replace(job, advance(job, FAILED, 2))
    for job in jobs[25:]:
        assert await store.remove(job)
    await store.close()

    await asyncio.to_thread(greed.unlink)
    store = await DiskJobs.open(small_disk)
    assert len(await store.list()) == 25
    assert (small_disk / "ballast").stat().st_size == 4 * MIB
    await store.close()


async def test_an_open_store_records_changes_on_a_full_disk(
    small_disk: Path,
) -> None:
    """Expiry and DELETE are changes too: without them a full disk stays full."""
    store = await DiskJobs.open(small_disk)
    jobs = [await store.add(new_job(number), b"body") for number in range(50)]
    greed = await asyncio.to_thread(fill_up, small_disk)
    for job in jobs:
        assert await store.replace(job, replace(job, version=2, holder="x" * 10_000))
    with pytest.raises(StoreUnavailable):
        await store.add(new_job(), b"x" * (16 * MIB))
    await asyncio.to_thread(greed.unlink)
    await store.add(new_job(), b"x" * (16 * MIB))
    assert not (small_disk / "ballast").exists()
    await store.probe()
    await store.close()


async def test_a_full_disk_without_a_reserve_file_is_reported(small_disk: Path) -> None:
    await (await DiskJobs.open(small_disk)).close()
    await asyncio.to_thread((small_disk / "ballast").unlink)
    await asyncio.to_thread(fill_up, small_disk)
    with pytest.raises(StoreUnavailable, match=r"cannot be opened: .* \(0 bytes are free\)"):
        await DiskJobs.open(small_disk)

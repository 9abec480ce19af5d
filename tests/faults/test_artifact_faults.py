"""Artifacts on a disk that is full, fails, is slow or was tampered with: no file is short or half
written.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from proxy.app import StartFailed
from proxy.ports import LengthMismatch, Partial, PartialLost, StorageFull, StoreUnavailable
from proxy.stores import durable
from proxy.stores.file_artifacts import files as artifact_files
from proxy.stores.file_artifacts import spool
from proxy.stores.file_artifacts.spool import Spool
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.faults.test_store_faults import MIB, largest_file, pour
from tests.support.artifacts import begun, blocked_read, committed, new_id, note
from tests.support.local_proxy import local_proxy
from tests.support.wire import eventually


async def test_a_full_disk_fails_only_the_file_being_written(tmp_path: Path) -> None:
    """§5 StorageFull, with an error of the operating system itself."""
    store = await FileArtifacts.at(tmp_path)
    big, small = new_id(), new_id()
    growing, other = await store.create(big), await store.create(small)
    await other.write(b"x" * MIB)
    with largest_file(5 * MIB):
        with pytest.raises(StorageFull):
            await pour(growing, 20)
        with pytest.raises(StorageFull):
            await growing.commit(20 * MIB, note)
        await growing.discard()
        await other.write(b"x" * MIB)
        assert (await other.commit(2 * MIB, note)).size == 2 * MIB
    assert await store.ids() == {small}
    assert await store.used() == 2 * MIB
    await store.close()


async def test_a_full_disk_at_the_last_byte_is_raised_by_commit(tmp_path: Path) -> None:
    """The write that did not fit had returned: nothing is Success before commit has checked."""
    store = await FileArtifacts.at(tmp_path)
    job = new_id()
    with largest_file(1000):
        partial = await store.create(job)
        await partial.write(b"x" * 1001)
        with pytest.raises(StorageFull):
            await partial.commit(1001, note)
        assert await store.get(job) is None
        with pytest.raises(StorageFull):
            await partial.write(b"x")
        await partial.discard()
    assert await store.ids() == set()
    await store.close()


async def test_a_partial_file_of_a_full_disk_can_be_kept_and_resumed(tmp_path: Path) -> None:
    store = await FileArtifacts.at(tmp_path)
    job = new_id()
    content = os.urandom(3 * MIB)
    with largest_file(2 * MIB + 5):
        partial = await store.create(job)
        await partial.write(content)
        with pytest.raises(StorageFull):
            await partial.keep()
        await partial.keep()
        assert await store.used() == 2 * MIB + 5
    resumed = await store.resume(job)
    assert resumed is not None
    assert resumed.offset == 2 * MIB + 5
    await resumed.write(content[resumed.offset :])
    artifact = await resumed.commit(len(content), note)
    assert artifact.sha256 == hashlib.sha256(content).digest()
    await store.close()


Break = Callable[[pytest.MonkeyPatch], None]


def failing(code: int) -> Callable[..., None]:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def fail_second_directory_sync(patch: pytest.MonkeyPatch) -> None:
    """Fail the sync after the rename that makes the file visible."""
    calls = iter([lambda directory: None, failing(errno.EIO)])
    sync: Callable[[Path], None] = lambda directory: next(calls)(directory)  # noqa: E731
    patch.setattr(spool, "sync_directory", sync)
    patch.setattr(artifact_files, "sync_directory", sync)


BREAKS: dict[str, Break] = {
    "sync": lambda patch: patch.setattr(Spool, "_sync", failing(errno.EIO)),
    "sidecar": lambda patch: patch.setattr(artifact_files, "write_file", failing(errno.EROFS)),
    "no space for the sidecar": lambda patch: patch.setattr(
        artifact_files, "write_file", failing(errno.EDQUOT)
    ),
    "rename": lambda patch: patch.setattr(Path, "replace", failing(errno.EACCES)),
    "directory": fail_second_directory_sync,
}


async def broken_commit(
    store: FileArtifacts, monkeypatch: pytest.MonkeyPatch, name: str
) -> tuple[str, Partial]:
    """A job, and its partial file whose commit has failed."""
    job, partial = await begun(store)
    BREAKS[name](monkeypatch)
    with pytest.raises(StorageFull if "no space" in name else StoreUnavailable):
        await partial.commit(5, note)
    monkeypatch.undo()
    return job, partial


@pytest.mark.parametrize("then", ["discard", "keep"])
@pytest.mark.parametrize("name", BREAKS)
async def test_a_commit_that_fails_anywhere_leaves_the_file_uncommitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, then: str
) -> None:
    store = await FileArtifacts.at(tmp_path)
    job, partial = await broken_commit(store, monkeypatch, name)
    assert await store.get(job) is None
    assert await store.open(job) is None
    if then == "discard":
        await partial.discard()
        await store.remove(job)
        assert await store.ids() == set()
        assert await store.used() == 0
    else:
        await partial.keep()
        resumed = await store.resume(job)
        assert resumed is not None
        await resumed.commit(5, note)
        assert await store.used() == 5
    await store.close()


@pytest.mark.parametrize("then", ["remove", "create"])
async def test_a_file_that_cannot_be_discarded_is_counted_until_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """§15 storage.max_bytes: once, by the sweeper or by the next attempt, and no longer."""
    store = await FileArtifacts.at(tmp_path)
    await store.ids()
    job, partial = await begun(store)
    await partial.read(0, 5)  # writes them
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", failing(errno.EIO))
        with pytest.raises(StoreUnavailable):
            await partial.discard()
    assert await store.ids() == {job}
    assert await store.used() == 5
    if then == "remove":
        await store.remove(job)
        assert await store.ids() == set()
    else:
        again = await store.create(job)
        await again.write(b"12")
        assert await store.used() == 2
        await again.discard()
    assert await store.used() == 0
    await store.close()


@pytest.mark.parametrize("end", ["keep", "discard"])
@pytest.mark.parametrize("at", [1, 2])
async def test_a_file_that_ends_without_memory_is_not_left_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, at: int
) -> None:
    """§10: its job is resumed. The descriptor is closed, but not while a thread syncs the file."""
    before = await asyncio.to_thread(os.listdir, "/proc/self/fd")
    store = await FileArtifacts.at(tmp_path)
    syncing, gate, sync_early = asyncio.Event(), threading.Event(), Spool.sync_early
    loop, was_open = asyncio.get_running_loop(), list[bool]()

    def sync(file: Spool) -> None:
        loop.call_soon_threadsafe(syncing.set)
        gate.wait(30)
        was_open.append(file._descriptor >= 0)
        sync_early(file)

    monkeypatch.setattr(Spool, "sync_early", sync)
    job, partial = await begun(store, b"x" * (17 * MIB))
    await syncing.wait()
    await partial.write(b"12345")
    begin, calls = store.begin, count(1)

    def lacking(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == at:
            raise MemoryError
        return begin(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(store, "begin", lacking)
        loop.call_later(0.1, gate.set)
        with suppress(MemoryError):
            await getattr(partial, end)()
    assert was_open == [True]
    assert len(await asyncio.to_thread(os.listdir, "/proc/self/fd")) == len(before)
    if end == "keep":
        resumed = await store.resume(job)
        assert resumed is not None
        assert resumed.offset == 17 * MIB + (5 if at == 2 else 0)
        await resumed.discard()
    await store.remove(job)
    assert await store.used() == 0
    await store.close()


async def test_a_write_that_fails_is_raised_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await FileArtifacts.at(tmp_path)
    partial = await store.create(new_id())
    monkeypatch.setattr(spool, "_write_all", failing(errno.EIO))
    with pytest.raises(StoreUnavailable):
        await pour(partial, 10)
    with pytest.raises(StoreUnavailable):
        await partial.commit(partial.offset, note)
    await partial.discard()
    assert await store.ids() == set()
    await store.close()


async def test_a_slow_disk_delays_the_writer_and_not_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§15, memory stays flat: a partial holds a few MiB, however fast the network is."""
    store = await FileArtifacts.at(tmp_path)
    gate, append = threading.Event(), Spool.append
    monkeypatch.setattr(
        Spool, "append", lambda spool, chunks: gate.wait(30) and append(spool, chunks)
    )
    partial = await store.create(new_id())

    async def write() -> None:
        for _ in range(64):
            await partial.write(bytes(MIB // 4))

    writing = asyncio.create_task(write())
    for _ in range(1000):
        await asyncio.sleep(0)
    assert not writing.done()
    assert partial.offset <= 4 * MIB
    gate.set()
    async with asyncio.timeout(30):
        await writing
    assert (await partial.commit(16 * MIB, note)).sha256 == hashlib.sha256(bytes(16 * MIB)).digest()
    await store.close()


async def test_the_bytes_are_synced_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that returned survives a power failure."""
    steps: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def name(descriptor: int) -> str:
        return Path(f"/proc/self/fd/{descriptor}").readlink().suffix or "directory"

    def traced_fsync(descriptor: int) -> None:
        steps.append(f"sync {name(descriptor)}")
        fsync(descriptor)

    def traced_rename(path: Path, target: Path) -> Path:
        steps.append(f"rename {path.suffix} {target.suffix}")
        return rename(path, target)

    store = await FileArtifacts.at(tmp_path)
    partial = await store.create(new_id())
    monkeypatch.setattr(spool, "_SYNC_DUE", 2 * MIB)
    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(Path, "replace", traced_rename)
    await pour(partial, 5)
    await partial.commit(5 * MIB, note)
    assert steps[:-6].count("sync .partial") in (1, 2)
    assert steps[-6:] == [
        "sync .partial",
        "sync .new",
        "rename .new .json",
        "sync directory",
        "rename .partial .file",
        "sync directory",
    ]
    await store.close()
    steps.clear()
    store = await FileArtifacts.at(tmp_path, durable=False)
    partial = await store.create(new_id())
    await partial.commit(0, note)
    assert [step for step in steps if "sync" in step] == []
    await store.close()


@pytest.mark.parametrize("end", ["discard", "keep"])
@pytest.mark.parametrize("durable", [True, False])
async def test_no_power_loss_brings_back_the_file_of_an_earlier_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, *, durable: bool
) -> None:
    """§10: its bytes would count as the beginning of the file that replaced it."""
    left: list[bool] = []
    fsync = os.fsync

    def traced(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            left.append(any(tmp_path.rglob("*.partial")))
        fsync(descriptor)

    store = await FileArtifacts.at(tmp_path, durable=durable)
    job, partial = await begun(store)
    await getattr(partial, end)()
    monkeypatch.setattr(os, "fsync", traced)
    if end == "discard":
        again = await store.create(job)
        assert left == []  # nothing was removed
        await again.discard()
    else:
        again = await store.create(job)
    assert left == ([False] if durable else [])
    await again.discard()
    await store.close()


async def test_bytes_are_written_while_earlier_ones_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to a limit, so that a commit does not wait long for the disk."""
    fsync, begun, gate = os.fsync, threading.Event(), threading.Event()

    def held(descriptor: int) -> None:
        begun.set()
        assert gate.wait(30)
        fsync(descriptor)

    monkeypatch.setattr(spool, "_SYNC_DUE", MIB)
    monkeypatch.setattr(spool, "_SYNC_LIMIT", 6 * MIB)
    store = await FileArtifacts.at(tmp_path)
    partial = await store.create(new_id())
    monkeypatch.setattr("proxy.stores.file_artifacts.spool.os.fsync", held)
    writing = asyncio.create_task(pour(partial, 12))
    await eventually(lambda: partial.written >= 4 * MIB)
    assert begun.is_set()
    await asyncio.sleep(0.1)
    assert partial.written < 6 * MIB
    gate.set()
    async with asyncio.timeout(30):
        await writing
        assert (await partial.commit(12 * MIB, note)).size == 12 * MIB
    await store.close()


@pytest.mark.parametrize("lost", [False, True], ids=["nothing lost", "a page lost"])
async def test_after_a_failed_early_sync_the_commit_reads_the_file_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """Nothing waits for an early sync; its failure is not forgotten."""
    real, failures = os.fsync, [OSError(errno.EIO, "I/O error")]

    def sync(descriptor: int) -> None:
        if failures:
            raise failures.pop()
        real(descriptor)

    monkeypatch.setattr(spool, "_SYNC_DUE", MIB)
    store = await FileArtifacts.at(tmp_path)
    job = new_id()
    partial = await store.create(job)
    monkeypatch.setattr("proxy.stores.file_artifacts.spool.os.fsync", sync)
    await pour(partial, 3)
    await eventually(lambda: not failures)
    if not lost:
        assert (await partial.commit(3 * MIB, note)).size == 3 * MIB
    else:
        await partial.read(0, 3 * MIB)  # all is written
        with (tmp_path / "artifacts" / job[:2] / f"{job}.partial").open("r+b") as file:
            file.write(b"another page")
        with pytest.raises(PartialLost):
            await partial.commit(3 * MIB, note)
        await partial.discard()
    await store.close()


async def committed_file(store: FileArtifacts, content: bytes) -> tuple[str, Path]:
    job = await committed(store, content)
    return job, store._places(job).file


TAMPER: dict[str, Callable[[Path], object]] = {
    "file cut": lambda file: os.truncate(file, 4),
    "file longer": lambda file: os.truncate(file, 6),
    "file gone": lambda file: file.unlink(),
    "sidecar gone": lambda file: file.with_suffix(".json").unlink(),
    "sidecar empty": lambda file: file.with_suffix(".json").write_bytes(b""),
    "sidecar of another kind": lambda file: file.with_suffix(".json").write_bytes(b"[1]"),
    "sidecar without digest": lambda file: file.with_suffix(".json").write_bytes(
        b'{"size": 5, "sha256": "", "created": 1, "memo": ""}'
    ),
    "sidecar with words": lambda file: file.with_suffix(".json").write_bytes(
        b'{"size": "5", "sha256": "zz", "created": "now", "memo": 5}'
    ),
}


@pytest.mark.parametrize("name", TAMPER)
async def test_a_file_that_does_not_match_its_sidecar_is_no_artifact(
    tmp_path: Path, name: str
) -> None:
    """§6: a short file is never served; the clean-up still finds it."""
    store = await FileArtifacts.at(tmp_path)
    job, file = await committed_file(store, b"12345")
    await asyncio.to_thread(TAMPER[name], file)
    assert await store.get(job) is None
    assert await store.record_copy(job) is None
    assert await store.open(job) is None
    assert await store.resume(job) is None
    assert await store.ids() == {job}
    await store.remove(job)
    assert await store.ids() == set()
    assert await asyncio.to_thread(lambda: list(file.parent.iterdir())) == []
    await store.close()


async def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    """§12: a short read is never taken for the end."""
    store = await FileArtifacts.at(tmp_path)
    job, file = await committed_file(store, b"x" * (3 * MIB))
    reader = await store.open(job)
    assert reader is not None
    assert os.fstat(reader._descriptor).st_size == 3 * MIB
    pieces = reader.chunks(0, 3 * MIB)
    await anext(pieces)
    os.truncate(file, MIB + 5)
    with pytest.raises(StoreUnavailable):
        async for _ in pieces:
            pass
    await reader.close()
    await store.close()


async def test_a_reader_closed_during_a_read_returns_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§9: the number of a closed descriptor may belong to another caller's file a moment later."""
    store = await FileArtifacts.at(tmp_path)
    job = await committed(store, b"x" * MIB)
    async with blocked_read(store, job, monkeypatch) as (reader, reading, gate):
        descriptor = reader._descriptor
        closing = asyncio.create_task(reader.close())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not closing.done()
        assert os.fstat(descriptor).st_size == MIB
        gate.set()
        async with asyncio.timeout(10):
            await closing
            await asyncio.wait([reading])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    await store.close()


async def test_a_file_that_was_truncated_is_not_committed(tmp_path: Path) -> None:
    """§10: the length is verified on the file itself."""
    store = await FileArtifacts.at(tmp_path)
    job = new_id()
    partial = await store.create(job)
    await partial.write(b"x" * (2 * MIB))
    await partial.keep()
    partial_file = store._places(job).partial
    resumed = await store.resume(job)
    assert resumed is not None
    os.truncate(partial_file, MIB)
    with pytest.raises(LengthMismatch):
        await resumed.commit(2 * MIB, note)
    await resumed.discard()
    await store.close()


async def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    store = await FileArtifacts.at(tmp_path)
    secret = tmp_path / "secret"
    secret.write_bytes(b"12345")
    job, file = await committed_file(store, b"12345")
    for path in (file, file.with_suffix(".partial")):
        path.unlink(missing_ok=True)
        path.symlink_to(secret)
    with pytest.raises(StoreUnavailable):
        await store.open(job)
    with pytest.raises(StoreUnavailable):
        await store.resume(job)
    partial = await store.create(job)
    await partial.write(b"other")
    await partial.commit(5, note)
    await store.remove(job)
    assert secret.read_bytes() == b"12345"
    await store.close()


async def test_two_processes_share_a_volume(tmp_path: Path) -> None:
    """§15: replicas on one volume; a writer that lost its job cannot change its
    successor's file.
    """
    one, two = await FileArtifacts.at(tmp_path), await FileArtifacts.at(tmp_path)
    assert await one.used() == 0
    job = new_id()
    old = await one.create(job)
    await old.write(b"old")
    with pytest.raises(StoreUnavailable):
        await two.resume(job)
    new = await two.create(job)
    await new.write(b"newer")
    with pytest.raises(StoreUnavailable):
        await old.commit(3, note)
    await old.discard()
    artifact = await new.commit(5, note)
    assert await one.get(job) == artifact
    assert await one.used() == 0
    assert await one.ids() == {job}
    assert await one.used() == 5
    await one.close()
    await two.close()


async def test_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    store = await FileArtifacts.at(tmp_path / "data")
    _, file = await committed_file(store, b"12345")
    modes = {path: path.stat().st_mode & 0o777 for path in (file, file.with_suffix(".json"))}
    assert set(modes.values()) == {0o600}
    assert {path.stat().st_mode & 0o777 for path in list(file.parents)[:3]} == {0o700}
    await store.close()


async def test_closing_the_store_keeps_partial_files(tmp_path: Path) -> None:
    """§15 SIGTERM: jobs stay resumable."""
    store = await FileArtifacts.at(tmp_path)
    job, _ = await begun(store)
    await store.close()
    store = await FileArtifacts.at(tmp_path)
    assert await store.used() == 5
    resumed = await store.resume(job)
    assert resumed is not None
    assert resumed.offset == 5
    await store.close()


def test_a_durable_write_writes_the_whole_file(tmp_path: Path) -> None:
    durable.write_file(tmp_path / "file", b"12345")
    durable.write_file(tmp_path / "file", b"123")
    assert (tmp_path / "file").read_bytes() == b"123"


async def test_a_second_commit_that_fails_never_shows_the_old_file_as_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sidecar of one content is never beside another, even one of the same length."""
    store = await FileArtifacts.at(tmp_path)
    job = await committed(store, b"first")
    partial = await store.create(job)
    await partial.write(b"later")
    replace = Path.replace

    def refuse_the_file(path: Path, target: Path) -> Path:
        if target.suffix == ".file":
            raise OSError(errno.EIO, "it broke")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse_the_file)
    with pytest.raises(StoreUnavailable):
        await partial.commit(5, note)
    assert await store.get(job) is None
    assert await store.open(job) is None
    await partial.discard()
    await store.close()


async def test_cancelled_calls_leave_no_open_file(tmp_path: Path) -> None:
    store = await FileArtifacts.at(tmp_path)
    job = await committed(store, b"12345")
    partial = await store.create(job)
    await partial.keep()
    before = await asyncio.to_thread(os.listdir, "/proc/self/fd")
    for turn in range(60):
        opening = asyncio.ensure_future((store.create, store.resume, store.open)[turn % 3](job))
        for _ in range(turn % 4):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled()
    assert len(await asyncio.to_thread(os.listdir, "/proc/self/fd")) == len(before)
    await store.close()


def test_hashing_a_kept_file_can_be_cancelled(tmp_path: Path) -> None:
    """§7: a cancelled job does not wait until many GB are read."""
    places = artifact_files.Places(tmp_path, new_id())
    kept = Spool.create(places, durable=False)
    kept.append([b"x" * 10])
    kept.keep()
    stop = threading.Event()
    whole = Spool.resume(places, durable=False, stop=stop)
    assert whole is not None
    assert whole.length == 10
    whole.close()
    stop.set()
    cut = Spool.resume(places, durable=False, stop=stop)
    assert cut is not None
    assert cut.length == 0
    cut.close()


@pytest.mark.parametrize("name", BREAKS)
async def test_a_commit_that_failed_anywhere_may_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    store = await FileArtifacts.at(tmp_path)
    job, partial = await broken_commit(store, monkeypatch, name)
    artifact = await partial.commit(5, note)
    assert await store.get(job) == artifact
    assert await store.record_copy(job) == note(artifact)
    assert artifact.sha256 == hashlib.sha256(b"12345").digest()
    await store.close()


async def test_a_rename_that_could_not_be_undone_is_undone_by_the_next_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """-"""
    store = await FileArtifacts.at(tmp_path)
    job, partial = await begun(store)
    rename = Path.replace

    def rename_forwards(path: Path, target: Path) -> Path:
        if target.suffix == ".partial":
            raise OSError(errno.EIO, "it broke")
        return rename(path, target)

    fail_second_directory_sync(monkeypatch)
    monkeypatch.setattr(Path, "replace", rename_forwards)
    with pytest.raises(StoreUnavailable):
        await partial.commit(5, note)
    monkeypatch.undo()
    artifact = await partial.commit(5, note)
    assert await store.get(job) == artifact
    assert await store.record_copy(job) == note(artifact)
    await store.close()


@pytest.mark.parametrize("lost", [False, True], ids=["nothing lost", "a page lost"])
@pytest.mark.parametrize("end", ["commit", "keep"])
async def test_after_a_failed_sync_the_file_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool, end: str
) -> None:
    """fsync(2): after a failed sync the kernel may drop the data, and the next sync succeeds."""
    store = await FileArtifacts.at(tmp_path)
    job, content = new_id(), os.urandom(3 * MIB)
    partial = await store.create(job)
    real, failures = os.fsync, [OSError(errno.EIO, "I/O error")]

    def sync(descriptor: int) -> None:
        if failures:
            raise failures.pop()
        real(descriptor)

    monkeypatch.setattr("proxy.stores.file_artifacts.spool.os.fsync", sync)
    await partial.write(content)
    with pytest.raises(StoreUnavailable):
        await partial.commit(len(content), note)
    path = tmp_path / "artifacts" / job[:2] / f"{job}.partial"
    if lost:
        with path.open("r+b") as file:
            file.seek(MIB)
            file.write(bytes(4096))
    if lost:
        with pytest.raises(PartialLost):
            await (partial.commit(len(content), note) if end == "commit" else partial.keep())
        await partial.discard()
        assert await store.ids() == set()
    elif end == "commit":
        assert (await partial.commit(len(content), note)).sha256 == hashlib.sha256(content).digest()
    else:
        await partial.keep()
        resumed = await store.resume(job)
        assert resumed is not None
        assert resumed.offset == len(content)
        await resumed.discard()
    await store.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_fails_no_call_that_stores_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Btrfs, ZFS and NFS need space to remove a file. It is removed later, as if the disk failed:
    the cancel or the download that needed it is repeated.
    """
    store = await FileArtifacts.at(tmp_path)
    there, kept = await committed(store), new_id()
    partial = await store.create(kept)
    await partial.write(b"12345")
    await partial.keep()
    refused = await store.create(new_id())
    calls: list[tuple[object, str, Callable[[], Awaitable[object]]]] = [
        (Path, "unlink", lambda: store.remove(there)),
        (Path, "unlink", refused.discard),
        (os, "open", lambda: store.open(there)),
        (os, "fstat", lambda: store.open(there)),
        (os, "fstat", lambda: store.open(there)),
        (os, "open", lambda: store.resume(kept)),
        (os, "fstat", lambda: store.open_published(there, 0, 1)),
        (os, "fstat", lambda: store.open_published(there, 0, 1)),
        (os, "stat", lambda: store.get(there)),
        (os, "stat", lambda: store.record_copy(there)),
        (os, "scandir", store.ids),
    ]
    for owner, name, call in calls:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failing(code))
            with pytest.raises(StoreUnavailable):
                await call()
    await store.remove(there)
    assert await store.get(there) is None
    await store.close()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_an_error_of_close_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS reports some there. What must be kept is synced before, and the descriptor is free."""
    store = await FileArtifacts.at(tmp_path)
    before = open_files()
    original = os.close

    def close(descriptor: int) -> None:
        original(descriptor)
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(os, "close", close)
    there = await committed(store)
    job, partial = await begun(store, b"12345")
    tail = store.tail(job)
    assert tail is not None
    await partial.read(0, 5)
    assert await tail.read(0) == b"12345"
    await tail.close()
    await partial.keep()
    resumed = await store.resume(job)
    assert resumed is not None
    assert (await resumed.commit(5, note)).size == 5
    await (await store.create(new_id())).discard()
    for each in (there, job):
        reader = await store.open(each)
        assert reader is not None
        await reader.close()
    assert await store.open(new_id()) is None
    assert await store.ids() == {there, job}
    await eventually(lambda: open_files() <= before)
    monkeypatch.undo()
    await store.close()


async def test_a_start_says_why_whenever_its_volume_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the free space of a start fails in turn."""
    measure = FileArtifacts._measure
    for failing in count():
        looks = count()

        def fail(store: FileArtifacts, failing: int = failing, looks: Iterator[int] = looks) -> int:
            if next(looks) == failing:
                raise StoreUnavailable("the volume has failed")
            return measure(store)

        monkeypatch.setattr(FileArtifacts, "_measure", fail)
        try:
            async with local_proxy("http://127.0.0.1:1", tmp_path):
                assert failing
                return
        except StartFailed as why:
            assert "the volume has failed" in str(why)  # noqa: PT017  # the last start succeeds

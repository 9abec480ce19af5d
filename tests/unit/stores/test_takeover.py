"""How a file is taken over on a shared volume (`proxy.stores.file_artifacts.takeover`)."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.ports import Partial, StorageFull, StoreUnavailable
from proxy.stores.file_artifacts import files, takeover
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.faults.test_store_faults import MIB, largest_file
from tests.support.artifacts import new_id, note
from tests.unit.stores.test_artifacts import CONTENT

if sys.platform != "win32":
    import fcntl


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FileArtifacts]:
    opened = await FileArtifacts.at(tmp_path)
    yield opened
    await opened.close()


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("artifacts/??/*")}


async def kept(store: FileArtifacts, job: str) -> None:
    partial = await store.create(job, 1)
    await partial.write(CONTENT)
    await partial.keep()


async def test_names_without_a_fence_are_those_of_version_0_1(
    store: FileArtifacts, tmp_path: Path
) -> None:
    job = new_id()
    for fence, stem in ((0, job), (3, f"{job}.3")):
        partial = await store.create(job, fence)
        assert f"{stem}.partial" in names(tmp_path)
        await partial.commit(0, note)
        assert {f"{stem}.file", f"{stem}.json"} <= names(tmp_path)


async def test_a_full_volume_leaves_the_file_where_it_is(
    store: FileArtifacts, tmp_path: Path
) -> None:
    job = new_id()
    await kept(store, job)
    with largest_file(MIB), pytest.raises(StorageFull):
        await store.resume(job, 2)
    assert names(tmp_path) == {f"{job}.1.partial"}
    taken = await store.resume(job, 2)
    assert taken is not None
    assert taken.offset == len(CONTENT)
    assert names(tmp_path) == {f"{job}.2.partial"}


async def test_a_copy_that_does_not_fit_takes_no_space_from_others(
    monkeypatch: pytest.MonkeyPatch, store: FileArtifacts, tmp_path: Path
) -> None:
    """It is tried again and again; running exports must not find a full volume meanwhile."""

    def copy(*args: object) -> int:
        raise AssertionError("bytes are copied")

    job = new_id()
    await kept(store, job)
    with monkeypatch.context() as patch:
        patch.setattr(takeover, "_clone", lambda *args: False)
        patch.setattr(files, "free", lambda directory: len(CONTENT) - 1)
        patch.setattr(takeover, "_copy_in_kernel", copy)
        with pytest.raises(StorageFull):
            await store.resume(job, 2)
    assert names(tmp_path) == {f"{job}.1.partial"}
    taken = await store.resume(job, 2)
    assert taken is not None
    assert await taken.read(0, taken.offset) == CONTENT


@pytest.mark.skipif(sys.platform != "linux", reason="FICLONE is a request of Linux")
async def test_a_copy_with_shared_blocks_needs_no_space(
    monkeypatch: pytest.MonkeyPatch, store: FileArtifacts
) -> None:
    """As on XFS and Btrfs."""

    def clone(target: int, request: int, source: int) -> int:
        assert request == 0x40049409
        os.write(target, os.pread(source, len(CONTENT), 0))
        return 0

    job = new_id()
    await kept(store, job)
    monkeypatch.setattr(fcntl, "ioctl", clone)
    monkeypatch.setattr(files, "free", lambda directory: 0)
    taken = await store.resume(job, 2)
    assert taken is not None
    assert await taken.read(0, taken.offset) == CONTENT


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL])
async def test_a_file_system_that_cannot_copy_is_read_and_written(
    monkeypatch: pytest.MonkeyPatch, store: FileArtifacts, code: int
) -> None:
    def refuse(*args: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    job = new_id()
    await kept(store, job)
    taken = await store.resume(job, 2)
    assert taken is not None
    assert await taken.read(0, taken.offset) == CONTENT


@pytest.mark.parametrize(("step", "file"), [("replace", "2.copy"), ("unlink", "1.partial")])
async def test_a_take_over_that_failed_midway_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, store: FileArtifacts, tmp_path: Path, step: str, file: str
) -> None:
    """The volume did not say that it had renamed the copy, or failed to remove what was copied."""
    job, work = new_id(), getattr(os, step)
    await kept(store, job)

    def fail(path: Path, *args: Path) -> None:
        if step == "replace":
            work(path, *args)
        if path.name == f"{job}.{file}":
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(StoreUnavailable):
            await store.resume(job, 2)
    taken = await store.resume(job, 2)
    assert taken is not None
    assert await taken.read(0, taken.offset) == CONTENT
    assert names(tmp_path) == {f"{job}.2.partial"}
    assert await store.used() == len(CONTENT)


@pytest.mark.parametrize("call", ["resume", "commit", "keep"])
async def test_names_that_cannot_be_looked_up_for_a_moment_cost_no_export(
    monkeypatch: pytest.MonkeyPatch, store: FileArtifacts, call: str
) -> None:
    """NFS reports a stale handle: the store is unavailable, and the job waits for it."""
    job, stat, later = new_id(), os.stat, 2

    def fail(path: os.PathLike[str], *args: object, **kwargs: object) -> os.stat_result:
        if isinstance(path, Path) and path.name.startswith(f"{job}.{later}."):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return stat(path, *args, **kwargs)  # type: ignore[arg-type]

    partial: Partial = await store.create(job, 1)
    await partial.write(CONTENT)
    if call == "resume":
        await partial.keep()
    else:
        store._places(job, later).partial.touch()
    calls = {
        "resume": lambda: store.resume(job, later),
        "commit": lambda: partial.commit(len(CONTENT), note),
        "keep": partial.keep,
    }
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", fail)
        with pytest.raises(StoreUnavailable, match="Stale file handle"):
            await calls[call]()


async def test_a_file_whose_directory_cannot_be_listed_when_it_is_kept_is_closed(
    monkeypatch: pytest.MonkeyPatch, store: FileArtifacts
) -> None:
    """No descriptor is left for the directory: that of the file, and its lock, do not stay."""
    job = new_id()
    partial = await store.create(job, 1)
    await partial.write(CONTENT)

    def fail(path: Path) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", fail)
        with pytest.raises(StoreUnavailable, match="Too many open files"):
            await partial.keep()
    resumed = await store.resume(job, 1)
    assert resumed is not None
    assert await resumed.read(0, resumed.offset) == CONTENT

"""Bytes that may not be on the disk are not resumed (CONTRACT §10)."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from proxy.ports import Partial
from proxy.stores.file_artifacts import partial as partial_files
from proxy.stores.file_artifacts import spool, unsynced
from proxy.stores.file_artifacts.store import FileArtifacts
from proxy.upstream import source
from tests.support.artifacts import new_id, note

CONTENT = random.Random(7).randbytes(300_000)
LIMIT = 100_000
UNSYNCED = unsynced.UNSYNCED


@pytest.fixture(autouse=True)
def attributes(monkeypatch: pytest.MonkeyPatch) -> dict[int, bytes]:
    """The extended attributes of files by inode, on file systems without them, too."""
    known: dict[int, bytes] = {}

    def inode(descriptor: int) -> int:
        return os.fstat(descriptor).st_ino

    def get(descriptor: int, _: str) -> bytes:
        found = known.get(inode(descriptor))
        if found is None:
            raise OSError(errno.ENODATA, "no such attribute")
        return found

    def put(descriptor: int, _: str, value: bytes) -> None:
        known[inode(descriptor)] = value

    def remove(descriptor: int, _: str) -> None:
        known.pop(inode(descriptor), None)

    monkeypatch.setattr(os, "getxattr", get)
    monkeypatch.setattr(os, "setxattr", put)
    monkeypatch.setattr(os, "removexattr", remove)
    monkeypatch.setattr(unsynced, "UNSYNCED", LIMIT)
    return known


@pytest.fixture
def reboot(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Start the machine again."""
    return lambda: monkeypatch.setattr(unsynced, "_boot", lambda: b"the next boot")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FileArtifacts]:
    opened = await FileArtifacts.at(tmp_path)
    yield opened
    await opened.close()


async def crashed(store: FileArtifacts, job: str, fence: int) -> Path:
    """The partial file of a process that was killed."""
    growing = await store.create(job, fence)
    await growing.write(CONTENT)
    await growing.read(0, 1)
    await asyncio.to_thread(growing._spool.close)
    return growing.places.partial


def zero(path: Path, start: int, count: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(count))


async def rest(growing: Partial) -> bytes:
    """Complete the file, and return its digest."""
    await growing.write(CONTENT[growing.offset :])
    return (await growing.commit(len(CONTENT), note)).sha256


@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 1), (1, 2)])
async def test_10_bytes_that_a_power_loss_may_have_zeroed_are_requested_again(
    store: FileArtifacts, reboot: Callable[[], None], before: int, after: int
) -> None:
    """Not at the end of the file, where an overlap is compared."""
    job = new_id()
    path = await crashed(store, job, before)
    await asyncio.to_thread(zero, path, len(CONTENT) - LIMIT + 10, 20_000)
    reboot()
    resumed = await store.resume(job, after)
    assert resumed is not None
    assert resumed.offset == len(CONTENT) - LIMIT
    assert await resumed.read(0, resumed.offset) == CONTENT[: resumed.offset]
    assert await rest(resumed) == hashlib.sha256(CONTENT).digest()


@pytest.mark.parametrize("fence", [1, 2])
async def test_10_a_killed_process_loses_no_byte_that_it_has_written(
    store: FileArtifacts, fence: int
) -> None:
    job = new_id()
    await crashed(store, job, 1)
    resumed = await store.resume(job, fence)
    assert resumed is not None
    assert resumed.offset == len(CONTENT)
    assert await rest(resumed) == hashlib.sha256(CONTENT).digest()


@pytest.mark.parametrize(("end", "fence"), [("keep", 1), ("keep", 2), ("commit", 2)])
async def test_10_a_file_that_was_synced_whole_is_resumed_whole(
    store: FileArtifacts, reboot: Callable[[], None], end: str, fence: int
) -> None:
    job = new_id()
    growing = await store.create(job, 1)
    await growing.write(CONTENT)
    await (growing.keep() if end == "keep" else growing.commit(len(CONTENT), note))
    reboot()
    resumed = await store.resume(job, fence)
    assert resumed is not None
    assert resumed.offset == len(CONTENT)
    assert await rest(resumed) == hashlib.sha256(CONTENT).digest()


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EIO])
@pytest.mark.parametrize("fence", [1, 2])
async def test_10_without_attributes_the_last_bytes_are_requested_again(
    store: FileArtifacts, monkeypatch: pytest.MonkeyPatch, code: int, fence: int
) -> None:
    """As on NFS without them: nothing says whether the machine of the writer was lost. A copy is
    not shortened once more.
    """

    def fail(*args: object) -> bytes:
        raise OSError(code, os.strerror(code))

    for name in ("getxattr", "setxattr", "removexattr"):
        monkeypatch.setattr(os, name, fail)
    job = new_id()
    path = await crashed(store, job, 1)
    await asyncio.to_thread(zero, path, len(CONTENT) - LIMIT + 10, 20_000)
    resumed = await store.resume(job, fence)
    assert resumed is not None
    assert resumed.offset == len(CONTENT) - LIMIT
    assert await rest(resumed) == hashlib.sha256(CONTENT).digest()


async def test_10_a_file_that_is_resumed_is_doubted_after_the_next_power_loss(
    store: FileArtifacts, reboot: Callable[[], None], attributes: dict[int, bytes]
) -> None:
    job = new_id()
    growing = await store.create(job)
    await growing.write(CONTENT)
    await growing.keep()
    assert not attributes
    resumed = await store.resume(job)
    assert resumed is not None
    assert list(attributes.values()) == [unsynced._boot()]
    await asyncio.to_thread(resumed._spool.close)
    reboot()
    again = await store.resume(job)
    assert again is not None
    assert again.offset == len(CONTENT) - LIMIT
    await again.discard()


async def test_10_nothing_is_resumed_after_a_sync_that_failed(
    store: FileArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may have dropped any bytes, and reports that once."""
    job, sync = new_id(), os.fsync

    def fails(_: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    growing = await store.create(job)
    await growing.write(CONTENT)
    await growing.read(0, 1)
    monkeypatch.setattr(os, "fsync", fails)
    await asyncio.to_thread(growing._spool.sync_early)
    monkeypatch.setattr(os, "fsync", sync)
    await asyncio.to_thread(growing._spool.close)
    resumed = await store.resume(job)
    assert resumed is not None
    assert resumed.offset == 0
    assert await rest(resumed) == hashlib.sha256(CONTENT).digest()


def test_10_a_writer_never_has_more_bytes_that_are_not_synced() -> None:
    largest = max(partial_files._GATHERED + partial_files._BATCH, source._BYTES)
    assert spool._SYNC_LIMIT + largest <= UNSYNCED

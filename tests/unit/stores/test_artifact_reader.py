"""In which pieces a file is read (`proxy.stores.file_artifacts.reader`)."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.stores.file_artifacts import files, reader
from proxy.stores.file_artifacts.reader import FileReader
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.support.artifacts import committed

CONTENT = os.urandom(3 << 20) + b"end"
SMALL, LARGE = 16 << 10, 256 << 10


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FileArtifacts]:
    opened = await FileArtifacts.at(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
async def file(store: FileArtifacts) -> AsyncIterator[FileReader]:
    found = await store.open(await committed(store, CONTENT))
    assert found is not None
    yield found
    await found.close()


async def test_a_reader_that_takes_its_pieces_at_once_gets_large_ones(
    store: FileArtifacts, file: FileReader
) -> None:
    sizes = [len(piece) async for piece in file.chunks(0, len(CONTENT))]
    assert sizes[0] == SMALL
    assert max(sizes) == LARGE
    assert sizes.count(LARGE) > 8
    assert store.large_pieces.taken == 0


async def test_a_reader_that_is_slow_gets_small_pieces(
    monkeypatch: pytest.MonkeyPatch, store: FileArtifacts, file: FileReader
) -> None:
    monkeypatch.setattr(reader, "_FAST", 1 << 62)
    assert {len(piece) async for piece in file.chunks(0, 1 << 20)} == {SMALL}


async def test_large_pieces_are_for_few_readers_at_a_time(
    store: FileArtifacts, file: FileReader
) -> None:
    """§6: whoever stalls keeps one in memory; one that leaves gives it back."""
    stalled = [file.chunks(0, len(CONTENT)) for _ in range(store.large_pieces.limit)]
    for pieces in stalled:
        await anext(pieces)
        assert len(await anext(pieces)) == LARGE
    assert {len(piece) async for piece in file.chunks(0, 1 << 20)} == {SMALL}
    for pieces in stalled:
        await pieces.aclose()
    assert store.large_pieces.taken == 0


@pytest.mark.parametrize("held", [0, 1, 5000])
async def test_what_the_page_cache_does_not_hold_is_read_in_a_thread(
    monkeypatch: pytest.MonkeyPatch, file: FileReader, held: int
) -> None:
    """All of it, or what comes behind the first bytes."""
    monkeypatch.setattr(
        files, "read_cached", lambda fd, start, count: b"" if start else CONTENT[:held]
    )
    pieces = [bytes(piece) async for piece in file.chunks(0, 1 << 20)]
    assert b"".join(pieces) == CONTENT[: 1 << 20]
    assert len(pieces[0]) == (held or SMALL)


@pytest.mark.skipif(
    not hasattr(os, "RWF_NOWAIT"),
    reason="only Linux can read without waiting: failures of that are not tested here",
)
@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EOPNOTSUPP, errno.EIO])
async def test_a_read_that_would_wait_or_fails_gives_nothing(
    monkeypatch: pytest.MonkeyPatch, file: FileReader, code: int
) -> None:
    """EAGAIN: not in the page cache. EOPNOTSUPP: the file system cannot promise. EIO: the thread
    meets it too.
    """

    def refuse(*args: object) -> int:
        raise OSError(code, os.strerror(code))

    assert files.read_cached(file._descriptor, 5, 100) == CONTENT[5:105]
    monkeypatch.setattr(os, "preadv", refuse)
    assert files.read_cached(file._descriptor, 5, 100) == b""
    assert [bytes(piece) async for piece in file.chunks(5, 105)] == [CONTENT[5:105]]


async def test_a_reader_of_cached_bytes_lets_others_run(file: FileReader) -> None:
    """A client that takes everything at once must not keep the loop."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    count = len([None async for _ in file.chunks(0, len(CONTENT))])
    task.cancel()
    assert turns >= count

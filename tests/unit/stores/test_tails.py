"""Every `ArtifactStore` lets a file be followed while it grows (CONTRACT §14)."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from pathlib import Path
from typing import cast

import pytest

from proxy.ports import (
    ArtifactStore,
    Followable,
    Partial,
    PartialLost,
    Published,
    StoreUnavailable,
    Tail,
)
from proxy.stores.file_artifacts.files import Places, opened_published
from tests.support.artifacts import new_id, note
from tests.support.wire import eventually
from tests.unit.stores.conftest import OpenArtifacts

CONTENT = os.urandom(5 << 20) + b"!BDN"
#: CONTRACT §14: bytes of memory of a follower.
MEMORY = 256 << 10


def tail_of(artifacts: ArtifactStore, job: str, fence: int = 0) -> Tail:
    tail = cast("Followable", artifacts).tail(job, fence)
    assert tail is not None
    return tail


async def followed(tail: Tail, start: int = 0, *, pauses: random.Random | None = None) -> bytes:
    """Everything from `start` on, to the end of the file."""
    content = bytearray()
    try:
        while piece := await tail.read(start + len(content)):
            assert len(piece) <= MEMORY
            content += piece
            for _ in range(pauses.randrange(4) if pauses else 0):
                await asyncio.sleep(0)
    finally:
        await tail.close()
    return bytes(content)


async def write(partial: Partial, content: bytes, random_: random.Random) -> None:
    rest = memoryview(content)
    while rest:
        size = random_.choice([1, 1000, 65_536, 300_000, 1 << 20])
        await partial.write(bytes(rest[:size]))
        rest = rest[size:]
        await asyncio.sleep(0)


async def test_14_followers_get_the_whole_file_at_their_own_pace(artifacts: ArtifactStore) -> None:
    """§14: from the first byte or from any other, however late they come."""
    job, random_ = new_id(), random.Random(1)
    partial = await artifacts.create(job)
    starts = [0, 0, 1, 1 << 20, len(CONTENT) - 1, len(CONTENT)]
    early = [
        asyncio.create_task(followed(tail_of(artifacts, job), start, pauses=random.Random(start)))
        for start in starts
    ]
    half = len(CONTENT) // 2
    await write(partial, CONTENT[:half], random_)
    late = asyncio.create_task(followed(tail_of(artifacts, job)))
    slow = tail_of(artifacts, job)
    await write(partial, CONTENT[half:], random_)
    await partial.commit(len(CONTENT), note)
    for start, task in zip(starts, early, strict=True):
        assert await task == CONTENT[start:]
    assert await late == CONTENT
    assert await followed(slow) == CONTENT  # it read nothing before the commit


async def test_14_small_pieces_are_followed_many_at_a_time(artifacts: ArtifactStore) -> None:
    """To catch up with 1 MiB in pieces of 100 bytes took 3 s of the loop."""
    job, content = new_id(), random.Random(7).randbytes(500_000)
    partial = await artifacts.create(job)
    tail = tail_of(artifacts, job)
    for at in range(0, len(content), 100):
        await partial.write(content[at : at + 100])
    read, reads = b"", 0
    while len(read) < len(content):
        read += await tail.read(len(read))
        reads += 1
    assert read == content
    assert reads < 200
    await tail.close()
    await partial.discard()


async def test_14_a_byte_is_followed_before_anything_else_is_written(
    artifacts: ArtifactStore,
) -> None:
    """§14: bytes as they arrive, although stores gather them."""
    job = new_id()
    partial = await artifacts.create(job)
    tail = tail_of(artifacts, job)
    reading = asyncio.ensure_future(tail.read(0))
    await asyncio.sleep(0)
    assert not reading.done()
    await partial.write(b"!")
    assert await reading == b"!"
    assert await tail.read(0) == b"!"
    await partial.write(b"BDN")
    assert await tail.read(1) == b"BDN"
    await partial.commit(4, note)
    assert await tail.read(4) == b""
    await tail.close()
    await tail.close()


@pytest.mark.parametrize("end", ["discard", "keep"])
async def test_14_a_file_that_ends_before_its_commit_fails_its_followers(
    artifacts: ArtifactStore, end: str
) -> None:
    """§14: a restart from zero or a failure is seen, also by one that has read nothing yet."""
    job = new_id()
    partial = await artifacts.create(job)
    await partial.write(CONTENT[: 3 << 20])
    waiting, slow = tail_of(artifacts, job), tail_of(artifacts, job)
    reading = asyncio.ensure_future(waiting.read(3 << 20))
    assert await slow.read(0) == CONTENT[: len(await slow.read(0))]
    await (partial.discard() if end == "discard" else partial.keep())
    with pytest.raises(PartialLost):
        await reading
    again = await artifacts.create(job)
    await again.write(b"another file")
    with pytest.raises(PartialLost):
        await slow.read(0)
    for tail in (waiting, slow):
        await tail.close()
    await again.discard()


async def test_14_another_replica_reads_what_is_published(
    artifacts: ArtifactStore, open_artifacts: OpenArtifacts
) -> None:
    """§14, §18: before the commit and after it. It opens the file again for more."""
    job, another = new_id(), await open_artifacts()
    other = cast("Published", another)
    assert await other.open_published(job, 7, 1) is None
    partial = await artifacts.create(job, 7)
    content = CONTENT + CONTENT
    await write(partial, content, random.Random(3))
    await eventually(lambda: partial.publish() >= len(CONTENT))
    published = partial.publish()
    assert await other.open_published(job, 6, published) is None
    assert await other.open_published(job, 7, len(content) + 1) is None
    assert await read(other, job, published) == content[:published]
    growing = await other.open_published(job, 7, published)
    await partial.commit(len(content), note)
    assert await read(other, job, len(content)) == content
    assert growing is not None
    assert b"".join([bytes(piece) async for piece in growing.chunks(5, 9)]) == content[5:9]
    await growing.close()
    await another.close()


def test_14_a_file_that_another_machine_removes_keeps_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS opens it from its cache, and only then finds that it is gone."""
    places = Places(tmp_path, new_id(), 7)
    places.partial.parent.mkdir(parents=True, exist_ok=True)
    places.partial.write_bytes(b"!BDN")
    opened: list[int] = []

    def stale(descriptor: int) -> os.stat_result:
        opened.append(descriptor)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", stale)
        with pytest.raises(StoreUnavailable):
            opened_published(places, 4)
    (descriptor,) = opened
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


async def read(store: Published, job: str, size: int) -> bytes:
    """The published bytes of the job under fence 7."""
    file = await store.open_published(job, 7, size)
    assert file is not None
    content = b"".join([bytes(piece) async for piece in file.chunks(0, size)])
    await file.close()
    return content


async def test_14_only_a_file_that_is_written_here_has_followers(artifacts: ArtifactStore) -> None:
    store = cast("Followable", artifacts)
    job = new_id()
    assert store.tail(job) is None
    partial = await artifacts.create(job, 7)
    assert store.tail(job) is None
    assert store.tail(job, 6) is None
    assert store.tail(job, 7) is not None
    await partial.write(CONTENT)
    await partial.keep()
    assert store.tail(job, 7) is None
    again = await artifacts.resume(job, 7)
    assert again is not None
    tail = tail_of(artifacts, job, 7)
    await again.commit(len(CONTENT), note)
    assert store.tail(job, 7) is None
    assert await followed(tail) == CONTENT


async def test_14_the_writer_does_not_wait_for_a_hundred_followers(
    artifacts: ArtifactStore,
) -> None:
    """§14: those that read nothing, and those that left."""
    job = new_id()
    partial = await artifacts.create(job)
    tails = [tail_of(artifacts, job) for _ in range(100)]
    reading = [asyncio.ensure_future(tail.read(0)) for tail in tails]
    await asyncio.sleep(0)
    for each in reading[::2]:
        each.cancel()
    async with asyncio.timeout(20):
        await write(partial, CONTENT, random.Random(2))
        await partial.commit(len(CONTENT), note)
    done = await asyncio.gather(*reading, return_exceptions=True)
    assert [type(each) for each in done[::2]] == [asyncio.CancelledError] * 50
    for piece in done[1::2]:
        assert isinstance(piece, bytes)
        assert CONTENT.startswith(piece)
    for tail in tails:
        await tail.close()

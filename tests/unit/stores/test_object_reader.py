"""In which pieces an artifact is read from a bucket (`proxy.stores.object_artifacts.reader`)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from proxy.stores.object_artifacts import partial as partial_
from proxy.stores.object_artifacts import reader
from proxy.stores.object_artifacts.bucket import Bucket
from proxy.stores.object_artifacts.layout import Place
from proxy.stores.object_artifacts.location import Location
from proxy.stores.object_artifacts.reader import ObjectReader
from proxy.stores.object_artifacts.store import ObjectArtifacts
from tests.support.artifacts import committed, new_id

CONTENT = os.urandom(7 << 20) + b"end"
KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
async def store(s3: str) -> AsyncIterator[ObjectArtifacts]:
    opened = await ObjectArtifacts.at(Location.parse(s3.format(prefix=new_id())))
    yield opened
    await opened.close()


@pytest.fixture
async def file(
    store: ObjectArtifacts, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ObjectReader]:
    monkeypatch.setattr(partial_, "SEGMENT", 3 * MIB)
    found = await store.open(await committed(store, CONTENT))
    assert found is not None
    yield found
    await found.close()


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each request for a part of an object."""
    sizes: list[int] = []
    original = Bucket.read_range

    async def read_range(bucket: Bucket, key: str, start: int, stop: int) -> memoryview:
        sizes.append(stop - start)
        return await original(bucket, key, start, stop)

    monkeypatch.setattr(Bucket, "read_range", read_range)
    return sizes


async def test_a_fast_reader_gets_large_pieces_of_each_segment(
    store: ObjectArtifacts, file: ObjectReader, requests: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_FAST", 0)
    content = b"".join([bytes(piece) async for piece in file.chunks(0, len(CONTENT))])
    assert content == CONTENT
    assert requests == [256 * KIB, 2 * MIB, 768 * KIB, 2 * MIB, MIB, MIB + 3]
    assert store.large_pieces.taken == 0


async def test_a_slow_reader_gets_small_pieces(
    file: ObjectReader, requests: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """§6: whoever stalls keeps one in memory."""
    monkeypatch.setattr(reader, "_FAST", 1 << 62)
    sizes = [len(piece) async for piece in file.chunks(0, MIB)]
    assert sizes == requests == [256 * KIB] * 4


async def test_large_pieces_are_for_few_readers_at_a_time(
    store: ObjectArtifacts, file: ObjectReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_FAST", 0)
    stalled = [file.chunks(0, len(CONTENT)) for _ in range(store.large_pieces.limit)]
    for pieces in stalled:
        for _ in range(2):
            await anext(pieces)
    assert store.large_pieces.taken == store.large_pieces.limit
    assert {len(piece) async for piece in file.chunks(0, MIB)} == {256 * KIB}
    for pieces in stalled:
        await pieces.aclose()
    assert store.large_pieces.taken == 0


@pytest.mark.parametrize(
    ("start", "stop"),
    [(3 * MIB - 1, 3 * MIB + 1), (6 * MIB, 6 * MIB + 1), (0, 0), (7 * MIB + 2, 7 * MIB + 3)],
)
async def test_a_range_may_cross_segments(file: ObjectReader, start: int, stop: int) -> None:
    assert b"".join([piece async for piece in file.chunks(start, stop)]) == CONTENT[start:stop]


async def test_14_a_segment_of_a_growing_file_is_found_without_a_list_of_all(
    store: ObjectArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each follower needs one for each segment; of 400 GiB, a list took 200 ms of the loop."""
    monkeypatch.setattr(partial_, "SEGMENT", MIB)
    job = new_id()
    partial = await store.create(job)
    await partial.write(CONTENT[: 2 * MIB + 5])
    await partial.keep()
    file = await store.resume(job)
    tail = store.tail(job)
    assert file is not None
    assert tail is not None
    await file.write(CONTENT[file.offset :])
    await file._settled()

    def listed(place: Place, runs: object) -> None:
        raise AssertionError("all segments are listed")

    with monkeypatch.context() as unlisted:
        unlisted.setattr(Place, "listed", listed)
        read = b""
        while len(read) < len(CONTENT):
            read += await tail.read(len(read))
        assert read == CONTENT
        assert await file.read(5, len(CONTENT)) == CONTENT[5:]
        assert await file.read(MIB, MIB + 1) == CONTENT[MIB : MIB + 1]
    await tail.close()
    await file.discard()

"""A download in flight survives the removal by another replica (CONTRACT §6)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from proxy.ports import StoreUnavailable
from proxy.stores.object_artifacts import partial, sharing
from proxy.stores.object_artifacts.layout import Place
from proxy.stores.object_artifacts.location import Location
from proxy.stores.object_artifacts.store import ObjectArtifacts
from tests.support.artifacts import new_id, note

CONTENT = os.urandom(3 << 20)
Open = Callable[[], Awaitable[ObjectArtifacts]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small segments, so that most of them are read late, and short times."""
    monkeypatch.setattr(partial, "SEGMENT", 256 << 10)
    monkeypatch.setattr(sharing, "TICK", 0.05)
    monkeypatch.setattr(sharing, "GRACE", 1.0)
    monkeypatch.setattr(sharing, "_RENEWED", 0.3)
    monkeypatch.setattr(sharing, "_DEAD", 3.0)


@pytest.fixture
async def open_store(s3: str) -> AsyncIterator[Open]:
    url, stores = s3.format(prefix=new_id()), []

    async def opened() -> ObjectArtifacts:
        stores.append(await ObjectArtifacts.at(Location.parse(url)))
        return stores[-1]

    yield opened
    for store in stores:
        await store.close()


async def stored(store: ObjectArtifacts, job: str) -> None:
    growing = await store.create(job, 1)
    await growing.write(CONTENT)
    await growing.commit(len(CONTENT), note)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110  # the other store gives no event
            await asyncio.sleep(0.05)


async def nothing_left(store: ObjectArtifacts, job: str) -> None:
    async def gone() -> bool:
        return not await store.bucket.sizes(Place(job).job)

    await until(gone)


async def test_a_download_finishes_although_another_replica_removes_the_file(
    open_store: Open,
) -> None:
    one, two, three = await open_store(), await open_store(), await open_store()
    job = new_id()
    await stored(one, job)
    reader = await one.open(job, 1)
    assert reader is not None
    pieces = reader.chunks(0, len(CONTENT))
    content = await anext(pieces)
    await two.remove(job)
    assert await one.get(job, 1) is None
    assert await one.open(job, 1) is None
    assert job not in await two.ids()
    await three.remove(job)  # its sweeper finds segments without an artifact
    await asyncio.sleep(6)  # longer than the grace, and than a mark that is not renewed counts
    content += b"".join([piece async for piece in pieces])
    assert content == CONTENT
    await reader.close()
    await nothing_left(two, job)


async def test_a_replica_that_died_while_it_read_is_not_waited_for(open_store: Open) -> None:
    one, two = await open_store(), await open_store()
    job = new_id()
    await stored(one, job)
    assert await one.open(job, 1) is not None

    async def marked() -> bool:
        return bool(await two.bucket.sizes(f"{Place(job).job}/reading"))

    await until(marked)
    await one.close()
    await two.remove(job)
    await nothing_left(two, job)


async def test_what_a_replica_did_not_finish_removing_is_found_by_another(
    open_store: Open,
) -> None:
    one, two = await open_store(), await open_store()
    job = new_id()
    await stored(one, job)
    await one.remove(job)
    await one.close()
    with pytest.raises(StoreUnavailable):
        await one.ids()
    assert await two.ids() == {job}
    await two.remove(job)
    await nothing_left(two, job)
    assert await two.ids() == set()

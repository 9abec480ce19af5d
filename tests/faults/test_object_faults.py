"""An object store that fails, is slow or loses its writer: nothing is lost, short or foreign."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from typing import TypeVar
from uuid import uuid4

import pytest
from aiohttp import web

from proxy.ports import (
    ArtifactStore,
    Partial,
    PartialLost,
    StorageFull,
    StorageRefused,
    StoreUnavailable,
)
from proxy.stores.object_artifacts import partial as partial_
from proxy.stores.object_artifacts.bucket import Bucket
from proxy.stores.object_artifacts.layout import Place
from proxy.stores.object_artifacts.location import Location
from proxy.stores.object_artifacts.partial import ObjectPartial
from proxy.stores.object_artifacts.store import ObjectArtifacts
from tests.faults.object_child import PATTERN
from tests.support.artifacts import new_id, note
from tests.support.log_lines import check_documented, logged
from tests.support.object_relay import Cut, relay
from tests.support.process import ROOT

T = TypeVar("T")
CONTENT = os.urandom(3 << 20) + b"end"


@pytest.fixture(autouse=True)
def several_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_, "SEGMENT", 256 << 10)


async def opened(s3_endpoint: str, prefix: str) -> ObjectArtifacts:
    url = f"s3://tests/{prefix}?endpoint={s3_endpoint}&allow_http=true"
    return await until(lambda: ObjectArtifacts.at(Location.parse(url)))


@pytest.fixture
async def store(s3_endpoint: str) -> AsyncIterator[ObjectArtifacts]:
    made = await opened(s3_endpoint, str(uuid4()))
    yield made
    await made.close()


async def until(call: Callable[[], Awaitable[T]]) -> T:
    """What the call returns when it is repeated after `StoreUnavailable`, as the runner does."""
    for _ in range(30):
        with suppress(StoreUnavailable):
            return await call()
    return await call()


async def pour(partial: Partial, data: bytes) -> None:
    for at in range(0, len(data), 100_000):
        await until(partial_write(partial, data[at : at + 100_000]))


def partial_write(partial: Partial, chunk: bytes) -> Callable[[], Awaitable[None]]:
    return lambda: partial.write(chunk)


async def content(store: ArtifactStore, id: str, fence: int = 0) -> bytes:
    reader = await until(lambda: store.open(id, fence))
    assert reader is not None
    found = bytearray()
    while len(found) < reader.artifact.size:
        with suppress(StoreUnavailable):
            async for piece in reader.chunks(len(found), reader.artifact.size):
                found += piece
    await reader.close()
    return bytes(found)


async def test_one_request_in_twenty_fails_and_all_are_slow(s3_endpoint: str) -> None:
    """§18. Some before the store has them, some after: a repeated request changes nothing."""
    chance = random.Random(11)
    failures = 0

    async def before(request: web.BaseRequest) -> web.Response | None:
        nonlocal failures
        await asyncio.sleep(chance.random() / 50)
        dice = chance.random()
        failures += dice < 0.05
        if dice < 0.02:
            raise Cut
        if dice < 0.05:
            return web.Response(status=chance.choice([500, 503]))
        return None

    async def after(request: web.BaseRequest) -> None:
        nonlocal failures
        if chance.random() < 0.03:
            failures += 1
            raise Cut

    async with relay(s3_endpoint, before, after) as url:
        store = await opened(url, str(uuid4()))

        async def one(number: int) -> None:
            job = new_id()
            data = bytes([number]) * 200 + CONTENT
            begun = await until(lambda: store.create(job))
            await pour(begun, data[:1_000_000])
            with suppress(StoreUnavailable):
                await begun.keep()
            partial = await until(lambda: store.resume(job))
            assert partial is not None
            await pour(partial, data[partial.offset :])
            artifact = await until(lambda: partial.commit(len(data), note))
            assert artifact.sha256 == hashlib.sha256(data).digest()
            assert await content(store, job) == data

        async with asyncio.timeout(100):
            await asyncio.gather(*(one(number) for number in range(4)))
        assert failures > 5
        await store.close()


async def test_an_outage_of_the_store_is_reported_and_the_transfer_continues_after_it(
    s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§18: the object store away is as a full disk, but resumable."""
    away = False

    async def before(request: web.BaseRequest) -> web.Response | None:
        if away:
            raise Cut
        return None

    async with relay(s3_endpoint, before) as url:
        store = await opened(url, str(uuid4()))
        job = new_id()
        partial = await store.create(job)
        await partial.write(CONTENT[:1_000_000])
        away = True
        at, cause = 1_000_000, None
        with logged() as log:
            while cause is None:
                try:
                    await partial.write(CONTENT[at : at + 100_000])
                    at += 100_000
                except StoreUnavailable as why:
                    cause = str(why)
        (down,) = log.named("store.down")
        assert (down["store"], down["cause"]) == ("artifacts", cause)
        assert cause.startswith(store.location())
        assert partial.offset == at
        assert at <= 1_000_000 + (partial_.UPLOADS + 1) * (256 << 10) + 100_000
        with logged() as log:
            with pytest.raises(StoreUnavailable):
                await store.get(job)
            away = False
            await until(lambda: partial.write(CONTENT[at:]))
            assert await store.get(job) is None
        check_documented(log.entries)
        assert log.named("store.up")[-1]["store"] == "artifacts"
        artifact = await until(lambda: partial.commit(len(CONTENT), note))
        assert artifact.sha256 == hashlib.sha256(CONTENT).digest()
        assert await content(store, job) == CONTENT
        await store.close()


async def test_a_full_bucket_is_a_full_disk(s3_endpoint: str) -> None:
    async def before(request: web.BaseRequest) -> web.Response | None:
        if request.method == "PUT" and "-" in request.path.rpartition("/")[2]:
            return web.Response(status=403, text="<Error><Code>QuotaExceeded</Code></Error>")
        return None

    async with relay(s3_endpoint, before) as url:
        store = await opened(url, str(uuid4()))
        job = new_id()
        partial = await store.create(job)
        await partial.write(b"x")
        with pytest.raises(StorageFull, match="is full"):
            await partial.commit(1, note)
        with pytest.raises(StorageFull):
            await partial.write(b"x")
        await partial.discard()
        assert await store.ids() == set()
        await store.close()


async def test_new_credentials_are_waited_for_and_a_refused_object_is_not(s3_endpoint: str) -> None:
    """A key that is replaced costs no export; an object that is refused for ever ends it."""
    refusal = "403 AccessDenied"

    async def before(request: web.BaseRequest) -> web.Response | None:
        if request.method == "PUT" and refusal:
            status, code = refusal.split()
            return web.Response(status=int(status), text=f"<Error><Code>{code}</Code></Error>")
        return None

    async with relay(s3_endpoint, before) as url:
        store = await opened(url, str(uuid4()))
        job = new_id()
        with pytest.raises(StoreUnavailable, match=r"403 AccessDenied.*check the credentials"):
            await store.create(job)
        refusal = ""
        partial = await store.create(job)
        await partial.write(b"x")
        refusal = "403 AccessDenied"
        with pytest.raises(StoreUnavailable, match="check the credentials"):
            await partial.commit(1, note)
        refusal = "413 EntityTooLarge"
        with pytest.raises(StorageRefused, match=r"refused an object .*413 EntityTooLarge"):
            await partial.commit(1, note)
        with pytest.raises(StorageRefused):
            await partial.write(b"x")
        refusal = ""
        await partial.discard()
        assert await store.ids() == set()
        await store.close()


async def test_a_segment_that_disappears_breaks_the_download(store: ObjectArtifacts) -> None:
    """§6: visibly, never as a short success. Another replica has removed the artifact."""
    job = new_id()
    partial = await store.create(job)
    await partial.write(CONTENT)
    await partial.commit(len(CONTENT), note)
    reader = await store.open(job)
    assert reader is not None
    pieces = reader.chunks(0, len(CONTENT))
    await anext(pieces)
    await store.bucket.remove(await store.bucket.sizes(Place(job).job))
    with pytest.raises(StoreUnavailable):
        async for _ in pieces:
            pass
    await reader.close()


async def test_a_segment_that_disappears_prevents_the_commit(store: ObjectArtifacts) -> None:
    """§10: a body shorter than it should be is never Success."""
    job = new_id()
    partial = await store.create(job)
    await partial.write(CONTENT)
    await partial.read(0, 1)
    some = sorted(await store.bucket.sizes(f"{Place(job).job}/0"))[3:4]
    assert len(some) == 1
    await store.bucket.remove(some)
    with pytest.raises(PartialLost):
        await partial.commit(len(CONTENT), note)
    assert await store.get(job) is None
    await partial.discard()


@asynccontextmanager
async def committed_in_doubt(
    s3_endpoint: str, job: str
) -> AsyncIterator[tuple[ObjectArtifacts, Partial]]:
    """A store, and a partial file whose artifact was stored without a response. Another replica has
    started since then, and removed what it found beside the artifact.
    """
    prefix, in_doubt = str(uuid4()), True

    async def after(request: web.BaseRequest) -> None:
        if in_doubt and request.method == "PUT" and request.path.endswith(".json"):
            raise Cut

    async with relay(s3_endpoint, after=after) as url:
        store = await opened(url, prefix)
        partial = await store.create(job)
        await pour(partial, CONTENT)
        with pytest.raises(StoreUnavailable):
            await partial.commit(len(CONTENT), note)
        other = await opened(s3_endpoint, prefix)
        assert Place(job).head not in await other.bucket.sizes(Place(job).job)
        in_doubt = False
        yield store, partial
        await store.close()
        await other.close()


async def test_a_commit_whose_response_was_lost_is_repeated(s3_endpoint: str) -> None:
    """§18: a failure of the store is not the outcome of a job."""
    job = new_id()
    async with committed_in_doubt(s3_endpoint, job) as (store, partial):
        artifact = await partial.commit(len(CONTENT), note)
        assert artifact.sha256 == hashlib.sha256(CONTENT).digest()
        assert await content(store, job) == CONTENT


async def test_a_commit_whose_response_was_lost_is_discarded_whole(s3_endpoint: str) -> None:
    """An artifact without its segments would be a file that cannot be read."""
    job = new_id()
    async with committed_in_doubt(s3_endpoint, job) as (store, partial):
        await partial.discard()
        assert not await store.bucket.sizes(Place(job).job)


@pytest.mark.parametrize("begins", ["create", "resume"])
async def test_a_file_whose_opening_arrives_late_is_not_replaced(
    s3_endpoint: str, begins: str
) -> None:
    """§18: the store was too slow to begin the file, which was begun again. Then it did so."""
    job, prefix, late = new_id(), str(uuid4()), list[bytes]()
    slow = False

    async def before(request: web.BaseRequest) -> None:
        if slow and request.method == "PUT" and request.path.endswith(".partial"):
            late.append(await request.read())
            raise Cut

    async with relay(s3_endpoint, before=before) as url:
        store = await opened(url, prefix)
        if begins == "resume":
            kept = await store.create(job)
            await pour(kept, CONTENT[:1_000_000])
            await kept.keep()
        slow = True
        with pytest.raises(StoreUnavailable):
            await getattr(store, begins)(job)
        slow = False
        partial: Partial = await getattr(store, begins)(job)
        await pour(partial, CONTENT[partial.offset :])
        await store.bucket.store(Place(job).head, late[-1])
        artifact = await partial.commit(len(CONTENT), note)
        assert artifact.sha256 == hashlib.sha256(CONTENT).digest()
        await store.bucket.store(Place(job).head, late[-1])
        other = await opened(s3_endpoint, prefix)
        assert Place(job).head not in await other.bucket.sizes(Place(job).job)
        assert await content(other, job) == CONTENT
        await store.close()
        await other.close()


async def test_a_gap_ends_what_is_resumed(store: ObjectArtifacts) -> None:
    job = new_id()
    partial = await store.create(job)
    await partial.write(CONTENT)
    await partial.keep()
    await store.bucket.remove(sorted(await store.bucket.sizes(f"{Place(job).job}/0"))[3:4])
    resumed = await store.resume(job)
    assert resumed is not None
    assert resumed.offset == 3 * (256 << 10)
    await resumed.write(CONTENT[resumed.offset :])
    artifact = await resumed.commit(len(CONTENT), note)
    assert artifact.sha256 == hashlib.sha256(CONTENT).digest()
    assert await content(store, job) == CONTENT
    assert await store.used() == len(CONTENT)
    sizes = await store.bucket.sizes(f"{Place(job).job}/0")
    assert sum(sizes.values()) == len(CONTENT)


@pytest.mark.parametrize("resumed_before", [False, True])
async def test_a_segment_that_is_listed_and_gone_ends_what_is_resumed(
    store: ObjectArtifacts, monkeypatch: pytest.MonkeyPatch, *, resumed_before: bool
) -> None:
    """§10: a store may list what was removed. The export does not wait for it without end."""
    job = new_id()
    partial: Partial | None = await store.create(job)
    assert partial is not None
    if resumed_before:
        await partial.write(CONTENT[:300_000])
        await partial.keep()
        partial = await store.resume(job)
        assert partial is not None
    await partial.write(CONTENT[partial.offset :])
    await partial.keep()
    keys = sorted(await store.bucket.sizes(f"{Place(job).job}/0"))
    listed = await store.bucket.sizes(Place(job).job)
    await store.bucket.remove(keys[3:4])

    async def stale(bucket: Bucket, prefix: str) -> dict[str, int]:
        return listed

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "sizes", stale)
        resumed = await store.resume(job)
    assert resumed is not None
    assert resumed.offset == sum(listed[key] for key in keys[:3])
    await resumed.write(CONTENT[resumed.offset :])
    artifact = await resumed.commit(len(CONTENT), note)
    assert artifact.sha256 == hashlib.sha256(CONTENT).digest()
    assert await content(store, job) == CONTENT
    sizes = await store.bucket.sizes(f"{Place(job).job}/0")
    assert sum(sizes.values()) == len(CONTENT)


async def committed_twice(store: ObjectArtifacts, job: str) -> tuple[Partial, set[str]]:
    """A writer that lost its claim, and the objects of the artifact of its successor."""
    old = await store.create(job, 1)
    await old.write(CONTENT[:1_000_000])
    await old.read(0, 1)
    new = await store.create(job, 2)
    await new.write(CONTENT)
    await new.commit(len(CONTENT), note)
    return old, set(await store.bucket.sizes(Place(job).job))


async def test_a_writer_that_wakes_up_removes_what_it_stores_late(store: ObjectArtifacts) -> None:
    job = new_id()
    old, objects = await committed_twice(store, job)
    await old.write(CONTENT)
    await old.keep()
    assert old.offset == 0
    assert set(await store.bucket.sizes(Place(job).job)) == objects


async def test_remains_of_a_dead_writer_are_removed_by_the_next_start(
    s3_endpoint: str, store: ObjectArtifacts
) -> None:
    """A request of a killed process may reach the store after its successor's commit."""
    job = new_id()
    _, objects = await committed_twice(store, job)
    late = Place(job, 1).segment(7, "0123456789abcdef")
    await store.bucket.store(late, b"late")
    prefix = store.location().partition("tests/")[2].partition(" ")[0]
    other = await opened(s3_endpoint, prefix)
    assert await other.ids() == {job}
    assert await other.used() == len(CONTENT)
    assert set(await store.bucket.sizes(Place(job).job)) == objects
    assert await content(other, job, 2) == CONTENT
    await other.close()


@pytest.mark.parametrize("whole", [False, True], ids=["written", "resumed when it was whole"])
async def test_remains_that_could_not_be_removed_are_removed_later(
    store: ObjectArtifacts, monkeypatch: pytest.MonkeyPatch, *, whole: bool
) -> None:
    job = new_id()
    partial: Partial | None = await store.create(job)
    assert partial is not None
    await partial.write(CONTENT)
    if whole:
        await partial.keep()
        partial = await store.resume(job)
        assert partial is not None
    remove = Bucket.remove

    async def fail(bucket: Bucket, keys: Collection[str]) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(Bucket, "remove", fail)
    await partial.commit(len(CONTENT), note)
    assert Place(job).head in await store.bucket.sizes(Place(job).job)
    monkeypatch.setattr(Bucket, "remove", remove)
    assert await store.ids() == {job}
    assert Place(job).head not in await store.bucket.sizes(Place(job).job)
    assert await store.used() == len(CONTENT)
    assert await content(store, job) == CONTENT


async def test_a_file_that_is_written_again_is_no_remains(
    s3_endpoint: str, store: ObjectArtifacts
) -> None:
    job = new_id()
    partial = await store.create(job)
    await partial.write(CONTENT)
    await partial.commit(len(CONTENT), note)
    again = await store.create(job)
    await again.write(b"again")
    await again.keep()
    prefix = store.location().partition("tests/")[2].partition(" ")[0]
    other = await opened(s3_endpoint, prefix)
    resumed = await other.resume(job)
    assert resumed is not None
    assert await resumed.read(0, resumed.offset) == b"again"
    await resumed.keep()
    await other.close()


@pytest.mark.parametrize("then", ["remove", "create"])
async def test_a_file_that_cannot_be_discarded_is_counted_until_it_is_removed(
    store: ObjectArtifacts, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """§15 storage.max_bytes: once, by the sweeper or by the next attempt, and no longer."""
    job = new_id()
    partial = await store.create(job)
    await partial.write(CONTENT)
    await partial.read(0, 1)

    async def fail(bucket: Bucket, keys: Collection[str]) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "remove", fail)
        with pytest.raises(StoreUnavailable):
            await partial.discard()
    assert await store.ids() == {job}
    assert await store.used() == sum((await store.bucket.sizes(f"{Place(job).job}/0")).values()) > 0
    if then == "remove":
        await store.remove(job)
        assert await store.ids() == set()
    else:
        again = await store.create(job)
        await again.write(b"12")
        assert await store.used() == 2
        await again.discard()
    assert await store.used() == 0
    assert not await store.bucket.sizes(Place(job).job)


async def test_a_file_that_is_kept_without_memory_can_be_resumed(
    store: ObjectArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§10: nobody writes it any more, whatever could not be stored."""
    job = new_id()
    partial = await store.create(job)
    await partial.write(b"12345")

    def fail(*args: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(ObjectPartial, "_begin", fail)
        with pytest.raises(MemoryError):
            await partial.keep()
    resumed = await store.resume(job)
    assert resumed is not None
    assert resumed.offset == 0
    await resumed.discard()
    assert await store.used() == 0


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"size": 1}', b"\xff"])
async def test_a_damaged_artifact_is_unavailable(store: ObjectArtifacts, text: bytes) -> None:
    job = new_id()
    await store.bucket.store(Place(job).commit, text)
    for ask in (store.get, store.open, store.record_copy):
        with pytest.raises(StoreUnavailable, match="damaged"):
            await ask(job)


async def test_a_killed_writer_leaves_what_it_stored(s3_endpoint: str) -> None:
    """Whole segments, and no multipart upload. The next writer continues the file, also under a
    greater fence.
    """
    for fence in (0, 5):
        prefix, job = str(uuid4()), new_id()
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.object_child", s3_endpoint, prefix, job),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdout is not None
        async with asyncio.timeout(60):
            while int(await child.stdout.readline()) < 64 << 20:
                pass
        child.send_signal(signal.SIGKILL)
        await child.wait()
        store = await opened(s3_endpoint, prefix)
        resumed = await store.resume(job, fence)
        assert resumed is not None
        assert resumed.offset >= 8 << 20
        data = await resumed.read(0, resumed.offset)
        expected = PATTERN * (len(data) // len(PATTERN) + 1)
        assert data == expected[: len(data)]
        await resumed.write(b"end")
        artifact = await resumed.commit(len(data) + 3, note)
        assert artifact.sha256 == hashlib.sha256(data + b"end").digest()
        assert await store.used() == len(data) + 3
        left = await store.bucket.sizes(Place(job, fence).segments)
        assert sum(left.values()) == len(data) + 3
        await store.close()

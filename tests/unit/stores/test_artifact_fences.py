"""Every `ArtifactStore` keeps a writer that lost its claim away from the file (CONTRACT §18)."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Awaitable
from contextlib import suppress
from itertools import product

import pytest

from proxy.ports import Artifact, ArtifactStore, Partial, PartialLost, StoreUnavailable
from tests.support.artifacts import new_id, note
from tests.unit.stores.conftest import OpenArtifacts
from tests.unit.stores.shared_jobs import eventually
from tests.unit.stores.test_artifacts import CONTENT, assert_nothing, repeated

HALF = len(CONTENT) // 2
#: What the writer that lost its claim may do at any moment.
STEPS = ("nothing", "write", "keep", "discard", "commit")


async def begun(store: ArtifactStore, job: str, fence: int, content: bytes) -> Partial:
    """A partial file whose bytes are all stored, and whose writer goes on writing."""
    partial = await store.create(job, fence)
    await partial.write(content)
    await partial.keep()
    resumed = await store.resume(job, fence)
    assert resumed is not None
    return resumed


async def lost(step: str, old: Partial) -> None:
    """The step, taken by a writer that does not know that it lost its claim."""
    calls: dict[str, Awaitable[object]] = {}
    if step == "write":
        calls[step] = old.write(b"foreign" * 300_000)
    elif step == "commit":
        calls[step] = old.commit(old.offset, lambda artifact: b"foreign")
    elif step != "nothing":
        calls[step] = getattr(old, step)()
    for call in calls.values():
        with suppress(PartialLost, StoreUnavailable):
            await call


async def content_of(store: ArtifactStore, job: str, fence: int) -> bytes:
    reader = await store.open(job, fence)
    assert reader is not None
    content = b"".join([piece async for piece in reader.chunks(0, reader.artifact.size)])
    await reader.close()
    return content


async def assert_committed(
    store: ArtifactStore, job: str, fence: int, artifact: Artifact, content: bytes
) -> None:
    assert (artifact.size, artifact.sha256) == (len(content), hashlib.sha256(content).digest())
    assert await store.get(job, fence) == artifact
    assert await store.record_copy(job, fence) == note(artifact)
    assert await content_of(store, job, fence) == content


@pytest.mark.parametrize(("before", "after"), list(product(STEPS, STEPS)))
async def test_a_writer_with_a_lower_fence_changes_nothing(
    artifacts: ArtifactStore, replica: ArtifactStore, before: str, after: str
) -> None:
    job = new_id()
    old = await begun(artifacts, job, 3, CONTENT[:HALF])
    new = await replica.resume(job, 4)
    assert new is not None
    assert new.offset == HALF
    assert await replica.get(job, 4) is None
    await lost(before, old)
    await new.write(CONTENT[HALF:])
    assert await new.read(HALF - 5, HALF + 5) == CONTENT[HALF - 5 : HALF + 5]
    await lost(after, old)
    artifact = await repeated(lambda: new.commit(len(CONTENT), note))
    await lost("write", old)
    await lost("commit", old)
    for store in (artifacts, replica):
        await assert_committed(store, job, 4, artifact, CONTENT)
    await lost("discard", old)
    await assert_committed(artifacts, job, 4, artifact, CONTENT)
    await replica.remove(job)
    await assert_nothing(replica, job)


@pytest.mark.parametrize("end", ["keep", "discard"])
async def test_a_late_writer_leaves_nothing_beside_the_committed_file(
    artifacts: ArtifactStore, replica: ArtifactStore, open_artifacts: OpenArtifacts, end: str
) -> None:
    job = new_id()
    old = await begun(artifacts, job, 3, CONTENT[:HALF])
    new = await replica.resume(job, 4)
    assert new is not None
    await new.write(CONTENT[HALF:])
    await repeated(lambda: new.commit(len(CONTENT), note))
    await lost("write", old)
    await lost(end, old)
    started_later = await open_artifacts()
    for store in (artifacts, replica, started_later):
        assert await store.ids() == {job}
        assert await store.used() == len(CONTENT)
    assert await content_of(started_later, job, 4) == CONTENT
    await started_later.close()


@pytest.mark.parametrize("end", ["keep", "discard", "commit"])
async def test_a_late_writer_that_begins_the_file_again_leaves_nothing(
    artifacts: ArtifactStore, replica: ArtifactStore, open_artifacts: OpenArtifacts, end: str
) -> None:
    job = new_id()
    new = await begun(replica, job, 4, CONTENT)
    await repeated(lambda: new.commit(len(CONTENT), note))
    stale = await artifacts.create(job, 3)
    await stale.write(b"foreign" * 300_000)
    if end == "commit":
        with pytest.raises(PartialLost):
            await stale.commit(2_100_000, note)
        await stale.discard()
    else:
        await getattr(stale, end)()
    started_later = await open_artifacts()
    assert await started_later.used() == len(CONTENT)
    assert await content_of(started_later, job, 4) == CONTENT
    await started_later.close()


@pytest.mark.parametrize("step", STEPS)
async def test_a_file_that_begins_under_a_greater_fence_has_no_earlier_byte(
    artifacts: ArtifactStore, replica: ArtifactStore, step: str
) -> None:
    job = new_id()
    old = await begun(artifacts, job, 1, b"old")
    new = await replica.create(job, 2)
    assert new.offset == 0
    await lost(step, old)
    await new.write(b"new")
    await new.keep()
    resumed = await replica.resume(job, 2)
    assert resumed is not None
    artifact = await resumed.commit(3, note)
    await assert_committed(artifacts, job, 2, artifact, b"new")


async def test_an_old_claim_that_opens_the_file_late_takes_nothing_away(
    artifacts: ArtifactStore, replica: ArtifactStore
) -> None:
    job = new_id()
    new = await begun(replica, job, 7, CONTENT[:HALF])
    assert await artifacts.resume(job, 6) is None
    stale = await artifacts.create(job, 6)
    await stale.write(b"foreign")
    await stale.commit(7, note)
    await new.write(CONTENT[HALF:])
    await new.keep()
    resumed = await replica.resume(job, 7)
    assert resumed is not None
    artifact = await resumed.commit(len(CONTENT), note)
    await assert_committed(artifacts, job, 7, artifact, CONTENT)


async def test_the_highest_lower_fence_is_taken_over(artifacts: ArtifactStore) -> None:
    job = new_id()
    for fence, content in ((12, b"twelve"), (9, b"nine"), (2, b"two")):
        partial = await artifacts.create(job, fence)
        await partial.write(content)
        await partial.keep()
    taken = await artifacts.resume(job, 100)
    assert taken is not None
    assert await taken.read(0, taken.offset) == b"twelve"
    assert await artifacts.resume(job, 99) is None


async def test_a_job_is_taken_over_again_and_again(
    artifacts: ArtifactStore, replica: ArtifactStore
) -> None:
    """By replicas in turn, each of which writes a little and dies."""
    job, step = new_id(), 300_001

    async def both_use(size: int) -> bool:
        assert await artifacts.ids() == await replica.ids() == {job}
        return await artifacts.used() == await replica.used() == size

    partial: Partial | None = await artifacts.create(job)
    for fence, start in enumerate(range(0, len(CONTENT), step), start=1):
        assert partial is not None
        assert partial.offset == start
        await partial.write(CONTENT[start : start + step])
        await partial.keep()
        # a store looks at what others write only so often
        await eventually(functools.partial(both_use, partial.offset))
        partial = await (artifacts, replica)[fence % 2].resume(job, fence)
    assert partial is not None
    artifact = await partial.commit(len(CONTENT), note)
    await assert_committed(artifacts, job, fence, artifact, CONTENT)
    await eventually(functools.partial(both_use, len(CONTENT)))


async def test_a_file_that_was_committed_but_not_recorded_is_taken_over(
    artifacts: ArtifactStore, replica: ArtifactStore
) -> None:
    """Its writer lost the claim between the commit and the record."""
    job = new_id()
    old = await begun(artifacts, job, 1, CONTENT)
    await old.commit(len(CONTENT), lambda artifact: b"old")
    new = await replica.resume(job, 2)
    assert new is not None
    assert new.offset == len(CONTENT)
    assert await replica.get(job, 2) is None
    artifact = await new.commit(len(CONTENT), note)
    await assert_committed(replica, job, 2, artifact, CONTENT)
    assert await replica.resume(job, 2) is None


async def test_a_committed_file_is_found_under_its_own_fence_only(
    artifacts: ArtifactStore, replica: ArtifactStore
) -> None:
    job = new_id()
    partial = await begun(artifacts, job, 5, b"12345")
    artifact = await partial.commit(5, note)
    for fence in (0, 4, 6):
        assert await replica.get(job, fence) is None
        assert await replica.open(job, fence) is None
        assert await replica.record_copy(job, fence) is None
    assert await replica.get(job, 5) == artifact


async def test_a_cancelled_take_over_loses_nothing(
    artifacts: ArtifactStore, replica: ArtifactStore
) -> None:
    job = new_id()
    old = await artifacts.create(job, 1)
    await old.write(CONTENT)
    await old.keep()
    fence = 2
    for turn in range(24):
        taking = asyncio.create_task(replica.resume(job, fence))
        for _ in range(turn % 6):
            await asyncio.sleep(0)
        taking.cancel()
        await asyncio.wait([taking])
        if not taking.cancelled():
            partial = taking.result()
            assert partial is not None
            await partial.keep()
        fence += turn % 2
    taken = await replica.resume(job, fence)
    assert taken is not None
    artifact = await taken.commit(len(CONTENT), note)
    await assert_committed(artifacts, job, fence, artifact, CONTENT)


async def test_remove_takes_the_files_of_all_fences(open_artifacts: OpenArtifacts) -> None:
    artifacts = await open_artifacts()
    job = new_id()
    for fence in (3, 2, 0):
        partial = await artifacts.create(job, fence)
        await partial.write(b"12345")
        await (partial.commit(5, note) if fence == 2 else partial.keep())
    await artifacts.ids()
    assert await artifacts.used() > 5
    await artifacts.remove(job)
    assert await artifacts.used() == 0
    await assert_nothing(artifacts, job)
    assert await artifacts.resume(job, 9) is None
    await artifacts.close()


async def test_without_a_fence_the_record_copy_is_that_of_the_highest_one(
    open_artifacts: OpenArtifacts,
) -> None:
    """§9: where the record is lost, nobody knows which one counts."""
    store = await open_artifacts()
    job = new_id()
    for fence in (1, 2):
        partial = await store.create(job, fence)
        await partial.write(CONTENT)
        await partial.commit(len(CONTENT), lambda artifact, fence=fence: b"%d" % fence)  # type: ignore[misc]
    assert await store.record_copy(job, None) == b"2"
    assert await store.record_copy(new_id(), None) is None
    await store.close()

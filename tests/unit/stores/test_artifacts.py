"""Every `ArtifactStore` keeps what proxy/ports promises of it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import TypeVar

import pytest

from proxy.ports import (
    Artifact,
    ArtifactStore,
    LengthMismatch,
    Partial,
    PartialLost,
    StoreUnavailable,
)
from tests.support.artifacts import new_id, note
from tests.unit.stores.conftest import Fail

T = TypeVar("T")
CONTENT = os.urandom(3 << 20) + b"!BDN"


async def stored(artifacts: ArtifactStore, id: str, content: bytes = CONTENT) -> Artifact:
    partial = await artifacts.create(id)
    await partial.write(content)
    return await partial.commit(len(content), note)


async def repeated(call: Callable[[], Awaitable[T]]) -> T:
    """What the call returns when it is repeated after `StoreUnavailable`, as `Partial` allows."""
    for _ in range(3):
        try:
            return await call()
        except StoreUnavailable:
            continue
    return await call()


async def read(artifacts: ArtifactStore, id: str, start: int = 0, stop: int | None = None) -> bytes:
    reader = await artifacts.open(id)
    assert reader is not None
    end = reader.artifact.size if stop is None else stop
    content = b"".join([piece async for piece in reader.chunks(start, end)])
    await reader.close()
    return content


async def assert_nothing(artifacts: ArtifactStore, id: str) -> None:
    assert await artifacts.get(id) is None
    assert await artifacts.record_copy(id) is None
    assert await artifacts.open(id) is None
    assert await artifacts.resume(id) is None
    assert id not in await artifacts.ids()


async def assert_invisible(artifacts: ArtifactStore, id: str) -> None:
    assert await artifacts.get(id) is None
    assert await artifacts.record_copy(id) is None
    assert await artifacts.open(id) is None
    assert id in await artifacts.ids()


async def test_an_unknown_artifact_is_none(artifacts: ArtifactStore) -> None:
    await assert_nothing(artifacts, new_id())
    assert await artifacts.ids() == set()
    assert await artifacts.used() == 0


@pytest.mark.parametrize("content", [b"", b"x", CONTENT], ids=["empty", "one byte", "3 MiB"])
async def test_what_was_committed_can_be_read(artifacts: ArtifactStore, content: bytes) -> None:
    job = new_id()
    artifact = await stored(artifacts, job, content)
    assert (artifact.id, artifact.size, artifact.sha256) == (
        job,
        len(content),
        hashlib.sha256(content).digest(),
    )
    assert artifact.created > 1.7e9
    assert await artifacts.get(job) == artifact
    assert await artifacts.record_copy(job) == note(artifact)
    assert await read(artifacts, job) == content
    assert await artifacts.ids() == {job}


async def test_the_bytes_may_be_written_in_any_pieces(artifacts: ArtifactStore) -> None:
    random_ = random.Random(5)
    for _ in range(5):
        job, rest = new_id(), memoryview(CONTENT)
        partial = await artifacts.create(job)
        while rest:
            size = random_.choice([0, 1, 1000, 65_536, 1 << 20, 2_500_000])
            await partial.write(bytes(rest[:size]))
            rest = rest[size:]
            assert partial.offset == len(CONTENT) - len(rest)
        artifact = await partial.commit(len(CONTENT), note)
        assert artifact.sha256 == hashlib.sha256(CONTENT).digest()
        assert await read(artifacts, job) == CONTENT


async def test_any_range_can_be_read(artifacts: ArtifactStore) -> None:
    """§6: Accept-Ranges."""
    job, size = new_id(), len(CONTENT)
    await stored(artifacts, job)
    mib = 1 << 20
    for start, stop in (
        (0, 0),
        (0, 1),
        (size - 1, size),
        (size, size),
        (mib - 1, mib + 1),
        (5, 2 * mib + 7),
        (mib, size),
    ):
        assert await read(artifacts, job, start, stop) == CONTENT[start:stop]


async def test_a_file_has_several_readers_at_a_time(artifacts: ArtifactStore) -> None:
    job = new_id()
    await stored(artifacts, job)
    starts = range(0, len(CONTENT), 300_000)
    contents = await asyncio.gather(*(read(artifacts, job, start) for start in starts))
    assert contents == [CONTENT[start:] for start in starts]


async def test_a_read_past_the_end_fails_and_is_never_short(artifacts: ArtifactStore) -> None:
    job = new_id()
    await stored(artifacts, job, b"12345")
    with pytest.raises(StoreUnavailable):
        await read(artifacts, job, 0, 6)


async def test_nothing_is_visible_before_commit_returned(artifacts: ArtifactStore) -> None:
    job = new_id()
    partial = await artifacts.create(job)
    await assert_invisible(artifacts, job)
    await partial.write(CONTENT)
    await assert_invisible(artifacts, job)
    await partial.keep()
    await assert_invisible(artifacts, job)


@pytest.mark.parametrize("size", [0, len(CONTENT) - 1, len(CONTENT) + 1])
async def test_a_file_of_another_length_stays_uncommitted(
    artifacts: ArtifactStore, size: int
) -> None:
    """§10: a body shorter than it should be is never Success."""
    job = new_id()
    partial = await artifacts.create(job)
    await partial.write(CONTENT)
    with pytest.raises(LengthMismatch):
        await partial.commit(size, note)
    await assert_invisible(artifacts, job)
    await partial.keep()
    resumed = await artifacts.resume(job)
    assert resumed is not None
    artifact = await resumed.commit(len(CONTENT), note)
    assert artifact.sha256 == hashlib.sha256(CONTENT).digest()


async def test_a_record_copy_that_cannot_be_made_leaves_the_file_uncommitted(
    artifacts: ArtifactStore,
) -> None:
    job = new_id()
    partial = await artifacts.create(job)

    def broken(artifact: Artifact) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await partial.commit(0, broken)
    await assert_invisible(artifacts, job)
    await partial.discard()
    await assert_nothing(artifacts, job)


async def test_a_kept_file_resumes_where_it_stopped(artifacts: ArtifactStore) -> None:
    """§10: Range continues, the digest is over the final bytes."""
    job = new_id()
    cuts = [0, 1, 1_500_000, 1_500_000, 2_000_001, len(CONTENT)]
    partial: Partial | None = await artifacts.create(job)
    for start, stop in pairwise(cuts):
        assert partial is not None
        assert partial.offset == start
        await partial.write(CONTENT[start:stop])
        await partial.keep()
        assert await artifacts.used() == stop
        partial = await artifacts.resume(job)
    assert partial is not None
    artifact = await partial.commit(len(CONTENT), note)
    assert artifact.sha256 == hashlib.sha256(CONTENT).digest()
    assert await read(artifacts, job) == CONTENT
    assert await artifacts.resume(job) is None


async def test_create_begins_from_zero(artifacts: ArtifactStore) -> None:
    """§10: else from zero in a new attempt."""
    job = new_id()
    first = await artifacts.create(job)
    await first.write(CONTENT)
    await first.keep()
    second = await artifacts.create(job)
    assert second.offset == 0
    assert await artifacts.used() == 0
    await second.write(b"second")
    artifact = await second.commit(6, note)
    assert artifact.sha256 == hashlib.sha256(b"second").digest()
    assert await read(artifacts, job) == b"second"
    assert await artifacts.used() == 6


async def test_discard_removes_every_byte(artifacts: ArtifactStore) -> None:
    job = new_id()
    partial = await artifacts.create(job)
    await partial.write(CONTENT)
    await partial.discard()
    await assert_nothing(artifacts, job)
    assert await artifacts.used() == 0


async def test_an_ended_partial_rejects_writes(artifacts: ArtifactStore) -> None:
    for end in ("keep", "discard", "commit"):
        partial = await artifacts.create(new_id())
        if end == "commit":
            await partial.commit(0, note)
        else:
            await getattr(partial, end)()
        with pytest.raises(PartialLost):
            await partial.write(b"x")
        with pytest.raises(PartialLost):
            await partial.commit(0, note)


async def test_ending_twice_changes_nothing(artifacts: ArtifactStore) -> None:
    """`discard` in a `finally` is safe: what commit returned stays."""
    job = new_id()
    partial = await artifacts.create(job)
    await partial.write(b"12345")
    artifact = await partial.commit(5, note)
    await partial.discard()
    await partial.keep()
    await partial.discard()
    assert await artifacts.get(job) == artifact
    kept = await artifacts.create(new_id())
    await kept.keep()
    await kept.discard()
    await kept.keep()
    assert len(await artifacts.ids()) == 2


async def test_a_write_that_failed_may_be_repeated(artifacts: ArtifactStore, fail: Fail) -> None:
    """No byte twice, none missing, none foreign; the digest is of what was accepted (CONTRACT
    §10).
    """
    job, mib = new_id(), 1 << 20
    partial = await artifacts.create(job)
    fail(artifacts, "write")
    at = 0
    while at < len(CONTENT):
        chunk = CONTENT[at : at + mib // 2]
        try:
            await partial.write(chunk)
        except StoreUnavailable:
            assert partial.offset == at
            continue
        at += len(chunk)
        assert partial.offset == at
    artifact = await repeated(lambda: partial.commit(len(CONTENT), note))
    assert artifact.sha256 == hashlib.sha256(CONTENT).digest()
    assert await read(artifacts, job) == CONTENT


async def test_the_last_write_that_failed_is_repeated_by_commit(
    artifacts: ArtifactStore, fail: Fail
) -> None:
    job = new_id()
    partial = await artifacts.create(job)
    fail(artifacts, "write")
    await repeated(lambda: partial.write(b"12345"))
    assert partial.offset == 5
    artifact = await repeated(lambda: partial.commit(5, note))
    assert artifact.sha256 == hashlib.sha256(b"12345").digest()
    assert await read(artifacts, job) == b"12345"


async def test_a_commit_that_failed_may_be_repeated(artifacts: ArtifactStore, fail: Fail) -> None:
    job = new_id()
    partial = await artifacts.create(job)
    await partial.write(CONTENT)
    fail(artifacts, "commit")
    with pytest.raises(StoreUnavailable):
        await partial.commit(len(CONTENT), note)
    await assert_invisible(artifacts, job)
    artifact = await partial.commit(len(CONTENT), note)
    assert await artifacts.get(job) == artifact
    assert await artifacts.record_copy(job) == note(artifact)
    assert await read(artifacts, job) == CONTENT


async def test_what_was_accepted_can_be_read_before_the_commit(
    artifacts: ArtifactStore, fail: Fail
) -> None:
    """§10: the overlap is compared with the stored bytes, those still gathered too."""
    job = new_id()
    partial = await artifacts.create(job)
    await partial.write(CONTENT[:1_500_000])
    await partial.write(CONTENT[1_500_000:1_500_007])
    assert await partial.read(0, 0) == b""
    assert await partial.read(1_499_000, 1_500_007) == CONTENT[1_499_000:1_500_007]
    fail(artifacts, "write")
    await repeated(lambda: partial.write(CONTENT[1_500_007:]))
    assert await repeated(lambda: partial.read(1_400_000, len(CONTENT))) == CONTENT[1_400_000:]
    await partial.keep()
    resumed = await artifacts.resume(job)
    assert resumed is not None
    assert await resumed.read(1, len(CONTENT)) == CONTENT[1:]
    await resumed.write(b"!")
    assert await resumed.read(len(CONTENT), len(CONTENT) + 1) == b"!"
    await resumed.discard()
    with pytest.raises(PartialLost):
        await resumed.read(0, 1)


async def test_a_partial_has_one_writer(artifacts: ArtifactStore) -> None:
    job = new_id()
    partial = await artifacts.create(job)
    with pytest.raises(StoreUnavailable):
        await artifacts.resume(job)
    await partial.write(b"1")
    await partial.keep()
    assert await artifacts.resume(job) is not None


async def test_a_superseded_writer_changes_nothing(artifacts: ArtifactStore) -> None:
    job = new_id()
    first = await artifacts.create(job)
    await first.write(b"first")
    second = await artifacts.create(job)
    await second.write(b"second!")
    await first.write(b"!!")
    with pytest.raises(PartialLost):
        await first.commit(7, note)
    await first.discard()
    await second.commit(7, note)
    assert await read(artifacts, job) == b"second!"
    assert await artifacts.used() == 7


async def test_a_file_removed_while_it_is_written_is_not_committed(
    artifacts: ArtifactStore,
) -> None:
    """§7: DELETE of a running job releases the file."""
    job = new_id()
    partial = await artifacts.create(job)
    await partial.write(CONTENT)
    await artifacts.remove(job)
    await partial.write(CONTENT)
    with pytest.raises(PartialLost):
        await partial.commit(2 * len(CONTENT), note)
    await partial.discard()
    await assert_nothing(artifacts, job)
    assert await artifacts.used() == 0


async def test_a_second_commit_replaces_the_first(artifacts: ArtifactStore) -> None:
    job = new_id()
    first = await stored(artifacts, job, b"first")
    partial = await artifacts.create(job)
    await partial.write(b"second!")
    assert await artifacts.get(job) == first
    second = await partial.commit(7, note)
    assert await artifacts.get(job) == second
    assert await artifacts.record_copy(job) == note(second)
    assert await read(artifacts, job) == b"second!"
    assert await artifacts.used() == 7


async def test_remove_deletes_file_and_partial_and_may_be_repeated(
    artifacts: ArtifactStore,
) -> None:
    job, other = new_id(), new_id()
    await stored(artifacts, job)
    partial = await artifacts.create(job)
    await partial.write(b"x")
    await partial.keep()
    await stored(artifacts, other)
    assert await artifacts.used() == 2 * len(CONTENT) + 1
    await artifacts.remove(job)
    await artifacts.remove(job)
    await artifacts.remove(new_id())
    await assert_nothing(artifacts, job)
    assert await artifacts.ids() == {other}
    assert await artifacts.used() == len(CONTENT)


async def test_a_running_download_survives_the_removal(artifacts: ArtifactStore) -> None:
    """§6: a download in flight finishes even if expiry or DELETE hits it."""
    job = new_id()
    await stored(artifacts, job)
    reader = await artifacts.open(job)
    assert reader is not None
    pieces = reader.chunks(0, len(CONTENT))
    content = await anext(pieces)
    await artifacts.remove(job)
    await stored(artifacts, job, b"another")
    content += b"".join([piece async for piece in pieces])
    assert content == CONTENT
    await reader.close()


async def test_a_closed_reader_reads_nothing(artifacts: ArtifactStore) -> None:
    job = new_id()
    await stored(artifacts, job)
    reader = await artifacts.open(job)
    assert reader is not None
    await reader.close()
    await reader.close()
    with pytest.raises(StoreUnavailable):
        await anext(reader.chunks(0, 1))


async def test_used_counts_bytes_accepted_and_committed(artifacts: ArtifactStore) -> None:
    a, b = new_id(), new_id()
    await stored(artifacts, a, b"x" * 10)
    partial = await artifacts.create(b)
    await partial.write(b"x" * 7)
    assert await artifacts.used() == 17
    assert await artifacts.ids() == {a, b}
    assert await artifacts.used() == 17
    await partial.keep()
    assert await artifacts.ids() == {a, b}
    assert await artifacts.used() == 17
    assert await artifacts.free() > 0


_FIXED = "0a8ee813-141c-40b2-82c6-d72c106be657"  # every xdist worker must collect the same names
HOSTILE = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "x" * 300,
    "\x00",
    "é",
    _FIXED.upper(),
]
HOSTILE += [_FIXED + tail for tail in ("/", "/..", "\n", ".file", "\x00")] + [
    f"{{{_FIXED}}}",
    _FIXED.replace("-", ""),
]


def calls_of(artifacts: ArtifactStore) -> tuple[Callable[[str], Awaitable[object]], ...]:
    """The methods that take the id of a job."""
    reads = (artifacts.get, artifacts.record_copy, artifacts.open)
    return (artifacts.create, artifacts.resume, *reads, artifacts.remove)


@pytest.mark.parametrize("id", HOSTILE)
async def test_only_a_uuid_is_an_id(artifacts: ArtifactStore, id: str) -> None:
    """No text from outside becomes part of a path."""
    for call in calls_of(artifacts):
        with pytest.raises(ValueError):
            await call(id)
    assert await artifacts.ids() == set()


async def test_a_closed_store_is_unavailable(artifacts: ArtifactStore) -> None:
    job = new_id()
    await stored(artifacts, job)
    await artifacts.close()
    for call in calls_of(artifacts):
        with pytest.raises(StoreUnavailable):
            await call(job)
    for ask in (artifacts.ids, artifacts.free, artifacts.used):
        with pytest.raises(StoreUnavailable):
            await ask()
    await artifacts.close()


async def test_a_cancelled_commit_happened_or_not_and_discard_leaves_nothing(
    artifacts: ArtifactStore,
) -> None:
    """§7: cancel against completion."""
    random_ = random.Random(3)
    for _ in range(60):
        job = new_id()
        partial = await artifacts.create(job)
        await partial.write(CONTENT[:70_000])
        committing = asyncio.create_task(partial.commit(70_000, note))
        for _ in range(random_.randrange(6)):
            await asyncio.sleep(random_.choice([0, 0.0003]))
        committing.cancel()
        await asyncio.wait([committing])
        found = await artifacts.get(job)
        assert found is not None or committing.cancelled()
        await partial.discard()
        if committing.cancelled():
            await assert_nothing(artifacts, job)
        else:
            assert await read(artifacts, job) == CONTENT[:70_000]
            await artifacts.remove(job)
    assert await artifacts.used() == 0


async def test_a_cancelled_create_or_resume_leaves_no_writer_behind(
    artifacts: ArtifactStore,
) -> None:
    job = new_id()
    kept = await artifacts.create(job)
    await kept.write(CONTENT)
    await kept.keep()
    for turn in range(40):
        opening = asyncio.create_task(artifacts.resume(job))
        for _ in range(turn % 4):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        if not opening.cancelled():
            partial = opening.result()
            assert partial is not None
            await partial.keep()
    resumed = await artifacts.resume(job)
    assert resumed is not None
    assert resumed.offset == len(CONTENT)
    await resumed.discard()


async def test_concurrent_jobs_do_not_mix(artifacts: ArtifactStore) -> None:
    async def one(number: int) -> None:
        job, content = new_id(), bytes([number]) * 200_000
        partial = await artifacts.create(job)
        for at in range(0, len(content), 30_000):
            await partial.write(content[at : at + 30_000])
        await partial.commit(len(content), note)
        assert await read(artifacts, job) == content

    async with asyncio.timeout(30):
        await asyncio.gather(*(one(number) for number in range(40)))
    assert await artifacts.used() == 40 * 200_000

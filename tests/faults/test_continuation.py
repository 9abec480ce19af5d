"""Two parts are joined only if they are proven to be of one file (CONTRACT §10), whatever VB365
responds to a Range.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.core.job import ErrorCode, Job, Phase, Status
from proxy.ports import Field, StoreUnavailable
from proxy.simulator import SimulatorSettings
from tests.faults.test_transfer import SIZE, World
from tests.support import harness
from tests.support.fakes import MemoryPartial
from tests.support.harness import CONTENT, PIECE, FakeWorld, Reply, new_world

CUT = 100_000
OVERLAP = 65_536
MODIFIED = {"Last-Modified": "Mon, 23 Nov 2026 03:12:04 GMT"}
LATER = {"Last-Modified": "Mon, 23 Nov 2026 03:12:05 GMT"}

Fault = dict[str, Any]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A world whose simulator keeps no file: every POST, ranged or not, generates again."""
    async with World.running(SimulatorSettings(size=SIZE, files=0)) as world:
        yield world


async def export(world: World, first: Fault, later: Fault, *, cut: int = CUT) -> Job:
    """Export with a first response that breaks after `cut` bytes; those after it have the faults
    `later`.
    """
    world.simulator.fault(path=world.path, method="POST", cut_at=cut, count=1, **first)
    return await world.export(skip=1, **later) if later else await world.export(skip=10**6)


def sent(world: World, number: int) -> dict[bytes, bytes]:
    """The fields of the POST of that number."""
    posts = [request for request in world.simulator.requests if request.method == "POST"]
    return {name.lower(): value for name, value in posts[number].headers}


#: How the second response differs from the first; its bytes are those of another generation
#: too.
OTHERS: dict[str, tuple[Fault, Fault]] = {
    "no etag": ({}, {}),
    "weak etag": ({"etag": 'W/"a"'}, {"etag": 'W/"a"'}),
    "empty etag": ({"etag": '""'}, {"etag": '""'}),
    "no etag at all": ({"etag": "a"}, {"etag": "a"}),
    "etag vanishes": ({"etag": '"a"'}, {}),
    "etag becomes weak": ({"etag": '"a"'}, {"etag": 'W/"a"'}),
    "etag appears": ({}, {"etag": '"a"'}),
    "other etag": ({"etag": '"a"'}, {"etag": '"b"'}),
    "other Last-Modified": ({"headers": MODIFIED}, {"headers": LATER}),
    "other Last-Modified, same etag": (
        {"etag": '"a"', "headers": MODIFIED},
        {"etag": '"a"', "headers": LATER},
    ),
    "Last-Modified vanishes, same etag": ({"etag": '"a"', "headers": MODIFIED}, {"etag": '"a"'}),
    "other Content-Type": ({}, {"content_type": "application/zip"}),
    "other Content-Type, same etag": (
        {"etag": '"a"'},
        {"etag": '"a"', "content_type": "application/zip"},
    ),
    "multipart": (
        {"etag": '"a"'},
        {"etag": '"a"', "content_type": "multipart/byteranges; boundary=x"},
    ),
    "other name": ({}, {"disposition": "attachment; filename=other.pst"}),
    "other name, same etag": (
        {"etag": '"a"'},
        {"etag": '"a"', "disposition": "attachment; filename=other.pst"},
    ),
    "other total": ({"etag": '"a"'}, {"etag": '"a"', "size": SIZE + 1}),
    "other total, chunked": ({"framing": "chunked"}, {"size": SIZE + 1, "framing": "chunked"}),
}


@pytest.mark.parametrize("name", OTHERS)
async def test_another_generation_is_never_joined_to_the_first(world: World, name: str) -> None:
    """§10: a new attempt starts from zero; the file is complete and of one generation."""
    first, later = OTHERS[name]
    job = await export(world, first, later | {"seed": 7})
    await world.check(job)
    assert job.attempt == 2


DIFFERENT = [
    name
    for name in OTHERS
    if name not in ("no etag", "weak etag", "empty etag", "no etag at all", "etag appears")
]


@pytest.mark.parametrize("name", [name for name in DIFFERENT if name != "other total, chunked"])
async def test_a_different_head_alone_prevents_joining(world: World, name: str) -> None:
    """§10: although the bytes are the same."""
    job = await export(world, *OTHERS[name])
    await world.check(job)
    assert job.attempt == 2


SAME: dict[str, tuple[Fault, Fault]] = {
    "no etag": ({}, {}),
    "strong etag": ({"etag": '"a"'}, {"etag": '"a"'}),
    "weak etag": ({"etag": 'W/"a"'}, {"etag": 'W/"a"'}),
    "all fields": ({"etag": '"a"', "headers": MODIFIED}, {"etag": '"a"', "headers": MODIFIED}),
    "Last-Modified": ({"headers": MODIFIED}, {"headers": MODIFIED}),
    "chunked": ({"framing": "chunked"}, {}),
    "both chunked": ({"framing": "chunked", "etag": '"a"'}, {"framing": "chunked", "etag": '"a"'}),
    "no name": (
        {"headers": {"Content-Disposition": None}},
        {"headers": {"Content-Disposition": None}},
    ),
}


@pytest.mark.parametrize("name", SAME)
async def test_the_same_file_continues_in_its_attempt(world: World, name: str) -> None:
    """§10: by ETag, or by the bytes."""
    first, later = SAME[name]
    job = await export(world, first, later)
    await world.check(job)
    assert job.attempt == 1
    assert world.posts == 2


async def test_with_a_strong_etag_the_rest_is_requested(world: World) -> None:
    """§10: `If-Range` and `Range: bytes=N-`."""
    await export(world, {"etag": '"a"'}, {"etag": '"a"'})
    assert b"range" not in sent(world, 0)
    assert (sent(world, 1)[b"if-range"], sent(world, 1)[b"range"]) == (b'"a"', b"bytes=%d-" % CUT)


@pytest.mark.parametrize(
    ("cut", "start"),
    [(CUT, CUT - OVERLAP), (OVERLAP, 0), (OVERLAP - 1, (OVERLAP - 1) // 2), (1001, 500), (5, 2)],
)
@pytest.mark.parametrize("etag", [None, 'W/"a"', '""'])
async def test_without_a_strong_etag_an_overlap_is_requested(
    world: World, cut: int, start: int, etag: str | None
) -> None:
    """§10: `Range: bytes=M-` with M = N - 64 KiB, N/2 if N is smaller; no If-Range."""
    job = await export(world, {"etag": etag}, {"etag": etag}, cut=cut)
    await world.check(job)
    assert job.attempt == 1
    assert b"if-range" not in sent(world, 1)
    assert sent(world, 1)[b"range"] == b"bytes=%d-" % start


@pytest.mark.parametrize("etag", ['"a"', None])
async def test_a_chunked_file_that_is_cut_after_its_last_byte_is_complete(
    world: World, etag: str | None
) -> None:
    """§10: its size is not known. With an ETag nothing is left, which is a 416."""
    fault = {"etag": etag, "framing": "chunked"}
    job = await export(world, fault, fault, cut=SIZE)
    await world.check(job)
    assert (job.status, job.attempt, world.posts) == (Status.SUCCESS, 1, 2)


async def test_a_chunked_part_that_is_cut_after_its_last_byte_completes_no_file(
    world: World,
) -> None:
    """§10: without its end it is no Success; the next request finds that nothing is left."""
    job = await export(world, {"etag": '"a"'}, {"etag": '"a"', "unterminated": True})
    await world.check(job)
    assert (job.status, job.attempt, world.posts) == (Status.SUCCESS, 1, 3)


@pytest.mark.parametrize(
    ("etag", "said", "attempt"),
    [
        ('"a"', f"bytes */{SIZE}", 1),
        ('"a"', f"bytes */{SIZE + 1}", 2),
        ('"a"', None, 2),
        ('"b"', f"bytes */{SIZE}", 2),
        ('W/"a"', f"bytes */{SIZE}", 2),
        (None, f"bytes */{SIZE}", 2),
    ],
)
async def test_only_a_416_of_the_same_file_says_that_nothing_is_left(
    world: World, etag: str | None, said: str | None, attempt: int
) -> None:
    """§10: any other one is no proof that the stored bytes are all of the file."""
    first: Fault = {"etag": '"a"', "framing": "chunked"}
    headers = {"ETag": etag, "Content-Range": said}
    world.simulator.fault(path=world.path, method="POST", cut_at=SIZE, count=1, **first)
    world.simulator.fault(
        path=world.path, method="POST", skip=1, count=1, status=416, headers=headers
    )
    job = await world.export(skip=10**6)
    await world.check(job)
    assert (job.status, job.attempt) == (Status.SUCCESS, attempt)


async def test_a_200_to_a_range_starts_over(world: World) -> None:
    """§10: with the response that has just arrived."""
    job = await export(world, {}, {"ignore_range": True, "seed": 7})
    await world.check(job)
    assert (job.attempt, world.posts) == (2, 2)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_server_that_is_busy_is_asked_again_for_the_rest(world: World, status: int) -> None:
    """§10: the stored bytes stay, as while VB365 is unreachable. It may be starting again."""
    job = await export(world, {}, {"status": status, "count": 2})
    await world.check(job)
    assert (job.attempt, world.posts) == (1, 4)
    assert b"range" in sent(world, 3)


@pytest.mark.parametrize("status", [500, 404])
async def test_a_server_that_refuses_the_rest_is_asked_for_the_file(
    world: World, status: int
) -> None:
    """§10: a new attempt from zero."""
    job = await export(world, {}, {"status": status, "count": 1})
    await world.check(job)
    assert (job.attempt, world.posts) == (2, 3)
    assert b"range" not in sent(world, 2)


async def test_a_server_that_times_out_is_asked_a_few_times_for_the_rest(world: World) -> None:
    """§10: `exports.attempts` bounds the POSTs in a row that bring no new byte."""
    job = await export(world, {}, {"status": 504})
    assert job.error is not None
    assert job.error.code is ErrorCode.TIMEOUT
    assert "answered 504" in job.error.message
    assert (job.attempt, world.posts) == (1, 5)


# an upstream in memory, for responses that no real server sends

Served = Callable[[int], Reply]


def part(world: FakeWorld, start: int, stop: int, **facts: Any) -> Reply:
    """Build a 206 that announces [start, stop) and sends `data`."""
    data = facts.pop("data", CONTENT[start:stop])
    announced = b"bytes %d-%d/%d" % (start, stop - 1, len(CONTENT))
    return Reply(
        world.upstream,
        206,
        [(b"Content-Range", announced), *facts.pop("fields", [])],
        data,
        **facts,
    )


async def finished(world: FakeWorld, *responses: Served) -> Job:
    """Run a job whose first response is cut at 2,500 bytes, whose next ones are these, and whose
    later ones are correct.
    """
    world.upstream.plan.append("cut")
    original = world.upstream._file
    rest = iter(responses)

    def served(start: int, deed: str) -> Reply:
        response = next(rest, None) if start else None
        return original(start, deed) if response is None else response(start)

    world.upstream._file = served  # type: ignore[method-assign]
    job_id, _ = await world.submit()
    with capture_logs():
        await world.quiet()
    await world.check()
    return await world.finished(job_id)


async def test_a_shorter_part_than_requested_is_stored_and_the_next_requested() -> None:
    async with new_world() as world:
        job = await finished(
            world, lambda start: part(world, start, 3000), lambda start: part(world, start, 4001)
        )
        assert (job.status, job.attempt) == (Status.SUCCESS, 1)
        assert world.upstream.posts == [0, 1250, 1500, 2000]


@pytest.mark.parametrize("announced", [b"bytes 1250-4999/5000", b"bytes 0-4999/5000", b"?"])
async def test_a_200_with_content_range_is_not_the_whole_file(announced: bytes) -> None:
    """§10: it is a part with the wrong status; the next POST requests the whole file."""
    async with new_world() as world:

        def wrong_status(start: int) -> Reply:
            return Reply(world.upstream, 200, [(b"Content-Range", announced)], CONTENT[start:])

        job = await finished(world, wrong_status)
        assert (job.status, job.attempt) == (Status.SUCCESS, 2)
        assert world.upstream.posts == [0, 1250, 0]


@pytest.mark.parametrize("stop", [2000, 2500])
async def test_a_part_without_a_new_byte_is_rejected(stop: int) -> None:
    async with new_world() as world:
        job = await finished(world, lambda start: part(world, start, stop))
        assert (job.status, job.attempt) == (Status.SUCCESS, 2)


async def test_a_part_whose_body_is_longer_than_announced_is_not_kept() -> None:
    async with new_world() as world:
        job = await finished(
            world,
            lambda start: part(
                world, start, 3000, data=CONTENT[start:3000] + b"foreign", length=None
            ),
        )
        assert (job.status, job.attempt) == (Status.SUCCESS, 2)


@pytest.mark.parametrize("etag", [b'"a"', None])
@pytest.mark.parametrize("stop", [3000, 4000])
@pytest.mark.parametrize("end", ["breaks", "ends"])
async def test_no_byte_beyond_the_announced_range_is_stored(
    monkeypatch: pytest.MonkeyPatch, etag: bytes | None, stop: int, end: str
) -> None:
    """§10: such a response is rejected however it ends, and a restart at any moment does not take
    the surplus for a part of the file, which it would complete here.
    """
    write = MemoryPartial.write
    reached: list[int] = []
    async with new_world() as world:

        async def watched(self: MemoryPartial, chunk: bytes) -> None:
            await write(self, chunk)
            if len(world.upstream.posts) == 2:
                reached.append(self.offset)

        monkeypatch.setattr(MemoryPartial, "write", watched)
        fields = [] if etag is None else [(b"ETag", etag)]
        original = world.upstream._file

        def tagged(start: int, deed: str) -> Reply:
            reply = original(start, deed)
            reply.fields = [*reply.fields, *fields]
            return reply

        def wrong_length(start: int) -> Reply:
            data = CONTENT[start:stop] + bytes(len(CONTENT) - stop)
            cut = len(data) if end == "breaks" else None
            return part(world, start, stop, data=data, length=None, cut=cut, fields=fields)

        world.upstream._file = tagged  # type: ignore[method-assign]
        job = await finished(world, wrong_length)
        assert world.upstream.posts == [0, 1250 if etag is None else 2500, 0]
        assert (job.status, job.attempt) == (Status.SUCCESS, 2)
        assert max(reached, default=0) <= stop


async def test_a_whole_file_that_is_longer_than_announced_is_not_kept() -> None:
    async with new_world() as world:
        original = world.upstream._file

        def served(start: int, deed: str) -> Reply:
            if world.upstream.generations > 1:
                return original(start, deed)
            return Reply(world.upstream, 200, [], CONTENT, length=2500)

        world.upstream._file = served  # type: ignore[method-assign]
        job_id, _ = await world.submit()
        with capture_logs():
            await world.quiet()
        await world.check()
        job = await world.finished(job_id)
        assert (job.status, job.attempt) == (Status.SUCCESS, 2)


async def test_a_part_with_another_length_than_its_range_is_rejected() -> None:
    async with new_world() as world:
        job = await finished(world, lambda start: part(world, start, 3000, data=CONTENT[start:]))
        assert (job.status, job.attempt) == (Status.SUCCESS, 2)


async def test_an_encoded_part_is_rejected() -> None:
    async with new_world() as world:
        fields = [(b"Content-Encoding", b"gzip")]
        job = await finished(world, lambda start: part(world, start, len(CONTENT), fields=fields))
        assert (job.status, job.attempt) == (Status.SUCCESS, 2)


CONFLICTS = [
    (b"ETag", b'"a"', b'"b"'),
    (b"Last-Modified", b"Mon, 23 Nov 2026 03:12:04 GMT", b"Mon, 23 Nov 2026 03:12:05 GMT"),
    (b"Content-Type", b"application/octet-stream", b"application/zip"),
    (b"Content-Disposition", b"attachment; filename=a.pst", b"attachment; filename=b.pst"),
    (b"Content-Range", b"bytes 2500-4999/5000", b"bytes 2501-4999/5000"),
]


@pytest.mark.parametrize("repeated", ["equal", "different"])
@pytest.mark.parametrize(("name", "value", "other"), CONFLICTS, ids=[str(c[0]) for c in CONFLICTS])
async def test_a_field_with_two_values_is_rejected(
    name: bytes, value: bytes, other: bytes, repeated: str
) -> None:
    """§10: although the first of them matches. Equal values are one value."""
    async with new_world() as world:
        strong: list[Field] = [] if name == b"ETag" else [(b"ETag", b'"a"')]
        first = [*strong, *([] if name == b"Content-Range" else [(name, value)])]
        original = world.upstream._file

        def tagged(start: int, deed: str) -> Reply:
            reply = original(start, deed)
            reply.fields = [*reply.fields, *first]
            return reply

        def repeated_field(start: int) -> Reply:
            second = (name.lower(), value if repeated == "equal" else other)
            return part(world, start, len(CONTENT), fields=[*first, second])

        world.upstream._file = tagged  # type: ignore[method-assign]
        job = await finished(world, repeated_field)
        assert (job.status, job.attempt) == (Status.SUCCESS, 1 if repeated == "equal" else 2)
        assert world.upstream.posts == ([0, 2500] if repeated == "equal" else [0, 2500, 0])


async def regenerated(
    monkeypatch: pytest.MonkeyPatch, first: bytes, then: bytes, cut: int
) -> tuple[Job, list[int]]:
    """Run a job of which VB365 generates `first`, cut at `cut`, and from then on `then`. Return it
    and where its POSTs begin.
    """
    monkeypatch.setattr(harness, "CONTENT", then)
    monkeypatch.setattr(harness, "DIGEST", hashlib.sha256(then).digest())
    async with new_world() as world:
        original = world.upstream._file

        def served(start: int, deed: str) -> Reply:
            if len(world.upstream.posts) > 1:
                return original(start, deed)
            return Reply(world.upstream, 200, [], first, cut=cut)

        world.upstream._file = served  # type: ignore[method-assign]
        job_id, _ = await world.submit()
        with capture_logs():
            await world.quiet()
        await world.check()
        return await world.finished(job_id), world.upstream.posts


def with_free_pages(seed: int, *, free: int = 200_000) -> bytes:
    """A PST of which a part is free."""
    part = random.Random(seed).randbytes
    return b"!BDN" + part(199_996) + bytes(free) + part(200_000)


async def test_equal_free_pages_do_not_join_two_generations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """§10: the overlap is extended to bytes in which two files differ."""
    job, posts = await regenerated(monkeypatch, with_free_pages(1), with_free_pages(2), 350_000)
    assert (job.status, job.attempt) == (Status.SUCCESS, 2)
    assert posts == [0, 350_000 - 3 * OVERLAP, 0]


async def test_equal_filler_after_different_headers_does_not_join_two_generations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """§10: all that is stored is compared if it is a short header and filler."""

    def small(seed: int) -> bytes:
        part = random.Random(seed).randbytes
        return b"!BDN" + part(400) + bytes(300_000) + part(100_000)

    job, posts = await regenerated(monkeypatch, small(1), small(2), 250_000)
    assert (job.status, job.attempt) == (Status.SUCCESS, 2)
    assert posts == [0, 0]


@pytest.mark.parametrize("at", [1000, 150_000])
async def test_filler_that_differs_in_a_few_bytes_does_not_join_two_generations(
    monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """§10: all that is stored is compared if all of it is filler."""

    def sparse(number: bytes) -> bytes:
        return b"!BDN" + bytes(at) + number + bytes(300_000) + number

    job, posts = await regenerated(monkeypatch, sparse(b"12345678"), sparse(b"87654321"), 250_000)
    assert (job.status, job.attempt) == (Status.SUCCESS, 2)
    assert posts == [0, 0]


async def test_a_file_with_free_pages_continues_in_its_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, posts = await regenerated(monkeypatch, with_free_pages(1), with_free_pages(1), 350_000)
    assert (job.status, job.attempt) == (Status.SUCCESS, 1)
    assert posts == [0, 350_000 - 3 * OVERLAP]


async def test_more_free_pages_than_can_be_compared_start_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.jobs.overlap._LIMIT", 2 * OVERLAP)
    job, posts = await regenerated(monkeypatch, with_free_pages(1), with_free_pages(1), 350_000)
    assert (job.status, job.attempt) == (Status.SUCCESS, 2)
    assert posts == [0, 0]


async def test_two_different_etags_are_no_validator() -> None:
    """§10: an overlap is compared instead."""
    async with new_world() as world:
        original = world.upstream._file

        def tagged(start: int, deed: str) -> Reply:
            reply = original(start, deed)
            if not start:
                reply.fields = [*reply.fields, (b"ETag", b'"a"'), (b"ETag", b'"b"')]
            return reply

        world.upstream._file = tagged  # type: ignore[method-assign]
        job = await finished(world)
        assert (job.status, job.attempt) == (Status.SUCCESS, 1)
        assert world.upstream.posts == [0, 1250]


@pytest.mark.parametrize("cut", [0, PIECE])
async def test_an_overlap_that_breaks_off_is_rejected(cut: int) -> None:
    """§10: the POST brought no new byte; after three of them in a row the job fails."""
    async with new_world() as world:
        broken = [lambda start: part(world, start, len(CONTENT), cut=cut)] * 3
        job = await finished(world, *broken)
        assert (job.status, job.attempt) == (Status.SUCCESS, 1)
        assert world.upstream.posts == [0, 1250, 1250, 1250, 1250]
    async with new_world() as world:
        job = await finished(world, *broken, *broken)
        assert (job.status, job.attempt) == (Status.FAILED, 1)
        assert await world.artifacts.ids() == set()


async def test_a_body_that_ends_within_the_overlap_is_rejected() -> None:
    """A chunked body that ends properly before the length that its head announced."""
    async with new_world() as world:
        job = await finished(
            world,
            lambda start: part(world, start, len(CONTENT), data=CONTENT[start:2000], length=None),
        )
        assert (job.status, job.attempt) == (Status.SUCCESS, 1)


@pytest.mark.parametrize("at", [0, 600, 1249])
async def test_one_different_byte_in_the_overlap_is_another_file(at: int) -> None:
    """§10: byte for byte; the first, one in the middle, the last."""
    async with new_world() as world:

        def other(start: int) -> Reply:
            data = bytearray(CONTENT[start:])
            data[at] ^= 1
            return part(world, start, len(CONTENT), data=bytes(data))

        job = await finished(world, other)
        assert (job.status, job.attempt) == (Status.SUCCESS, 2)


async def test_reading_the_overlap_waits_for_the_store() -> None:
    """A store that is unavailable for a while costs no attempt."""
    async with new_world() as world:
        world.artifacts.faults["read"].extend([StoreUnavailable("away"), StoreUnavailable("away")])
        job = await finished(world)
        assert (job.status, job.attempt) == (Status.SUCCESS, 1)


async def test_a_job_that_has_every_byte_is_finished_without_the_upstream() -> None:
    """§10: interrupted between the last byte and the commit."""
    async with new_world() as world:
        world.artifacts.gates["commit"] = gate = asyncio.Event()
        job_id, _ = await world.submit()
        while await world.phase(job_id) is not Phase.FINALIZING:  # noqa: ASYNC110
            await asyncio.sleep(0)
        world.steps.kill()
        await world.runner.stop()
        gate.set()
        await world.restart()
        job = await world.finished(job_id)
        assert (job.status, job.attempt) == (Status.SUCCESS, 1)
        assert world.upstream.posts == []
        await world.check()
        assert job.size == len(CONTENT)
        assert (
            hashlib.sha256(await world.read(job_id) or b"").digest()
            == hashlib.sha256(CONTENT).digest()
        )

"""Which stored bytes VB365 must send again (CONTRACT §10)."""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import Future

import pytest

from proxy.core.job import FileFacts
from proxy.jobs.continuation import Continuation
from proxy.jobs.overlap import overlap_of
from tests.support.wire import LIMIT as PATIENCE

KIB = 1024
SIZE = 64 * KIB
LIMIT = 8192 * KIB

RANDOM = random.Random(5).randbytes(200_000)
#: Lines of text, with little information in each.
LINES = b"".join(b"%d,Inbox,mail,IPM.Note\n" % number for number in range(9000))


class Stored:
    """Stored bytes, and the largest number of them that was read at a time."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.largest = 0

    async def read(self, start: int, stop: int) -> bytes:
        assert 0 <= start < stop <= len(self.content)
        self.largest = max(self.largest, stop - start)
        return self.content[start:stop]


async def overlap(content: bytes) -> int | None:
    stored = Stored(content)
    found = await overlap_of(stored.read, len(content))
    assert stored.largest <= SIZE
    return found


SIZES = [1, 2, 3, 5, 7, 13, 16, 100, 1001, 1500, 65_535, 65_536, 65_540, 200_000, LIMIT]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "content",
    [RANDOM, LINES, bytes(LIMIT), b"a" * LIMIT, b"0123456789" * (LIMIT // 10 + 1),
     bytes(range(256)) * (LIMIT // 256), bytes(range(251)) * (LIMIT // 251 + 1),
     RANDOM[:700] * (LIMIT // 700 + 1), b"!BDN" + bytes(LIMIT)],
    ids=["random", "lines", "zeros", "constant", "digits", "all bytes", "251", "700",
         "zeros after a magic"],
)  # fmt: skip
async def test_of_ordinary_content_and_of_a_repetition_the_last_64_kib_are_compared(
    content: bytes, size: int
) -> None:
    """Half of a smaller file."""
    stored = content[:size]
    expected = SIZE if len(stored) >= SIZE else len(stored) - len(stored) // 2
    assert await overlap(stored) == expected


@pytest.mark.parametrize("before", [9, 1000, 70_000, SIZE + 12, 150_000])
@pytest.mark.parametrize("after", [SIZE, SIZE + 1, 250_000, LIMIT - 160_000])
@pytest.mark.parametrize("pattern", [b"\0", b"0123456789", bytes(range(256))])
async def test_all_of_a_repetition_with_few_other_bytes_is_compared(
    pattern: bytes, before: int, after: int
) -> None:
    """Two files may differ in these only."""
    filler = pattern * (LIMIT // len(pattern))
    content = filler[:before] + RANDOM[:4] + filler[:after]
    assert await overlap(content) == len(content)


@pytest.mark.parametrize("size", [SIZE + 9, 3 * SIZE, 200_001])
async def test_filler_that_repeats_no_pattern_is_compared_as_a_whole(size: int) -> None:
    content = b"".join(bytes(number * 50) + b"%d" % number for number in range(1, 200))[:size]
    assert await overlap(content) == size


@pytest.mark.parametrize("filler", [b"\0", b"a", b"0123456789"])
async def test_an_overlap_of_filler_is_extended_to_other_bytes(filler: bytes) -> None:
    """By whole blocks, up to 8 MiB and the whole file."""
    long = filler * (3 * SIZE)
    assert await overlap(RANDOM + long[:10]) == SIZE
    assert await overlap(RANDOM + long[:SIZE]) == 2 * SIZE
    assert await overlap(RANDOM + long[: 5 * SIZE // 2]) == 3 * SIZE
    assert await overlap(RANDOM[:2000] + long[:SIZE]) == SIZE + 2000
    assert await overlap(RANDOM[:2000] + long[:3000]) == 5000


@pytest.mark.parametrize("filler", [b"\0", b"0123456789"])
async def test_filler_after_a_header_is_compared_with_the_header(filler: bytes) -> None:
    """A header with little information, such as an id, distinguishes two files too."""
    long = filler * (8 * SIZE)
    for header in (RANDOM[:9], RANDOM[:16], RANDOM[:500]):
        assert await overlap(header + long[:1000]) == len(header) + 1000
        assert await overlap(header + long[: SIZE + 1]) == len(header) + SIZE + 1
        assert await overlap(header + long[: 7 * SIZE]) == len(header) + 7 * SIZE
    assert await overlap(RANDOM[:9] + bytes(LIMIT)) is None
    assert await overlap(RANDOM[:500] + bytes(LIMIT)) is None


async def test_an_overlap_has_at_most_8_mib() -> None:
    """More filler after other bytes proves nothing."""
    assert await overlap(RANDOM + bytes(LIMIT - SIZE)) == LIMIT
    assert await overlap(RANDOM + bytes(LIMIT)) is None
    assert await overlap(bytes(SIZE) + RANDOM + bytes(LIMIT)) is None
    assert await overlap(bytes(LIMIT + SIZE)) == SIZE
    assert await overlap(RANDOM[:1] + bytes(LIMIT + SIZE) + RANDOM[:1]) == SIZE


async def test_a_strong_etag_needs_no_overlap() -> None:
    """Nothing is read."""
    stored = Stored(bytes(100_000))
    facts = FileFacts(media_type="a/b", file_name=None, size=None, etag='"a"')
    found = await Continuation.of(facts, 100_000, stored.read)
    assert found is not None
    assert (found.start, found.validator, stored.largest) == (100_000, b'"a"', 0)


async def test_10_an_export_is_continued_while_threads_find_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing would end the wait for a thread of asyncio's that found none."""

    def no_memory(future: Future[object]) -> bool:
        raise MemoryError

    monkeypatch.setattr(Future, "set_running_or_notify_cancel", no_memory)
    async with asyncio.timeout(PATIENCE):
        assert await overlap(RANDOM) == SIZE

"""The gathered body of a request that may be rescued (CONTRACT §14)."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from proxy.core.http.heads import parse_request
from proxy.net.budget import Budget
from proxy.rescue.request import GatheredBody

HEAD = parse_request(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
END = b"0\r\n\r\n"


def gathered(raw: bytes) -> GatheredBody:
    body = GatheredBody(HEAD, lambda _: Budget(1 << 30), 1 << 30, 0.0)
    assert body.add(raw, 0.0)
    return body


async def test_14_small_chunks_delay_no_other_request() -> None:
    """A MiB of them, from anybody, would occupy the event loop for a third of a second."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    body = gathered(b"1\r\nx\r\n" * ((1 << 20) // 6) + END)
    counting = asyncio.create_task(other())
    assert await body.content() == b"x" * ((1 << 20) // 6)
    counting.cancel()
    assert turns >= 30


async def test_14_small_chunks_take_little_memory() -> None:
    raw = b"1\r\nx\r\n" * ((3 << 20) // 6) + END
    body = gathered(raw)
    tracemalloc.start()
    try:
        await body.content()
        assert tracemalloc.get_traced_memory()[1] < 3 * len(raw)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [1, 5, 31, 32, 1023, 1024, 70_000])
async def test_14_the_content_is_that_of_the_chunks(size: int) -> None:
    chunk = bytes(number % 251 for number in range(size))
    count = 200_000 // size + 1
    body = gathered(b"%x\r\n%b\r\n" % (size, chunk) * count + END)
    assert await body.content() == chunk * count


@pytest.mark.parametrize("padding", [0, (32 << 10) - 20, (32 << 10) - 7, 32 << 10])
@pytest.mark.parametrize("end", [b"", b"0\r\n", END + b"x", END + b"x" * (64 << 10)])
async def test_14_anything_else_is_no_content(padding: int, end: bytes) -> None:
    body = gathered(b"%x\r\n%b\r\n" % (padding, b"x" * padding) + end if padding else b"1" + end)
    assert await body.content() is None

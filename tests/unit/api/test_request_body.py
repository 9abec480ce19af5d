"""The memory of a kick-off's body while it arrives (CONTRACT §3.1)."""

from __future__ import annotations

import asyncio
import tracemalloc
from types import SimpleNamespace
from typing import cast

from proxy.api.request import ApiRequest
from proxy.api.request_body import RequestBodies
from proxy.net.budget import Budget, Part


class Dribble:
    """A body of `left` bytes that arrives two bytes at a time."""

    def __init__(self, left: int) -> None:
        self.left = left

    def at_eof(self) -> bool:
        return not self.left

    async def readany(self) -> bytes:
        await asyncio.sleep(0)
        self.left -= 2
        return b"%02d" % (self.left % 100)


async def test_a_body_in_tiny_pieces_takes_no_more_memory_than_it_counts() -> None:
    """Two bytes in a list of pieces would take 60."""
    size = 60_000
    part = Part(Budget(size), Budget(size))
    bodies = RequestBodies(max_body=size, part=part, knows=lambda _: False)
    request = SimpleNamespace(
        head=SimpleNamespace(content_length=None),
        inner=SimpleNamespace(content=Dribble(size)),
        fields=(),
    )
    tracemalloc.start()
    try:
        async with bodies.receive(cast("ApiRequest", request)) as body:
            peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(body.content) == size
    assert peak < 5 * size

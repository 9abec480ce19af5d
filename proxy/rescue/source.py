"""The bytes of a response's body, wherever they come from. Each generator closes its source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from proxy.ports import PartialLost, Readable, Response, Tail

#: Bytes of a body in memory that are sent at a time.
_PIECE = 256 << 10
Pieces = AsyncGenerator[bytes | bytearray, None]


async def of_bytes(data: bytes) -> Pieces:
    """The bytes."""
    if data:
        yield data


async def of_tail(tail: Tail, start: int, stop: int | None) -> Pieces:
    """The bytes [start, stop) of a growing file, or those up to its end. Raises `PartialLost` if it
    ends before.
    """
    at = start
    try:
        while stop is None or at < stop:
            piece = await tail.read(at)
            if not piece:
                break
            if stop is not None and len(piece) > stop - at:
                piece = piece[: stop - at]
            at += len(piece)
            yield piece
            del piece  # the next one may take long
            await asyncio.sleep(0)  # a fast client must not block the loop
    finally:
        await tail.close()
    if stop is not None and at < stop:
        raise PartialLost(f"the file ends at byte {at} instead of {stop}")


async def of_reader(reader: Readable, start: int, stop: int) -> Pieces:
    """The bytes [start, stop) of an open file."""
    try:
        async for piece in reader.chunks(start, stop):
            yield piece
    finally:
        await reader.close()


async def of_response(response: Response, first: bytes = b"") -> Pieces:
    """The body of an open response after `first`, which has been read. Raises `UpstreamFailure`."""
    try:
        for at in range(0, len(first), _PIECE):
            yield first[at : at + _PIECE]
            await asyncio.sleep(0)
        while piece := await response.read():
            yield piece
    finally:
        response.close()

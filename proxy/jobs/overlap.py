"""How many stored bytes VB365 must send again to prove that its file is still the same (CONTRACT
§10).
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable

#: Returns the stored bytes [start, stop).
Read = Callable[[int, int], Awaitable[bytes]]

#: Bytes of an overlap whose content is not filler.
_SIZE = 64 * 1024
#: The largest overlap. It is in memory while it is compared.
_LIMIT = 8 * 1024 * 1024


async def overlap_of(read: Read, stored: int) -> int | None:
    """Return how many of the last of `stored` bytes (at least one) to compare, None if no number of
    them would prove anything.

    That is 64 KiB, or half of fewer bytes. But files have long runs of zeros, such as the free
    pages of a PST, and two files can be equal there. So an overlap that ends in filler is extended
    to the last block that is none. If all stored bytes are filler, there is nothing better to
    compare.
    """
    size = _SIZE if stored >= _SIZE else stored - stored // 2
    for overlap in range(size, min(stored + size, _LIMIT + 1), size):
        start = max(0, stored - overlap)
        if not await _is_filler(await read(start, start + size)):
            return stored - start
    # a block that is none before the limit would be another file's, and not compared
    for start in range(0, stored - _LIMIT, size):
        if not await _is_filler(await read(start, start + size)):
            return None
    return size


async def _is_filler(block: bytes) -> bool:
    """Whether the block has little information: less than 1 KiB, or an eighth of a small block."""
    compressed = await asyncio.to_thread(zlib.compress, block, 1)
    # 16 is for small blocks, of which zlib's own header and trailer are most
    return len(compressed) < min(1024, 16 + len(block) // 8)

"""How many stored bytes VB365 must send again to prove that its file is still the same (CONTRACT
§10).
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable

#: Returns the stored bytes [start, stop).
Read = Callable[[int, int], Awaitable[bytes]]

#: Bytes of an overlap whose content is not filler.
_SIZE = 64 * 1024
#: The largest overlap. It is in memory while it is compared.
_LIMIT = 8 * 1024 * 1024
#: The longest magic number, in bytes, at the beginning of a file.
_MAGIC = 8


async def overlap_of(read: Read, stored: int) -> int | None:
    """Return how many of the last of `stored` bytes (at least one) to compare, None if no number of
    them would prove anything.

    That is 64 KiB, or half of fewer bytes. But files have long runs of zeros, such as the free
    pages of a PST, and two files can be equal there. So an overlap that ends in filler is extended
    to the last block that is none. If all stored bytes are filler, all of them are compared: what
    distinguishes two files, such as the header of a small PST, may be a few bytes anywhere. If they
    only repeat one pattern, there is nothing better to compare.
    """
    size = _SIZE if stored >= _SIZE else stored - stored // 2
    most = 0
    for extended in range(size, min(stored + size, _LIMIT + 1), size):
        start = max(0, stored - extended)
        block = await read(start, start + size)
        found = _information(block)
        if not _is_filler(block, found):
            return stored - start
        most = max(most, found)
    if await _is_repetition(read, stored, size):
        return size
    # a block with more information before the limit would be another file's, and not compared
    for start in range(0, stored - _LIMIT, size):
        if _information(await read(start, start + size)) > most:
            return None
    return min(stored, _LIMIT)


async def _is_repetition(read: Read, stored: int, size: int) -> bool:
    """Whether all stored bytes repeat the pattern of the last `size`, except for a magic number
    before them.
    """
    if stored - size <= _MAGIC:
        return True
    last = await read(stored - size, stored)
    period = last.find(last[: size // 2], 1)
    if period < 0:
        return False
    for start in range(_MAGIC, stored - size, size - period):
        piece = await read(start, min(start + size, stored))
        if piece[period:] != piece[: len(piece) - period]:
            return False
    return True


def _information(block: bytes) -> int:
    """How much information the block has, in bytes: its compressed size."""
    # 0.1 ms for filler, 1 ms for a block that ends the search: not worth a thread, which might find
    # no memory to report its result
    return len(zlib.compress(block, 1))


def _is_filler(block: bytes, information: int) -> bool:
    """Whether the block has little information: less than 1 KiB, or an eighth of a small block."""
    # 16 is for small blocks, of which zlib's own header and trailer are most
    return information < min(1024, 16 + len(block) // 8)

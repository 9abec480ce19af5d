"""Memory that the workers of one proxy share: each writes what it has counted, the first reads it
(CONTRACT §15 `--workers`).

Theory of operation. Each worker has two slots and writes them in turn, so that one of them is whole
at any moment, also if the worker is killed while it writes. A slot is its number, which grows, the
length and the checksum of its data, and the data. The supervisor makes the memory before it forks
the workers: what a worker has written stays when it ends, and its replacement reads it.
"""

from __future__ import annotations

import mmap
import struct
import zlib

#: The bytes of a slot. The system provides only those that are used.
_SLOT = 1 << 20
_HEAD = struct.Struct("<QII")


class Board:
    """One place for each of `count` workers."""

    def __init__(self, count: int) -> None:
        self._places = [mmap.mmap(-1, 2 * _SLOT) for _ in range(count)]

    def write(self, index: int, data: bytes) -> None:
        """Write the data of worker `index`, in place of what it has written before. Raises
        ValueError for more than 1 MiB.
        """
        if len(data) > _SLOT - _HEAD.size:
            raise ValueError(f"{len(data)} bytes do not fit")
        number = max(slot[0] for slot in self._slots(index)) + 1
        start = number % 2 * _SLOT
        place = self._places[index]
        place[start + _HEAD.size : start + _HEAD.size + len(data)] = data
        place[start : start + _HEAD.size] = _HEAD.pack(number, len(data), zlib.crc32(data))

    def read(self, index: int) -> bytes | None:
        """Return what worker `index` has written last, None if it has written nothing."""
        number, data = max(self._slots(index), key=lambda slot: slot[0])
        return data if number else None

    def _slots(self, index: int) -> list[tuple[int, bytes]]:
        """Number and data of the slots, number 0 for one that is not whole."""
        place, found = self._places[index], []
        for start in (0, _SLOT):
            number, length, checksum = _HEAD.unpack_from(place, start)
            end = start + _HEAD.size + min(length, _SLOT - _HEAD.size)
            data = place[start + _HEAD.size : end]
            found.append((number if zlib.crc32(data) == checksum else 0, data))
        return found

"""The files the stand-in exports: deterministic bytes of any size, made on the fly (docs/upstream.md §1, §7).

A file is a row of parts: literal bytes, and a pattern of 64 KiB blocks each of which begins with the file's seed and
the block's index, so that bytes served from the wrong place or of the wrong file change the digest. No part is ever
held in memory as a whole, and the CRC-32 that a ZIP needs is computed without making the bytes.
"""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

BLOCK = 64 * 1024
#: Small enough to stay in the CPU cache between making and sending.
CHUNK = 4 * BLOCK


class Kind(StrEnum):
    """What a file is; its value is the file name's ending."""

    PST = "pst"
    MSG = "msg"
    HTML = "html"
    RAW = "txt"
    PDF = "pdf"
    CSV = "csv"
    ZIP = "zip"
    PST_ZIP = "pst.zip"
    MSG_ZIP = "msg.zip"


_MAGIC = {
    Kind.PST: b"!BDN",
    Kind.MSG: bytes.fromhex("D0CF11E0A1B11AE1"),
    Kind.HTML: b"<!DOCTYPE html>\n<html><head><title>Posts</title></head><body><pre>\n",
    Kind.RAW: b"",
    Kind.PDF: b"%PDF-1.7\n",
    Kind.CSV: b"name,value\n",
}
_TAIL = {Kind.HTML: b"\n</pre></body></html>\n"}
_INNER = {Kind.ZIP: Kind.RAW, Kind.PST_ZIP: Kind.PST, Kind.MSG_ZIP: Kind.MSG}

# -- the pattern ------------------------------------------------------------------------------------------------------

#: Nibbles become `@`…`O` (0x40 | nibble): printable, and a linear function of the bits, which `_Run` relies on.
_NIBBLES = str.maketrans("0123456789abcdef", "@ABCDEFGHIJKLMNO")
_STAMP = 16
_FILL = base64.b64encode(hashlib.shake_256(b"VB365 stand-in").digest((BLOCK - _STAMP) * 3 // 4))
_BLANK = (bytes(_STAMP) + _FILL) * (CHUNK // BLOCK)


def _stamp(seed: int, index: int) -> bytes:
    return f"{seed:08x}{index:08x}".translate(_NIBBLES).encode()


def _blocks(seed: int, first: int, count: int) -> bytearray:
    """`count` ≤ CHUNK / BLOCK blocks of the pattern, beginning with block `first`."""
    made = bytearray(_BLANK[: count * BLOCK] if count < CHUNK // BLOCK else _BLANK)
    for at in range(count):
        made[at * BLOCK : at * BLOCK + _STAMP] = _stamp(seed, first + at)
    return made


@dataclass(frozen=True, slots=True)
class _Literal:
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def crc(self) -> int:
        return zlib.crc32(self.data)

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        yield memoryview(self.data)[start:stop]


@dataclass(frozen=True, slots=True)
class _Pattern:
    size: int
    seed: int

    def crc(self) -> int:
        whole, rest = divmod(self.size, BLOCK)
        run = _Run(self.seed).crc(whole)
        return crc32_combine(run, zlib.crc32(_blocks(self.seed, whole, 1)[:rest]), rest)

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        while start < stop:
            first = start // BLOCK
            end = min(stop, (first * BLOCK) + CHUNK)
            blocks = memoryview(_blocks(self.seed, first, -(-end // BLOCK) - first))
            yield blocks[start - first * BLOCK : end - first * BLOCK]
            start = end


_Part = _Literal | _Pattern

# -- CRC-32 without the bytes -----------------------------------------------------------------------------------------

_POLYNOMIAL = 0xEDB88320


def _times(a: int, b: int) -> int:
    """The product of two polynomials modulo the CRC's own, bits reflected (zlib's `multmodp`)."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@lru_cache(maxsize=256)
def _shift(size: int) -> int:
    """x^(8·size): what a CRC is multiplied by when `size` bytes follow."""
    power, factor = 1 << 31, 1 << 23
    while size:
        if size & 1:
            power = _times(power, factor)
        factor = _times(factor, factor)
        size >>= 1
    return power


def crc32_combine(first: int, second: int, size: int) -> int:
    """The CRC-32 of two byte strings put together, from theirs and the second's `size` in bytes."""
    return _times(_shift(size), first) ^ second


class _Run:
    """CRC-32 of the pattern's first n blocks in O(log² n).

    A block's CRC is an affine function of the bits of its index, and so is that of 2^k blocks, doubled step by step:
    `base ^ XOR of slopes[j] over the set bits j of the first block's index`.
    """

    def __init__(self, seed: int) -> None:
        self._base = zlib.crc32(_blocks(seed, 0, 1))
        self._slopes = [zlib.crc32(_blocks(seed, 1 << bit, 1)) ^ self._base for bit in range(32)]

    def crc(self, blocks: int) -> int:
        runs = self._doubled(blocks.bit_length())
        crc, done = 0, 0
        for level in range(blocks.bit_length() - 1, -1, -1):
            if blocks >> level & 1:
                crc = crc32_combine(crc, _affine(*runs[level], done), BLOCK << level)
                done += 1 << level
        return crc

    def _doubled(self, levels: int) -> list[tuple[int, list[int]]]:
        base, slopes, runs = self._base, self._slopes, []
        for level in range(levels):
            runs.append((base, slopes))
            size = BLOCK << level
            base = crc32_combine(base, base ^ slopes[level], size)
            slopes = [crc32_combine(slope, slope, size) for slope in slopes]
        return runs


def _affine(base: int, slopes: list[int], index: int) -> int:
    for bit, slope in enumerate(slopes):
        if index >> bit & 1:
            base ^= slope
    return base


# -- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Content:
    """A file of `size` bytes that is made while it is read."""

    kind: Kind
    size: int
    parts: tuple[_Part, ...]

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """The bytes [start, stop) in pieces of at most `CHUNK` bytes."""
        stop = self.size if stop is None else min(stop, self.size)
        offset = 0
        for part in self.parts:
            begin, end = max(start - offset, 0), min(stop - offset, part.size)
            if begin < end:
                yield from part.chunks(begin, end)
            offset += part.size

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes [start, stop), all at once."""
        return b"".join(self.chunks(start, stop))

    def sha256(self) -> str:
        """Hex SHA-256 of the whole file: about a second per GB."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()


def _crc(parts: tuple[_Part, ...]) -> int:
    crc = 0
    for part in parts:
        crc = crc32_combine(crc, part.crc(), part.size)
    return crc


def _plain(kind: Kind, size: int, seed: int) -> tuple[_Part, ...]:
    """Magic, pattern, tail; what does not fit into `size` is cut off."""
    head, tail = _MAGIC[kind], _TAIL.get(kind, b"")
    if size < len(head) + len(tail):
        return (_Literal((head + tail)[:size]),)
    return (_Literal(head), _Pattern(size - len(head) - len(tail), seed), _Literal(tail))


# A local head, a central entry and an end of directory, with the sizes in a ZIP64 extra field where the file may need
# it (APPNOTE 4.3.7, 4.3.12, 4.3.14-16). Dates are 1980-01-01: the same bytes every day.
_LOCAL, _CENTRAL, _END = "<4sHHHHHIIIHH", "<4sHHHHHHIIIHHHHHII", "<4sHHHHIIH"
_END64, _LOCATOR = "<4sQHHIIQQQQ", "<4sIQI"
_LIMIT32, _DATE = 0xFFFFFFFF, 0x21
#: From this size on all members have ZIP64 fields.
_LARGE = _LIMIT32


def _local(name: bytes, size: int, crc: int, large: bool) -> bytes:
    extra = struct.pack("<HHQQ", 1, 16, size, size) if large else b""
    shown = _LIMIT32 if large else size
    fixed = struct.pack(
        _LOCAL, b"PK\3\4", 45 if large else 20, 0, 0, 0, _DATE, crc, shown, shown, len(name), len(extra)
    )
    return fixed + name + extra


def _central(name: bytes, size: int, crc: int, offset: int, large: bool) -> bytes:
    extra = struct.pack("<HHQQQ", 1, 24, size, size, offset) if large else b""
    need, shown, at = (45, _LIMIT32, _LIMIT32) if large else (20, size, offset)
    fixed = struct.pack(
        _CENTRAL, b"PK\1\2", need, need, 0, 0, 0, _DATE, crc, shown, shown, len(name), len(extra), 0, 0, 0, 0, at
    )
    return fixed + name + extra


def _end(count: int, size: int, offset: int, large: bool) -> bytes:
    if not large:
        return struct.pack(_END, b"PK\5\6", 0, 0, count, count, size, offset, 0)
    end64 = struct.pack(_END64, b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack(_LOCATOR, b"PK\6\7", 0, offset + size, 1)
    return end64 + locator + struct.pack(_END, b"PK\5\6", 0, 0, count, count, _LIMIT32, _LIMIT32, 0)


def _names(kind: Kind, count: int) -> list[bytes]:
    return [f"item-{number:06}.{_INNER[kind]}".encode() for number in range(1, count + 1)]


def _overhead(names: list[bytes], large: bool) -> int:
    heads = sum(len(_local(name, 0, 0, large)) + len(_central(name, 0, 0, 0, large)) for name in names)
    return heads + len(_end(0, 0, 0, large))


def _zip(kind: Kind, size: int, seed: int, count: int) -> tuple[_Part, ...]:
    """A ZIP of `count` stored members and of exactly `size` bytes, or the smallest one with empty members."""
    names, large = _names(kind, count), size >= _LARGE
    payload = max(0, size - _overhead(names, large))
    parts: list[_Part] = []
    directory, offset = b"", 0
    for number, name in enumerate(names):
        share = payload * (number + 1) // count - payload * number // count
        member = _plain(_INNER[kind], share, seed + number)
        crc = _crc(member)
        head = _local(name, share, crc, large)
        directory += _central(name, share, crc, offset, large)
        parts += [_Literal(head), *member]
        offset += len(head) + share
    return (*parts, _Literal(directory + _end(count, len(directory), offset, large)))


@lru_cache(maxsize=256)
def make(kind: Kind, size: int, seed: int = 0, members: int = 2) -> Content:
    """The file of that kind, size in bytes and seed (0 … 2³²-1); a ZIP has `members` members.

    A ZIP is never smaller than its directory needs; every other kind has exactly `size` bytes.
    """
    parts = _zip(kind, size, seed, members) if kind in _INNER else _plain(kind, size, seed)
    return Content(kind, sum(part.size for part in parts), parts)


def content(size: int, kind: str, start: int = 0, stop: int | None = None, *, seed: int = 0) -> bytes:
    """The bytes [start, stop) of the file that the stand-in serves for these facts."""
    return make(Kind(kind), size, seed).read(start, stop)


@lru_cache(maxsize=64)
def expected_sha256(size: int, kind: str, *, seed: int = 0) -> str:
    """Hex SHA-256 of the file that the stand-in serves for these facts: about a second per GB, once."""
    return make(Kind(kind), size, seed).sha256()

"""The exported files: deterministic bytes of any size, generated on the fly.

See docs/upstream.md §1 and §7. A file is a sequence of parts: literal bytes, and a pattern of
64 KiB blocks. Each block begins with the seed of the file and the index of the block, so that bytes
from a wrong offset or a wrong file change the digest. No pattern is held in memory as a whole, and
the CRC-32 that a ZIP needs is computed without generating the bytes.
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

#: The size of a pattern block in bytes.
BLOCK = 64 * 1024
#: The maximum size of a chunk in bytes: small enough to stay in the CPU cache until it is sent.
CHUNK = 4 * BLOCK


class Kind(StrEnum):
    """The kind of a file; the value is the file name extension."""

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
_TRAILER = {Kind.HTML: b"\n</pre></body></html>\n"}
#: The kind of the members of a ZIP.
_MEMBER_KIND = {Kind.ZIP: Kind.RAW, Kind.PST_ZIP: Kind.PST, Kind.MSG_ZIP: Kind.MSG}

# Pattern

#: Maps a nibble to 0x40 | nibble (`@` to `O`). The result is printable, and each of its bits is an
#: affine function of the bits of the nibble, which `_PatternCrc` requires.
_NIBBLES = str.maketrans("0123456789abcdef", "@ABCDEFGHIJKLMNO")
#: The length of seed and index at the start of a block, in bytes.
_PREFIX_SIZE = 16
#: The seed string is arbitrary; another one would change every digest.
_RANDOM = hashlib.shake_256(b"VB365 stand-in").digest((BLOCK - _PREFIX_SIZE) * 3 // 4)
_FILL = base64.b64encode(_RANDOM)
_BLANK_CHUNK = (bytes(_PREFIX_SIZE) + _FILL) * (CHUNK // BLOCK)


def _prefix(seed: int, index: int) -> bytes:
    return f"{seed:08x}{index:08x}".translate(_NIBBLES).encode()


def _blocks(seed: int, first: int, count: int) -> bytearray:
    """Return `count` blocks of the pattern from block `first`; at most CHUNK / BLOCK."""
    blocks = bytearray(_BLANK_CHUNK[: count * BLOCK])
    for at in range(count):
        blocks[at * BLOCK : at * BLOCK + _PREFIX_SIZE] = _prefix(seed, first + at)
    return blocks


@dataclass(frozen=True, slots=True)
class _Literal:
    """Literal bytes."""

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
    """`size` bytes of the pattern with this seed."""

    size: int
    seed: int

    def crc(self) -> int:
        whole, rest = divmod(self.size, BLOCK)
        crc = _PatternCrc(self.seed).of_blocks(whole)
        last = zlib.crc32(_blocks(self.seed, whole, 1)[:rest])
        return crc32_combine(crc, last, rest)

    def chunks(self, start: int, stop: int) -> Iterator[memoryview]:
        while start < stop:
            first = start // BLOCK
            end = min(stop, (first * BLOCK) + CHUNK)
            blocks = memoryview(_blocks(self.seed, first, -(-end // BLOCK) - first))
            yield blocks[start - first * BLOCK : end - first * BLOCK]
            start = end


_Part = _Literal | _Pattern

# CRC-32 without generating the bytes

#: The CRC-32 polynomial, bits reversed.
_POLYNOMIAL = 0xEDB88320
#: The number of bits of a block index, which a block holds as eight nibbles.
_INDEX_BITS = 32


def _multiply(a: int, b: int) -> int:
    """Return a * b modulo the CRC polynomial, bits reversed; zlib calls this `multmodp`."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@lru_cache(maxsize=256)
def _shift(size: int) -> int:
    """Return x^(8 * size), the factor that extends a CRC by `size` bytes."""
    power, factor = 1 << 31, 1 << 23
    while size:
        if size & 1:
            power = _multiply(power, factor)
        factor = _multiply(factor, factor)
        size >>= 1
    return power


def crc32_combine(first: int, second: int, size: int) -> int:
    """Return the CRC-32 of the concatenation of two byte strings.

    `first` and `second` are their CRC-32s, `size` is the length of the second in bytes.
    """
    return _multiply(_shift(size), first) ^ second


class _PatternCrc:
    """Computes the CRC-32 of the first n blocks of a pattern in O(log² n).

    The CRC of a block is an affine function of the bits of its index, and so is the CRC of 2^k
    consecutive blocks: `base`, XORed with `slopes[j]` for each set bit j of the index of the first
    block. The function for 2^(k+1) blocks follows from the one for 2^k.
    """

    def __init__(self, seed: int) -> None:
        self._base = zlib.crc32(_blocks(seed, 0, 1))
        self._slopes = [
            zlib.crc32(_blocks(seed, 1 << bit, 1)) ^ self._base for bit in range(_INDEX_BITS)
        ]

    def of_blocks(self, count: int) -> int:
        """Return the CRC-32 of the first `count` blocks."""
        functions = self._functions(count.bit_length())
        crc, done = 0, 0
        for level in range(count.bit_length() - 1, -1, -1):
            if count >> level & 1:
                crc = crc32_combine(crc, _affine(*functions[level], done), BLOCK << level)
                done += 1 << level
        return crc

    def _functions(self, levels: int) -> list[tuple[int, list[int]]]:
        """Return base and slopes for 2^0, 2^1, … 2^(levels - 1) blocks."""
        base, slopes, functions = self._base, self._slopes, []
        for level in range(levels):
            functions.append((base, slopes))
            size = BLOCK << level
            base = crc32_combine(base, base ^ slopes[level], size)
            slopes = [crc32_combine(slope, slope, size) for slope in slopes]
        return functions


def _affine(base: int, slopes: list[int], index: int) -> int:
    """Return the value at `index` of an affine function of its bits."""
    for bit, slope in enumerate(slopes):
        if index >> bit & 1:
            base ^= slope
    return base


# Files


@dataclass(frozen=True, slots=True)
class Content:
    """A file of `size` bytes, generated while it is read."""

    kind: Kind
    size: int
    parts: tuple[_Part, ...]

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """Yield the bytes [start, stop) in pieces; generated ones have at most `CHUNK` bytes."""
        stop = self.size if stop is None else min(stop, self.size)
        offset = 0
        for part in self.parts:
            begin, end = max(start - offset, 0), min(stop - offset, part.size)
            if begin < end:
                yield from part.chunks(begin, end)
            offset += part.size

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes [start, stop)."""
        return b"".join(self.chunks(start, stop))

    def sha256(self) -> str:
        """Return the hex SHA-256 of the file. Takes about one second per GB."""
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
    """Return the parts of a file that is not a ZIP: magic bytes, pattern, trailer.

    A file that is too small for magic bytes and trailer is truncated.
    """
    magic, trailer = _MAGIC[kind], _TRAILER.get(kind, b"")
    if size < len(magic) + len(trailer):
        return (_Literal((magic + trailer)[:size]),)
    pattern = _Pattern(size - len(magic) - len(trailer), seed)
    return (_Literal(magic), pattern, _Literal(trailer))


# ZIP structures: local file header (APPNOTE 4.3.7), central directory header (4.3.12), and end of
# central directory with its ZIP64 record and locator (4.3.14 to 4.3.16). The date is always
# 1980-01-01, so that the bytes do not depend on the day.
_LOCAL, _CENTRAL, _END = "<4sHHHHHIIIHH", "<4sHHHHHHIIIHHHHHII", "<4sHHHHIIH"
_END64, _LOCATOR = "<4sQHHIIQQQQ", "<4sIQI"
_LIMIT32, _DATE = 0xFFFFFFFF, 0x21
#: "Version needed to extract" without and with ZIP64 (APPNOTE 4.4.3.2).
_VERSION, _VERSION64 = 20, 45
#: From this file size on, all members have ZIP64 fields.
_LARGE = _LIMIT32


def _local(name: bytes, size: int, crc: int, large: bool) -> bytes:
    extra = struct.pack("<HHQQ", 1, 16, size, size) if large else b""
    version, size32 = (_VERSION64, _LIMIT32) if large else (_VERSION, size)
    sizes = (size32, size32, len(name), len(extra))
    fixed = struct.pack(_LOCAL, b"PK\3\4", version, 0, 0, 0, _DATE, crc, *sizes)
    return fixed + name + extra


def _central(name: bytes, size: int, crc: int, offset: int, large: bool) -> bytes:
    extra = struct.pack("<HHQQQ", 1, 24, size, size, offset) if large else b""
    version = _VERSION64 if large else _VERSION
    size32, offset32 = (_LIMIT32, _LIMIT32) if large else (size, offset)
    sizes = (size32, size32, len(name), len(extra))
    fixed = struct.pack(
        *(_CENTRAL, b"PK\1\2", version, version, 0, 0, 0, _DATE, crc),
        *(*sizes, 0, 0, 0, 0, offset32),
    )
    return fixed + name + extra


def _end(count: int, size: int, offset: int, large: bool) -> bytes:
    if not large:
        return struct.pack(_END, b"PK\5\6", 0, 0, count, count, size, offset, 0)
    versions = (_VERSION64, _VERSION64)
    end64 = struct.pack(_END64, b"PK\6\6", 44, *versions, 0, 0, count, count, size, offset)
    locator = struct.pack(_LOCATOR, b"PK\6\7", 0, offset + size, 1)
    end = struct.pack(_END, b"PK\5\6", 0, 0, count, count, _LIMIT32, _LIMIT32, 0)
    return end64 + locator + end


def _names(kind: Kind, count: int) -> list[bytes]:
    return [f"item-{number:06}.{_MEMBER_KIND[kind]}".encode() for number in range(1, count + 1)]


def _overhead(names: list[bytes], large: bool) -> int:
    """Return the size of a ZIP with these members without their content."""
    local = sum(len(_local(name, 0, 0, large)) for name in names)
    central = sum(len(_central(name, 0, 0, 0, large)) for name in names)
    return local + central + len(_end(0, 0, 0, large))


def _zip(kind: Kind, size: int, seed: int, count: int) -> tuple[_Part, ...]:
    """Return the parts of a ZIP with `count` uncompressed members.

    It has exactly `size` bytes, or its members are empty if `size` is too small.
    """
    names, large = _names(kind, count), size >= _LARGE
    payload = max(0, size - _overhead(names, large))
    parts: list[_Part] = []
    directory, offset = b"", 0
    for number, name in enumerate(names):
        member_size = payload * (number + 1) // count - payload * number // count
        member = _plain(_MEMBER_KIND[kind], member_size, seed + number)
        crc = _crc(member)
        header = _local(name, member_size, crc, large)
        directory += _central(name, member_size, crc, offset, large)
        parts += [_Literal(header), *member]
        offset += len(header) + member_size
    return (*parts, _Literal(directory + _end(count, len(directory), offset, large)))


@lru_cache(maxsize=256)
def make(kind: Kind, size: int, seed: int = 0, members: int = 2) -> Content:
    """Return the file of this kind, size in bytes and seed (0 to 2**32 - 1).

    A ZIP has `members` members; it is larger than `size` if its headers need more. Any other kind
    of file has exactly `size` bytes.
    """
    is_zip = kind in _MEMBER_KIND
    parts = _zip(kind, size, seed, members) if is_zip else _plain(kind, size, seed)
    return Content(kind, sum(part.size for part in parts), parts)


def content(
    size: int, kind: str, start: int = 0, stop: int | None = None, *, seed: int = 0
) -> bytes:
    """Return the bytes [start, stop) of the file of this size in bytes, kind and seed."""
    return make(Kind(kind), size, seed).read(start, stop)


@lru_cache(maxsize=64)
def expected_sha256(size: int, kind: str, *, seed: int = 0) -> str:
    """Return the hex SHA-256 of the file of this size in bytes, kind and seed.

    The first call for a file takes about one second per GB.
    """
    return make(Kind(kind), size, seed).sha256()

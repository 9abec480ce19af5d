"""docs/upstream.md §7: deterministic bytes of any size, never in memory as a whole; valid ZIPs."""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.simulator import Content, Kind, expected_sha256, make
from proxy.simulator import content as files
from proxy.simulator.content import BLOCK, _Pattern, content, crc32_combine

GIB = 1 << 30
ZIPS = (Kind.ZIP, Kind.PST_ZIP, Kind.MSG_ZIP)
PLAIN = tuple(kind for kind in Kind if kind not in ZIPS)


class ContentFile(io.RawIOBase):
    """A read-only file object that generates only the bytes that are read."""

    def __init__(self, content: Content) -> None:
        self._content, self._at = content, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._content.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._content.read(self._at, self._at + len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@given(st.sampled_from(PLAIN), st.integers(0, 3 * BLOCK))
def test_a_plain_file_has_exactly_the_requested_size(kind: Kind, size: int) -> None:
    assert len(make(kind, size).read()) == make(kind, size).size == size


@given(st.sampled_from(ZIPS), st.integers(600, 5 * BLOCK))
def test_a_zip_has_exactly_the_requested_size(kind: Kind, size: int) -> None:
    assert len(make(kind, size).read()) == make(kind, size).size == size


@given(st.sampled_from(list(Kind)), st.integers(0, 2 * BLOCK), st.integers(0, 2 * BLOCK))
def test_any_range_equals_that_part_of_the_file(kind: Kind, start: int, length: int) -> None:
    made = make(kind, 2 * BLOCK + 99)
    assert made.read(start, start + length) == made.read()[start : start + length]


@pytest.mark.parametrize(
    ("kind", "magic"),
    [
        (Kind.PST, b"!BDN"),
        (Kind.MSG, bytes.fromhex("D0CF11E0A1B11AE1")),
        (Kind.HTML, b"<!DOCTYPE html>"),
        (Kind.PDF, b"%PDF-"),
        *((kind, b"PK\x03\x04") for kind in ZIPS),
    ],
)
def test_the_first_bytes_show_the_kind(kind: Kind, magic: bytes) -> None:
    assert make(kind, 10_000).read(0, 64).startswith(magic)


def test_all_blocks_differ() -> None:
    whole = content(4 * BLOCK, "pst")
    blocks = [whole[4:][at : at + BLOCK] for at in range(0, 4 * BLOCK, BLOCK)]
    assert len(set(blocks)) == 4


def test_files_with_different_seeds_differ() -> None:
    assert len({expected_sha256(10_000, "zip", seed=seed) for seed in (0, 1, 2**31)}) == 3


def test_the_expected_digest_is_the_digest_of_the_bytes() -> None:
    assert expected_sha256(200_000, "html") == hashlib.sha256(content(200_000, "html")).hexdigest()


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_crc32_combine_returns_the_crc_of_the_concatenation(first: bytes, second: bytes) -> None:
    assert crc32_combine(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(
        first + second
    )


@pytest.mark.parametrize(
    "size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 7 * BLOCK + 5, 321 * BLOCK, 1000 * BLOCK + 17]
)
@pytest.mark.parametrize("seed", [0, 365])
def test_the_crc_of_a_pattern_is_the_crc_of_its_bytes(size: int, seed: int) -> None:
    crc = 0
    for chunk in _Pattern(size, seed).chunks(0, size):
        crc = zlib.crc32(chunk, crc)
    assert _Pattern(size, seed).crc() == crc


@pytest.mark.parametrize("kind", ZIPS)
@pytest.mark.parametrize("members", [1, 2, 7])
def test_a_zip_is_valid_and_has_members_of_the_right_kind(kind: Kind, members: int) -> None:
    with zipfile.ZipFile(io.BytesIO(make(kind, 500_000, members=members).read())) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == members
        inner = {Kind.ZIP: Kind.RAW, Kind.PST_ZIP: Kind.PST, Kind.MSG_ZIP: Kind.MSG}[kind]
        first = archive.infolist()[0]
        assert archive.read(first) == make(inner, first.file_size, 0).read()


def test_a_zip_too_small_for_its_headers_is_valid_with_empty_members() -> None:
    made = make(Kind.ZIP, 10)
    with zipfile.ZipFile(io.BytesIO(made.read())) as archive:
        assert archive.testzip() is None
        assert [one.file_size for one in archive.infolist()] == [0, 0]


@pytest.mark.parametrize("size", [(1 << 32) - 2, (1 << 32) - 1, 1 << 32, 5 * GIB, 400 * GIB])
def test_a_huge_zip_is_valid_zip64_and_is_created_fast(size: int) -> None:
    """zipfile reads the directory at the end and the first bytes of each member."""
    began = time.process_time()
    made = make(Kind.PST_ZIP, size, members=3)
    with zipfile.ZipFile(io.BufferedReader(ContentFile(made))) as archive:
        assert made.size == size
        for one in archive.infolist():
            with archive.open(one) as member:
                assert member.read(4) == b"!BDN"
        assert sum(one.file_size for one in archive.infolist()) < size
    assert time.process_time() - began < 10


def test_the_crc_of_a_zip64_member_is_the_crc_of_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small ZIP with the structure of a huge one, so that zipfile can read it to the end."""
    monkeypatch.setattr(files, "_LARGE", 50_000)
    made = Content(Kind.ZIP, 50_000, files._zip(Kind.ZIP, 50_000, 0, 2))
    with zipfile.ZipFile(io.BytesIO(made.read())) as archive:
        assert archive.testzip() is None
        assert all(one.extract_version == 45 for one in archive.infolist())


def test_ranges_of_a_file_of_5_gib_are_generated_alone() -> None:
    made = make(Kind.PST, 5 * GIB)
    end = made.read(5 * GIB - 100)
    assert len(end) == 100
    at = 3 * GIB + 4
    assert made.read(at, at + 16) == b"@@@@@@@@@@@@L@@@"  # block 0xc000, in nibbles
    assert b"".join(made.read(at - 50 + n * 7, at - 43 + n * 7) for n in range(20)) == made.read(
        at - 50, at + 90
    )

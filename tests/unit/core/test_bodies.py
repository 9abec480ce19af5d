"""The ends of bodies (CONTRACT §12; RFC 9112 §6.3, §7.1)."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.http import bodies
from proxy.core.http.bodies import (
    MAX_EXTENSIONS,
    MAX_SIZE_LINE,
    MAX_TRAILERS,
    Body,
    Chunks,
    body_of,
)
from proxy.core.http.heads import MAX_FIELDS, Framing, MalformedMessage


def run(body: Body, *reads: bytes) -> tuple[bytes, bytes]:
    forward = b""
    for at, read in enumerate(reads):
        more, rest = body.feed(read)
        forward += more
        if body.done:
            return forward, rest + b"".join(reads[at + 1 :])
        assert rest == b""
    return forward, b""


def test_bodies_without_chunks() -> None:
    nothing = body_of(Framing.NONE, 0)
    assert nothing.done
    assert nothing.feed(b"x") == (b"", b"x")
    assert body_of(Framing.LENGTH, 0).done
    counted = body_of(Framing.LENGTH, 5)
    assert run(counted, b"ab", b"cdefg") == (b"abcde", b"fg")
    assert counted.done
    close = body_of(Framing.CLOSE, 0)
    assert close.feed(b"x") == (b"x", b"")
    assert not close.done


GOOD = [
    (b"0\r\n\r\n", b"", b"0\r\n\r\n"),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello", None),
    (b"5\r\nhello\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", b"helloabc0123456789", None),
    (b"5;a=b\r\nhello\r\n0;x\r\n\r\n", b"hello", b"5\r\nhello\r\n0\r\n\r\n"),
    (b'5 ; a="b"\r\nhello\r\n0\r\n\r\n', b"hello", b"5\r\nhello\r\n0\r\n\r\n"),
    (b"0005\r\nhello\r\n000\r\n\r\n", b"hello", None),
    (b"5\r\n\r\n\r\n\r\r\n0\r\n\r\n", b"\r\n\r\n\r", None),
    (b"1\r\na\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n", b"a", None),
]


@pytest.mark.parametrize(("raw", "payload", "passed"), GOOD, ids=lambda value: repr(value))
def test_12_chunks_are_forwarded_without_extensions(
    raw: bytes, payload: bytes, passed: bytes | None
) -> None:
    """However the bytes are split. Trailers are kept, following bytes are not touched."""
    expected = raw if passed is None else passed
    for cut in range(len(raw)):
        chunks = Chunks()
        assert run(chunks, raw[:cut] or b"", raw[cut:] + b"next") == (expected, b"next")
        assert chunks.done
    singly = [raw[at : at + 1] for at in range(len(raw))]
    assert run(body_of(Framing.CHUNKED, 0), *singly) == (expected, b"")
    assert run(Chunks(decode=True), raw + b"GET") == (payload, b"GET")
    assert run(body_of(Framing.CHUNKED, 0, decode=True), *singly) == (payload, b"")


BAD = [
    b"\r\n",
    b"x\r\n",
    b"-1\r\n",
    b"+5\r\nhello\r\n",
    b"0x5\r\nhello\r\n",
    b" 5\r\nhello\r\n",
    b"5 \r\nhello\r\n",
    b"5\nhello\r\n",
    b"5\r\rhello",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhelloX\r\n0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"5\r\nhello\r\n\r\n0\r\n\r\n",
    b"5;a\nb\r\nhello",
    b"5;\x00\r\nhello",
    b"5;a\rb\r\nhello",
    b"5,5\r\nhello",
    b"5_0\r\n",
    b"10000000000000005\r\nhello",
    b"0000000000000000\r\n",
    b"ffffffffffffffffffffff\r\n",
    b"5;" + b"x" * MAX_SIZE_LINE + b"\r\n",
    b"5;" + b"x" * MAX_SIZE_LINE,
    b"0\r\nContent-Length: 5\r\n\r\n",
    b"0\r\ntransfer-ENCODING: chunked\r\n\r\n",
    b"0\r\nHost: x\r\n\r\n",
    b"0\r\nX-A: 1\r\n folded\r\n\r\n",
    b"0\r\nX-A : 1\r\n\r\n",
    b"0\r\nX-A: 1\n\r\n",
    b"0\r\nX-A: 1\rX",
    b"0\r\nno colon\r\n\r\n",
    b"0\r\n\n",
    b"0\r\nX: " + b"x" * MAX_TRAILERS,
    b"0\r\n" + b"X: xxxxxxxxxxx\r\n" * (MAX_TRAILERS // 15),
    b"0\r\n\x00",
]


@pytest.mark.parametrize("raw", BAD, ids=lambda value: repr(value[:30]))
def test_12_malformed_chunks_are_rejected(raw: bytes) -> None:
    """In one read and byte by byte."""
    with pytest.raises(MalformedMessage):
        run(Chunks(), raw)
    with pytest.raises(MalformedMessage):
        run(Chunks(), *[raw[at : at + 1] for at in range(len(raw))])


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    st.lists(st.integers(0, 200), max_size=6),
    st.booleans(),
)
def test_12_the_split_of_a_chunked_body_does_not_matter(
    chunks: list[bytes], cuts: list[int], decode: bool
) -> None:
    raw = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\nrest"
    bounds = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    reads = [raw[a:b] for a, b in itertools.pairwise(bounds) if a < b]
    expected = b"".join(chunks) if decode else raw[:-4]
    assert run(Chunks(decode=decode), *reads) == (expected, b"rest")


@given(
    st.lists(
        st.one_of(
            st.builds(
                lambda zeros, chunk: b"%s%x\r\n%b\r\n" % (b"0" * zeros, len(chunk), chunk),
                st.integers(0, 14),
                st.one_of(
                    st.binary(min_size=1, max_size=33),
                    st.sampled_from([b"\r\n", b"\r\n1\r\n", b"0\r\n\r\n", b"\n"]),
                ),
            ),
            st.sampled_from([b"2\r\nx\r\n", b"1\r\nxy\r\n", b"\r\n", b"1;a\r\nx\r\n", b"B\r\n"]),
        ),
        max_size=12,
    )
)
def test_12_a_run_of_small_chunks_is_scanned_as_byte_by_byte(chunks: list[bytes]) -> None:
    raw = b"".join(chunks) + b"0\r\n\r\nrest"
    whole = _forwarded([raw])
    assert whole == _forwarded([raw[at : at + 1] for at in range(len(raw))])


def _forwarded(reads: list[bytes]) -> object:
    try:
        return run(Chunks(), *reads)
    except MalformedMessage:
        return "refused"


@pytest.mark.parametrize("size", [1, 2, 9, 10, 15, 16, 31, 32])
@pytest.mark.parametrize("zeros", [0, 3, 4, 13])
def test_12_small_chunks_are_not_scanned_line_by_line(
    size: int, zeros: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends 256 KiB of them would occupy the event loop for much longer."""
    lines: list[bytes] = []
    original = Chunks._line

    def counted(self: Chunks, line: bytes) -> bytes | None:
        lines.append(line)
        return original(self, line)

    monkeypatch.setattr(Chunks, "_line", counted)
    next_line = _Counting(bodies._NEXT, [])
    monkeypatch.setattr(bodies, "_NEXT", next_line)
    chunk = b"%s%X\r\n%b\r\n" % (b"0" * zeros, size, b"x" * size)
    raw = chunk * 1000 + b"0\r\n\r\n"
    assert run(Chunks(), raw) == (raw, b"")
    assert len(lines) <= 4
    assert next_line.matches <= (2 if size < 32 else 1000)


@given(
    st.lists(
        st.sampled_from([b"0", b"5", b"a", b"\r\n", b"\n", b"\r", b";", b"x", b" ", b"0\r\n\r\n"]),
        max_size=12,
    ),
    st.lists(st.integers(0, 20), max_size=3),
)
def test_12_the_split_of_arbitrary_bytes_does_not_matter(
    pieces: list[bytes], cuts: list[int]
) -> None:
    raw = b"".join(pieces)
    bounds = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    split = _verdict([raw[a:b] for a, b in itertools.pairwise(bounds) if a < b])
    assert split == _verdict([raw] if raw else [])


def _verdict(reads: list[bytes]) -> object:
    try:
        body = Chunks(decode=True)
        return (*run(body, *reads), body.done)
    except MalformedMessage:
        return "refused"


class _Counting:
    """A pattern that counts its matches and the bytes that it scans."""

    def __init__(self, pattern: re.Pattern[bytes], seen: list[int]) -> None:
        self._pattern = pattern
        self._seen = seen
        self.matches = 0

    def match(self, data: bytes, at: int) -> re.Match[bytes] | None:
        self.matches += 1
        return self._pattern.match(data, at)

    def fullmatch(self, data: bytes) -> re.Match[bytes] | None:
        self._seen.append(len(data))
        return self._pattern.fullmatch(data)


@pytest.mark.parametrize(
    ("before", "line"),
    [
        (b"0\r\n", b"X-Trailer: " + b"a" * 60000 + b"\r\n"),
        (b"", b"1;name=" + b"e" * 4000 + b"\r\n"),
        (b"", b"1" + b" " * 2000 + b";" + b"e" * 2000 + b"\r\n"),
    ],
)
def test_a_line_received_byte_by_byte_is_scanned_once(
    before: bytes, line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cost is linear: each byte is scanned with a few before it, not with the whole line."""
    seen: list[int] = []
    for name in ("_SIZE_START", "_TEXT_START", "_END_START"):
        monkeypatch.setattr(bodies, name, _Counting(getattr(bodies, name), seen))
    starts = {stage: _Counting(pattern, seen) for stage, pattern in bodies._STARTS.items()}
    monkeypatch.setattr(bodies, "_STARTS", starts)
    scanner = Chunks()
    scanner.feed(before) if before else None
    out = b"".join([scanner.feed(line[at : at + 1])[0] for at in range(len(line))])
    assert out == (line if before else b"1\r\n")
    assert sum(seen) < 40 * len(line)


def feed_all(scanner: Chunks, pieces: list[bytes]) -> None:
    for piece in pieces:
        scanner.feed(piece)


@pytest.mark.parametrize(
    "line", [b"1\r\r\n", b"0\r\nX: y\r\r\n", b"1;a\r;\r\n", b"1 1\r\n", b"1  2;\r\n", b";\r\n"]
)
def test_malformed_lines_are_rejected_however_they_are_split(line: bytes) -> None:
    for cut in range(1, len(line)):
        pieces = [line[at : at + cut] for at in range(0, len(line), cut)]
        with pytest.raises(MalformedMessage):
            feed_all(Chunks(), pieces)


@pytest.mark.parametrize("step", [1 << 20, 4099, 7])
@pytest.mark.parametrize("decode", [False, True])
def test_chunk_extensions_are_bounded(*, step: int, decode: bool) -> None:
    """However the bytes are split: each costs much more time than the bytes of it."""
    chunk = b"1;\r\nx\r\n"
    raw = chunk * (MAX_EXTENSIONS + 100)
    # one more per KiB: 1,024 chunks of 7 bytes are 7 KiB
    last = (MAX_EXTENSIONS + 7) * len(chunk) // step * step
    chunks = Chunks(decode=decode)
    for fed in range(0, last, step):
        chunks.feed(raw[fed : fed + step])
    with pytest.raises(MalformedMessage, match="extensions"):
        chunks.feed(raw[last : last + step])


def test_12_a_scanner_stops_after_many_trailers() -> None:
    """64 KiB of them take 50 ms, and each of a thousand strangers may send them."""
    trailers = b"a:\r\n" * 1000
    body = Chunks(most=512)
    forward, rest = body.feed(b"0\r\n" + trailers + b"\r\n")
    assert rest == trailers[512 * 4 - 4 :] + b"\r\n"
    body.scanned = 0
    assert (forward + body.feed(rest)[0], body.done) == (b"0\r\n" + trailers + b"\r\n", True)


def test_12_as_many_trailers_as_fields_of_a_head_are_accepted() -> None:
    body = Chunks()
    body.feed(b"0\r\n" + b"a:\r\n" * MAX_FIELDS)
    assert not body.done
    with pytest.raises(MalformedMessage, match="trailer"):
        body.feed(b"a:\r\n")


def test_large_chunks_may_all_have_an_extension() -> None:
    """As those of a client that signs each chunk."""
    chunks = Chunks()
    payload = bytes(1 << 10)
    for _ in range(3 * MAX_EXTENSIONS):
        forward, rest = chunks.feed(
            b"400;chunk-signature=" + b"a" * 64 + b"\r\n" + payload + b"\r\n"
        )
        assert (forward, rest) == (b"400\r\n" + payload + b"\r\n", b"")
    assert chunks.feed(b"0;chunk-signature=b\r\n\r\nnext") == (b"0\r\n\r\n", b"next")
    assert chunks.done


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("count", [511, 512, 2_000])
def test_12_a_scanner_stops_after_many_chunks_unless_they_are_large(
    count: int, decode: bool
) -> None:
    """An upload in chunks of 8 KiB would take a quarter more CPU."""
    for size, stops in ((4096, False), (4095, count >= 512)):
        body = Chunks(decode=decode, most=512)
        chunk = b"%x\r\n%b\r\n" % (size, bytes(size))
        forward, rest = body.feed(chunk * count)
        assert bool(rest) == stops
        parts = [forward]
        while rest:
            body.scanned = 0
            forward, rest = body.feed(rest)
            parts.append(forward)
        assert len(b"".join(parts)) == count * (size if decode else len(chunk))

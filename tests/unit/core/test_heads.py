"""The strict parser of heads (CONTRACT §12, last paragraph)."""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.http import heads
from proxy.core.http.fields import split_fields
from proxy.core.http.heads import (
    MAX_FIELDS,
    MAX_HEAD,
    MAX_LINE,
    Framing,
    HeadTooLarge,
    MalformedMessage,
    find_end,
    find_response_end,
    parse_request,
    parse_response,
)


def request(*lines: bytes, line: bytes = b"POST /x HTTP/1.1", host: bytes = b"Host: h") -> bytes:
    return b"\r\n".join([line, *([host] if host else []), *lines, b"", b""])


def response_bytes(*lines: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([line, *lines, b"", b""])


REFUSED_REQUESTS = {
    "CL and TE": request(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "TE and CL": request(b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "two lengths": request(b"Content-Length: 5", b"Content-Length: 6"),
    "two equal lengths": request(b"Content-Length: 5", b"content-length: 5"),
    "a list of lengths": request(b"Content-Length: 5, 5"),
    "empty length": request(b"Content-Length:"),
    "signed length": request(b"Content-Length: +5"),
    "negative length": request(b"Content-Length: -5"),
    "hexadecimal length": request(b"Content-Length: 0x5"),
    "fractional length": request(b"Content-Length: 5.0"),
    "length with a space": request(b"Content-Length: 5 5"),
    "length with an underscore": request(b"Content-Length: 1_0"),
    "length that overflows": request(b"Content-Length: 18446744073709551621"),
    "empty TE": request(b"Transfer-Encoding:"),
    "TE identity": request(b"Transfer-Encoding: identity"),
    "TE gzip, chunked": request(b"Transfer-Encoding: gzip, chunked"),
    "TE chunked, chunked": request(b"Transfer-Encoding: chunked, chunked"),
    "TE chunked, identity": request(b"Transfer-Encoding: chunked, identity"),
    "TE chunked;": request(b"Transfer-Encoding: chunked;q=1"),
    "TE xchunked": request(b"Transfer-Encoding: xchunked"),
    "TE quoted": request(b'Transfer-Encoding: "chunked"'),
    "TE with a vertical tab": request(b"Transfer-Encoding: \x0bchunked"),
    "TE with a non-breaking space": request(b"Transfer-Encoding: \xa0chunked"),
    "TE twice": request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "TE twice, one empty": request(b"Transfer-Encoding: chunked", b"Transfer-Encoding:"),
    "TE on HTTP/1.0": request(b"Transfer-Encoding: chunked", line=b"POST /x HTTP/1.0"),
    "space before the colon": request(b"Content-Length : 5"),
    "tab before the colon": request(b"Transfer-Encoding\t: chunked"),
    "folded field": request(b"X-A: 1", b" folded"),
    "folded with a tab": request(b"Transfer-Encoding:", b"\tchunked"),
    "space before the first field": request(b" X-A: 1", host=b""),
    "no colon": request(b"X-A"),
    "empty name": request(b": 1"),
    "name with a bracket": request(b"X[A]: 1"),
    "name with a space": request(b"X A: 1"),
    "non-ASCII name": request(b"X-\xc3\xa4: 1"),
    "NUL in a value": request(b"X-A: a\x00b"),
    "NUL in a name": request(b"X-\x00A: b"),
    "escape in a value": request(b"X-A: a\x1bb"),
    "delete in a value": request(b"X-A: a\x7fb"),
    "bare CR in a value": request(b"X-A: a\rb"),
    "bare LF in a value": request(b"X-A: a\nX-B: b"),
    "bare LF after the request line": b"GET / HTTP/1.1\nHost: h\r\n\r\n",
    "bare CR before CRLF": request(b"X-A: a\r"),
    "bare CR at the colon": request(b"X-A\r: a"),
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/1.2": request(line=b"GET / HTTP/1.2"),
    "HTTP/2.0": request(line=b"GET / HTTP/2.0"),
    "HTTP/1.10": request(line=b"GET / HTTP/1.10"),
    "HTTP/01.1": request(line=b"GET / HTTP/01.1"),
    "lower-case version": request(line=b"GET / http/1.1"),
    "no version": request(line=b"GET /"),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\n",
    "two spaces before the target": request(line=b"GET  / HTTP/1.1"),
    "two spaces before the version": request(line=b"GET /  HTTP/1.1"),
    "tab in the request line": request(line=b"GET\t/ HTTP/1.1"),
    "space in the target": request(line=b"GET /a b HTTP/1.1"),
    "space after the version": request(line=b"GET / HTTP/1.1 "),
    "space before the method": request(line=b" GET / HTTP/1.1"),
    "method that is no token": request(line=b"G(T / HTTP/1.1"),
    "control byte in the target": request(line=b"GET /\x01 HTTP/1.1"),
    "delete in the target": request(line=b"GET /\x7f HTTP/1.1"),
    "relative target": request(line=b"GET v8/x HTTP/1.1"),
    "authority as target": request(line=b"GET host:80 HTTP/1.1"),
    "asterisk and more": request(line=b"OPTIONS *x HTTP/1.1"),
    "CONNECT": request(line=b"CONNECT host:80 HTTP/1.1"),
    "CONNECT with a path": request(line=b"CONNECT / HTTP/1.1"),
    "no Host": request(host=b""),
    "two Hosts": request(b"Host: h"),
    "two Hosts, one empty": request(b"Host:"),
    "Host twice in a line": request(host=b"Host: a, b"),
    "Host with a path": request(host=b"Host: a/b"),
    "Host with user": request(host=b"Host: u@a"),
    "Host with a space": request(host=b"Host: a b"),
    "Host non-ASCII": request(host=b"Host: \xe4"),
    "Host with a bad port": request(host=b"Host: a:b"),
    "Host with an open bracket": request(host=b"Host: [::1"),
    "two Hosts on HTTP/1.0": request(b"Host: i", line=b"GET / HTTP/1.0"),
    "Connection: Content-Length": request(b"Connection: Content-Length", b"Content-Length: 5"),
    "Connection: Transfer-Encoding": request(b"Connection: close, transfer-encoding"),
    "Connection: Host": request(b"Connection: HOST"),
    "nothing": b"\r\n\r\n",
    "only a method": b"GET\r\n\r\n",
    "a long target": request(line=b"GET /" + b"a" * MAX_LINE + b" HTTP/1.1"),
    "too many fields": request(*[b"a:"] * MAX_FIELDS),
    "too long a Connection": request(b"Connection: " + b",".join([b"option"] * 10_000)),
    "too long an Expect over all lines": request(*[b"Expect: a" + b",b" * 10_000] * 4),
    "too long lists together": request(
        b"Connection: a" + b",b" * 18_000, b"Expect: a" + b",b" * 18_000
    ),
    "bytes after the head": request() + b"x",
    "a status line": response_bytes(),
}


@pytest.mark.parametrize("raw", REFUSED_REQUESTS.values(), ids=REFUSED_REQUESTS.keys())
def test_12_ambiguous_requests_are_rejected(raw: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_request(raw)


TARGETS = [
    b"/",
    b"//v6/x",
    b"/a%2Fb",
    b"/a+b;c=d",
    b"/../x/./y",
    b"/x?",
    b"/x??a=b",
    b"*",
    b"http://h/x",
    b"HTTP://h",
    b"/\xc3\xa4\xff",
    b'/"<>{}|\\^`',
    b"/a#b",
    b"/" + b"a" * 8192,
    b"/" + b"a" * 65535,
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: repr(target[:20]))
def test_12_unusual_targets_are_kept_as_sent(target: bytes) -> None:
    assert parse_request(request(line=b"GET " + target + b" HTTP/1.1")).target == target


def test_12_fields_keep_order_case_repeats_and_bytes() -> None:
    head = parse_request(
        request(b"x-a: 1", b"X-A:2", b"X-Empty:", b"X-B:\t\xe4\xff \t", b"x-a: a b ")
    )
    assert head.fields == (
        (b"Host", b"h"),
        (b"x-a", b"1"),
        (b"X-A", b"2"),
        (b"X-Empty", b""),
        (b"X-B", b"\xe4\xff"),
        (b"x-a", b"a b"),
    )
    assert head.get_all(b"x-a") == [b"1", b"2", b"a b"]
    assert head.minor == 1


def test_12_a_field_of_64_kib_and_1000_fields_are_accepted() -> None:
    """In both directions, with bytes outside ASCII."""
    lines = [b"Authorization: " + b"\xf6" * 65536, *[b"X-%d: v" % n for n in range(1000)]]
    head = parse_request(request(*lines))
    assert len(head.fields) == 1002
    assert len(head.get_all(b"authorization")[0]) == 65536
    assert len(parse_response(response_bytes(*lines), b"GET").fields) == 1001


@pytest.mark.parametrize(
    ("lines", "framing", "length"),
    [
        ((), Framing.NONE, 0),
        ((b"Content-Length: 0",), Framing.LENGTH, 0),
        ((b"content-LENGTH:\t17 ",), Framing.LENGTH, 17),
        ((b"Content-Length: 007",), Framing.LENGTH, 7),
        ((b"Transfer-Encoding: chunked",), Framing.CHUNKED, 0),
        ((b"transfer-encoding: CHUNKED\t",), Framing.CHUNKED, 0),
    ],
)
def test_12_framing_of_requests(lines: tuple[bytes, ...], framing: Framing, length: int) -> None:
    head = parse_request(request(*lines))
    assert (head.framing, head.length) == (framing, length)
    assert head.content_length == (None if framing is Framing.CHUNKED else length)


@pytest.mark.parametrize(
    "host", [b"", b"h", b"a.b-c_d:4443", b"[::1]", b"[fe80::1%25eth0]:80", b"192.0.2.1:1", b"h:"]
)
def test_12_valid_hosts_are_accepted(host: bytes) -> None:
    assert parse_request(request(host=b"Host: " + host)).host == host


def test_12_http_1_0_needs_no_host() -> None:
    head = parse_request(request(line=b"GET / HTTP/1.0", host=b""))
    assert head.host is None
    assert head.minor == 0


@pytest.mark.parametrize(
    ("version", "connection", "stays"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"keep-alive", True),
        (b"1.1", b"Close", False),
        (b"1.1", b"keep-alive, close", False),
        (b"1.0", b"", False),
        (b"1.0", b"Keep-Alive", True),
        (b"1.0", b"keep-alive,close", False),
    ],
)
def test_12_keep_alive(version: bytes, connection: bytes, stays: bool) -> None:
    lines = [b"Connection: " + connection] if connection else []
    assert parse_request(request(*lines, line=b"GET / HTTP/" + version)).keep_alive is stays
    response = response_bytes(*lines, b"Content-Length: 0", line=b"HTTP/" + version + b" 200 OK")
    assert parse_response(response, b"GET").keep_alive is stays


def test_12_hop_by_hop_lines_are_not_kept() -> None:
    hops = [b"Connection: X-A, close", b"connection: x-b", b"TE: trailers", b"Keep-Alive: 1"]
    kept = [b"X-Connection: x", b"Tea: x", b"Hostess: x", b"X: te: x"]
    head = parse_request(request(*hops, *kept, b"x-a: 1", b"X-B: 2"))
    assert [name for name, _ in split_fields(head.kept) if name.lower() != b"host"] == [
        b"X-Connection",
        b"Tea",
        b"Hostess",
        b"X",
    ]


@pytest.mark.parametrize("size", [15_000, 60_000])
def test_12_a_long_connection_field_takes_no_more_memory_than_others(size: int) -> None:
    """A stranger's request may last as long as VB365 takes to answer it."""
    names = [b"%x" % n for n in range(size // 6)]
    lines = [b"Connection: " + b",".join(names[n : n + 8000]) for n in range(0, len(names), 8000)]
    raw = request(*lines)
    held = sum(sys.getsizeof(found) for found in _reachable(parse_request(raw)))
    assert held < 3 * len(raw)


@pytest.mark.parametrize(
    ("lines", "line", "expected"),
    [
        ((b"Expect: 100-continue",), b"POST / HTTP/1.1", True),
        ((b"expect: 100-Continue",), b"POST / HTTP/1.1", True),
        ((b"Expect: 100-continue",), b"POST / HTTP/1.0", False),
        ((b"Expect: 200-ok",), b"POST / HTTP/1.1", False),
        ((), b"POST / HTTP/1.1", False),
    ],
)
def test_12_expect_100_continue(lines: tuple[bytes, ...], line: bytes, expected: bool) -> None:
    assert parse_request(request(*lines, line=line)).expect_continue is expected


@pytest.mark.parametrize(
    ("lines", "line", "upgrade"),
    [
        ((b"Connection: Upgrade", b"Upgrade: websocket"), b"GET / HTTP/1.1", b"websocket"),
        ((b"Connection: keep-alive, upgrade", b"Upgrade: h2c"), b"GET / HTTP/1.1", b"h2c"),
        ((b"Upgrade: websocket",), b"GET / HTTP/1.1", None),
        ((b"Connection: Upgrade",), b"GET / HTTP/1.1", None),
        ((b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: h2c"), b"GET / HTTP/1.1", None),
        ((b"Connection: Upgrade", b"Upgrade: websocket"), b"GET / HTTP/1.0", None),
    ],
)
def test_12_upgrade_counts_only_if_connection_names_it(
    lines: tuple[bytes, ...], line: bytes, upgrade: bytes | None
) -> None:
    assert parse_request(request(*lines, line=line)).upgrade == upgrade


REFUSED_RESPONSES = {
    "CL and TE": response_bytes(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "two lengths": response_bytes(b"Content-Length: 5", b"Content-Length: 6"),
    "malformed length": response_bytes(b"Content-Length: five"),
    "TE on HTTP/1.0": response_bytes(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK"),
    "TE gzip": response_bytes(b"Transfer-Encoding: gzip"),
    "folded": response_bytes(b"X-A: 1", b" 2"),
    "bare LF": b"HTTP/1.1 200 OK\nX: y\r\n\r\n",
    "status of two digits": response_bytes(line=b"HTTP/1.1 20 OK"),
    "status of four digits": response_bytes(line=b"HTTP/1.1 2000 OK"),
    "status 099": response_bytes(line=b"HTTP/1.1 099 OK"),
    "HTTP/2": response_bytes(line=b"HTTP/2 200 OK"),
    "no version": response_bytes(line=b"200 OK"),
    "control byte in the reason": response_bytes(line=b"HTTP/1.1 200 O\x01K"),
    "Connection: Content-Length": response_bytes(b"Connection: content-length"),
    "name that is no token": response_bytes(b"X A: 1"),
}


@pytest.mark.parametrize("raw", REFUSED_RESPONSES.values(), ids=REFUSED_RESPONSES.keys())
def test_12_ambiguous_responses_are_rejected(raw: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_response(raw, b"GET")


@pytest.mark.parametrize(
    ("lines", "status", "method", "framing", "length"),
    [
        ((b"Content-Length: 5",), 200, b"GET", Framing.LENGTH, 5),
        ((b"Content-Length: 5",), 200, b"HEAD", Framing.NONE, 0),
        ((b"Transfer-Encoding: chunked",), 200, b"HEAD", Framing.NONE, 0),
        ((b"Content-Length: 5",), 304, b"GET", Framing.NONE, 0),
        ((b"Content-Length: 5",), 204, b"GET", Framing.NONE, 0),
        ((), 100, b"POST", Framing.NONE, 0),
        ((), 204, b"GET", Framing.NONE, 0),
        ((), 200, b"GET", Framing.CLOSE, 0),
        ((b"Transfer-Encoding: chunked",), 500, b"GET", Framing.CHUNKED, 0),
        ((), 999, b"FOO", Framing.CLOSE, 0),
    ],
)
def test_12_framing_of_responses(
    lines: tuple[bytes, ...], status: int, method: bytes, framing: Framing, length: int
) -> None:
    head = parse_response(response_bytes(*lines, line=b"HTTP/1.1 %d Why" % status), method)
    assert (head.status, head.reason, head.framing, head.length) == (
        status,
        b"Why",
        framing,
        length,
    )
    assert head.keep_alive is (framing is not Framing.CLOSE)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"HTTP/1.1 200", b""),
        (b"HTTP/1.1 200 ", b""),
        (b"HTTP/1.1 200 Sch\xf6n  so", b"Sch\xf6n  so"),
    ],
)
def test_12_reason_phrases_are_accepted(line: bytes, reason: bytes) -> None:
    head = parse_response(response_bytes(b"X-A: 1", line=line), b"GET")
    assert (head.reason, head.minor, head.get_all(b"x-a")) == (reason, 1, [b"1"])


def test_12_a_101_response_names_the_protocol() -> None:
    lines = (b"Connection: Upgrade", b"Upgrade: websocket")
    assert (
        parse_response(response_bytes(*lines, line=b"HTTP/1.1 101 S"), b"GET").upgrade
        == b"websocket"
    )


def test_the_end_of_a_head_is_found_however_it_is_split() -> None:
    raw = request(b"X-A: 1")
    for cut in range(len(raw)):
        assert find_end(raw[:cut]) == -1
        assert find_end(raw, searched=cut) == len(raw)
    assert find_end(b"\r\n" + raw + b"rest", start=2) == len(raw) + 2


@pytest.mark.parametrize(
    "begun",
    [
        b"\r\nGET",
        b"\x16\x03\x01",
        b"GET / HTTP/1.1\n",
        b"\nGET",
        b"GET / HTTP/1.1\rH",
        b"GET /\x00",
        b"a" * (MAX_HEAD + 1),
    ],
)
def test_12_invalid_bytes_are_rejected_before_a_head_is_complete(begun: bytes) -> None:
    """A client that uses TLS on a plain port does not wait for a time-out."""
    with pytest.raises(MalformedMessage):
        find_end(begun)


@pytest.mark.parametrize("begun", [b"", b"HT", b"HTTP/1.", b"HTTP/1.1 200 OK\r\n"])
def test_12_the_beginning_of_a_response_needs_more_bytes(begun: bytes) -> None:
    assert find_response_end(begun) == -1


@pytest.mark.parametrize("begun", [b"X", b"HTTP/2", b"SSH-2.0-x\r\n"])
def test_12_other_protocols_are_rejected_before_a_response_head_is_complete(begun: bytes) -> None:
    with pytest.raises(MalformedMessage, match="status line"):
        find_response_end(begun)


def test_12_the_end_of_a_response_head() -> None:
    raw = response_bytes(b"X-A: 1")
    assert find_response_end(raw + b"rest", searched=5) == len(raw)


def test_12_a_head_over_the_limit_is_rejected() -> None:
    """§12: 256 KiB are accepted, one byte more is not, complete or not."""
    fits = request(*[b"X-A: " + b"a" * 60000] * 4, b"X: ")
    fits = fits[:-4] + b"a" * (MAX_HEAD - len(fits)) + fits[-4:]
    assert find_end(fits) == MAX_HEAD == 256 * 1024
    for longer in (fits[:-4] + b"a\r\n\r\n", fits[:-4] + b"aaaaa"):
        with pytest.raises(HeadTooLarge, match="too large"):
            find_end(longer)


def _reachable(root: object) -> Iterator[object]:
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, type | ModuleType):
            continue
        seen.add(id(found))
        yield found
        waiting += gc.get_referents(found)


def test_no_value_of_a_head_is_remembered() -> None:
    """A token is not in memory longer than its request: known heads are recognised by a
    digest.
    """
    secret = b"kept-to-itself-7431"
    for name in (b"Authorization: Bearer ", b"Cookie: s=", b"X-Api-Key: "):
        raw = request(name + secret, b"Connection: keep-alive, x-hop", b"X-Hop: " + secret)
        first, second = parse_request(raw), parse_request(raw)
        assert first == second
        assert secret in second.kept
        assert b"X-Hop" not in second.kept
        parse_response(b"HTTP/1.1 200 OK\r\nSet-Cookie: " + secret + b"\r\n\r\n", b"GET")
    held = [found for found in _reachable(heads._remembered) if isinstance(found, bytes)]
    assert held
    assert not [found for found in held if secret in found]


def test_the_memory_for_known_heads_is_bounded() -> None:
    for n in range(2000):
        parse_request(request(b"X-N: %d" % n))
        parse_request(
            request(b"Connection: " + b",".join([b"x%d-%d" % (n, k) for k in range(100)]))
        )
        parse_request(request(b"X-N: %d" % n, b"Connection: a", *[b"a:", b"b:"] * 400))
    assert len(heads._remembered) <= 1024
    held = sum(sys.getsizeof(found) for found in _reachable(heads._remembered))
    assert held < 10_000_000


_NAMES = st.text("abcXYZ019-_.!~", min_size=1, max_size=8).map(str.encode)
_VALUES = st.binary(max_size=12).map(
    lambda b: bytes(c for c in b if c == 9 or 32 <= c != 127).strip(b" \t")
)


@given(
    st.sampled_from([b"GET", b"POST", b"FOO"]),
    st.binary(max_size=20).map(lambda b: b"/" + bytes(c for c in b if 33 <= c != 127)),
    st.lists(st.tuples(_NAMES.map(lambda name: b"X-" + name), _VALUES), max_size=8),
)
def test_12_valid_heads_round_trip(
    method: bytes, target: bytes, fields: list[tuple[bytes, bytes]]
) -> None:
    raw = request(
        *[name + b": " + value for name, value in fields],
        line=method + b" " + target + b" HTTP/1.1",
    )
    head = parse_request(raw)
    assert (head.method, head.target, head.fields[1:]) == (method, target, tuple(fields))


_FRAMING = [b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: h\r\n"]
_STARTS = [b"GET", b"/", b"*", b"HTTP/1.1", b"GET / HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n"]
_PIECES = st.sampled_from(
    [b" ", b"\r\n", b"\n", b"\r", b":", b"X", b"\t", b"\x00", b"\xe4", *_FRAMING, *_STARTS]
)


@given(st.lists(_PIECES, max_size=12), st.lists(st.integers(0, 80), max_size=4))
def test_12_the_split_of_a_head_does_not_matter(pieces: list[bytes], cuts: list[int]) -> None:
    """The end is found at the same offset, or the bytes are rejected, however they are split."""
    data = b"".join(pieces) + b"\r\n\r\n"
    whole = _verdict([data])
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert _verdict([data[a:b] for a, b in itertools.pairwise(bounds)]) == whole


def _verdict(reads: list[bytes]) -> object:
    buffer = bytearray()
    for read in reads:
        searched = len(buffer)
        buffer += read
        try:
            end = find_end(buffer, searched=searched)
            if end >= 0:
                return parse_request(bytes(buffer[:end]))
        except MalformedMessage:
            return "refused"
    return None


@given(st.lists(_PIECES, max_size=12))
def test_12_never_two_interpretations(pieces: list[bytes]) -> None:
    """A valid head has one Host, one framing, and no byte that ends a line other than CRLF
    does.
    """
    raw = b"GET / HTTP/1.1\r\n" + b"".join(pieces) + b"\r\n\r\n"
    try:
        head = parse_request(raw)
    except MalformedMessage:
        return
    assert head.block.count(b"\n") == head.block.count(b"\r") == len(head.fields)
    assert len(head.get_all(b"host")) == 1
    assert len(head.get_all(b"content-length")) + len(head.get_all(b"transfer-encoding")) <= 1

"""Random messages: only the named differences occur (CONTRACT §12)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transparency.cases import Case
from tests.transparency.differences import expected_answer, expected_request
from tests.transparency.test_transparency import through_the_proxy

_TOKEN = "!#$%&'*+-.^_`|~0123456789ABCXYZabcxyz"  # the bytes of a token
_names = st.text(_TOKEN, min_size=1, max_size=12).map(lambda name: b"X-" + name.encode())
_value_bytes = [9, *range(32, 127), *range(128, 256)]
_values = st.lists(st.sampled_from(_value_bytes), max_size=20).map(bytes)
_gaps = st.sampled_from([b"", b" ", b"\t", b"  "])
_fields = st.lists(st.tuples(_names, _gaps, _values).map(lambda f: b"%b:%b%b\r\n" % f), max_size=6)
_hops = st.sampled_from(
    [
        b"",
        b"",
        b"",
        b"Connection: X-A\r\nX-a: 1\r\n",
        b"Keep-Alive: 5\r\n",
        b"tE: x\r\n",
        b"Upgrade: h2c\r\n",
    ]
)
_targets = st.lists(st.sampled_from([*range(33, 127), *range(128, 256)]), max_size=24).map(
    lambda t: b"/" + bytes(t)
)
_methods = st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"X-ODD", b"get"])
_sizes = st.sampled_from([b"%x", b"%X", b"0%x"])
_extensions = st.sampled_from([b"", b"", b";a", b' ;a="b;c"', b";\xe4"])
_chunks = st.lists(st.tuples(_sizes, _extensions, st.binary(min_size=1, max_size=40)), max_size=4)
_trailers = st.lists(st.tuples(_names, _values).map(lambda f: b"%b:%b\r\n" % f), max_size=2)


def _chunked(parts: list[tuple[bytes, bytes, bytes]], trailers: list[bytes]) -> tuple[bytes, bytes]:
    body = b"".join(
        (size % len(data)) + ext + b"\r\n" + data + b"\r\n" for size, ext, data in parts
    )
    return b"Transfer-Encoding: chunked\r\n", body + b"0\r\n" + b"".join(trailers) + b"\r\n"


_counted = st.binary(max_size=60).map(lambda body: (b"Content-Length: %d\r\n" % len(body), body))
_bodies = st.one_of(_counted, st.builds(_chunked, _chunks, _trailers))


@st.composite
def _requests(draw: st.DrawFn) -> bytes:
    framing, body = draw(st.one_of(st.just((b"", b"")), _bodies))
    lines = [*draw(_fields), b"Host: h\r\n", draw(_hops), framing]
    order = draw(st.permutations(lines))
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (draw(_methods), draw(_targets), b"".join(order), body)


@st.composite
def _answers(draw: st.DrawFn) -> bytes:
    framing, body = draw(_bodies)
    status = draw(st.integers(200, 999).filter(lambda status: status not in (204, 304)))
    reason = draw(_values)
    order = draw(st.permutations([*draw(_fields), draw(_hops), framing]))
    interim = draw(st.sampled_from([b"", b"", b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n"]))
    return interim + b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, reason, b"".join(order), body)


@settings(max_examples=max(settings().max_examples // 10, 60))
@given(st.lists(st.tuples(_requests(), _answers()), min_size=1, max_size=3))
async def test_12_random_messages_show_only_the_named_differences(
    pairs: list[tuple[bytes, bytes]],
) -> None:
    case = Case(
        "by chance",
        tuple(request for request, _ in pairs),
        tuple(answered for _, answered in pairs),
    )
    got = await through_the_proxy(case)
    assert got.received == [expected_request(request)[0] for request, _ in pairs]
    assert got.answered == [expected_answer(request, answered)[0] for request, answered in pairs]

"""Hostile and broken responses of the upstream as data, each with its verdict. `BAD` is 502, with
nothing of the response in it. `VISIBLE` is a broken connection, never a short success. Bytes are
what the client must get, to the end of its connection or of the response.
"""

from __future__ import annotations

from dataclasses import dataclass

BAD = "502"
VISIBLE = "broken"


@dataclass(frozen=True)
class Response:
    """`raw` as the upstream sends it before it closes."""

    name: str
    raw: bytes
    verdict: str | bytes
    request: bytes = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"


def head(*lines: bytes, line: bytes = b"HTTP/1.1 200 OK", body: bytes = b"") -> bytes:
    return b"\r\n".join([line, *lines, b"", b""]) + body


_TE = b"Transfer-Encoding: chunked"
_HEAD = b"HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n"
_SECOND = head(b"Content-Length: 6", b"Set-Cookie: evil=1", body=b"second")

MALFORMED = {
    "nothing": b"",
    "half a status line": b"HTTP/1.1 2",
    "half a head": b"HTTP/1.1 200 OK\r\nX: ",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x28",
    "SSH": b"SSH-2.0-OpenSSH_9\r\n",
    "HTTP/0.9": b"<html>hello</html>",
    "a request": b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "HTTP/2": head(line=b"HTTP/2 200 OK"),
    "HTTP/1.2": head(line=b"HTTP/1.2 200 OK"),
    "HTTP/1.10": head(line=b"HTTP/1.10 200 OK"),
    "ICY": head(line=b"ICY 200 OK"),
    "http/1.1": head(line=b"http/1.1 200 OK"),
    "an empty line before": b"\r\n" + head(b"Content-Length: 0"),
    "status 20": head(line=b"HTTP/1.1 20 OK"),
    "status 2000": head(line=b"HTTP/1.1 2000 OK"),
    "status 099": head(line=b"HTTP/1.1 099 OK"),
    "status +20": head(line=b"HTTP/1.1 +20 OK"),
    "status 0x1": head(line=b"HTTP/1.1 0x1 OK"),
    "status 2 0": head(line=b"HTTP/1.1 2 0 OK"),
    "two spaces before the status": head(line=b"HTTP/1.1  200 OK"),
    "a tab before the status": head(line=b"HTTP/1.1\t200 OK"),
    "a tab behind the status": head(line=b"HTTP/1.1 200\tOK"),
    "no space behind the status": head(line=b"HTTP/1.1 200OK"),
    "NUL in the reason": head(line=b"HTTP/1.1 200 O\x00K"),
    "a bare CR in the reason": head(line=b"HTTP/1.1 200 O\rK"),
    "a bare LF in the reason": head(line=b"HTTP/1.1 200 O\nSet-Cookie: evil=1"),
    "a bare LF behind the status line": b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    "only bare LFs": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "CL and TE": head(b"Content-Length: 2", _TE, body=b"0\r\n\r\n"),
    "TE and CL": head(_TE, b"Content-Length: 2", body=b"0\r\n\r\n"),
    "two lengths": head(b"Content-Length: 2", b"Content-Length: 4", body=b"okay"),
    "two equal lengths": head(b"Content-Length: 2", b"Content-Length: 2", body=b"ok"),
    "a list of lengths": head(b"Content-Length: 2, 2", body=b"ok"),
    "length -1": head(b"Content-Length: -1"),
    "length +2": head(b"Content-Length: +2", body=b"ok"),
    "length 0x2": head(b"Content-Length: 0x2", body=b"ok"),
    "length two": head(b"Content-Length: two", body=b"ok"),
    "an empty length": head(b"Content-Length:", body=b"ok"),
    "a length of 64 bits": head(b"Content-Length: 18446744073709551618", body=b"ok"),
    "a length with NUL": head(b"Content-Length: 2\x00", body=b"ok"),
    "a folded length": b"HTTP/1.1 200 OK\r\nContent-Length:\r\n 2\r\n\r\nok",
    "space before the colon": head(b"Content-Length : 2", body=b"ok"),
    "TE gzip": head(b"Transfer-Encoding: gzip", body=b"ok"),
    "TE gzip, chunked": head(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "TE identity": head(b"Transfer-Encoding: identity", body=b"ok"),
    "TE empty": head(b"Transfer-Encoding:", body=b"ok"),
    "TE xchunked": head(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "TE chunked, chunked": head(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "TE twice": head(_TE, _TE, body=b"0\r\n\r\n"),
    "TE with vertical tab": head(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "TE on HTTP/1.0": head(_TE, line=b"HTTP/1.0 200 OK", body=b"0\r\n\r\n"),
    "TE with a space before the colon": head(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    "CL and TE to HEAD": head(b"Content-Length: 2", _TE),
    "a folded field": head(b"X: a", b" b", b"Content-Length: 0"),
    "a field without a colon": head(b"X", b"Content-Length: 0"),
    "a field without a name": head(b": x", b"Content-Length: 0"),
    "a name with a space": head(b"X Y: x", b"Content-Length: 0"),
    "a non-ASCII name": head(b"X\xe4: x", b"Content-Length: 0"),
    "a bare LF in a value": head(b"X: a\nSet-Cookie: evil=1", b"Content-Length: 0"),
    "a bare CR in a value": head(b"X: a\rSet-Cookie: evil=1", b"Content-Length: 0"),
    "CR CR LF": head(b"X: a\r", b"Content-Length: 0"),
    "NUL in a value": head(b"X: a\x00", b"Content-Length: 0"),
    "escape in a value": head(b"X: \x1b[2J", b"Content-Length: 0"),
    "Connection: Content-Length": head(b"Connection: content-length", b"Content-Length: 0"),
    "Connection: Transfer-Encoding": head(b"Connection: transfer-encoding", _TE, body=b"0\r\n\r\n"),
    "an endless head": b"HTTP/1.1 200 OK\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n",
    "too many fields": head(*[b"a: b"] * 3000),
    "101 unasked": head(
        b"Upgrade: websocket", b"Connection: Upgrade", line=b"HTTP/1.1 101 Switching"
    ),
    "101 without Upgrade": head(line=b"HTTP/1.1 101 Switching"),
    "chunks: no size": head(_TE, body=b"\r\n"),
    "chunks: 0x": head(_TE, body=b"0x2\r\nok\r\n0\r\n\r\n"),
    "chunks: minus": head(_TE, body=b"-2\r\nok\r\n0\r\n\r\n"),
    "chunks: plus": head(_TE, body=b"+2\r\nok\r\n0\r\n\r\n"),
    "chunks: underscore": head(_TE, body=b"0_2\r\nok\r\n0\r\n\r\n"),
    "chunks: space before": head(_TE, body=b" 2\r\nok\r\n0\r\n\r\n"),
    "chunks: 64 bits": head(_TE, body=b"10000000000000002\r\nok\r\n0\r\n\r\n"),
    "chunks: a bare LF": head(_TE, body=b"2\nok\r\n0\r\n\r\n"),
    "chunks: longer than its size": head(_TE, body=b"2\r\nokay\r\n0\r\n\r\n"),
    "chunks: a bare LF in an extension": head(_TE, body=b"2;\nok\r\n0\r\n\r\n"),
    "chunks: an answer in place of a size": head(_TE, body=_SECOND),
    "chunks: Set-Cookie as a trailer": head(_TE, body=b"0\r\nSet-Cookie: evil=1\r\n\r\n"),
    "chunks: Content-Length as a trailer": head(_TE, body=b"0\r\nContent-Length: 9\r\n\r\n"),
    "chunks: a folded trailer": head(_TE, body=b"0\r\nX: 1\r\n 2\r\n\r\n"),
}

SHORT = {
    "a short length": head(b"Content-Length: 10", body=b"short"),
    "no byte of a length": head(b"Content-Length: 10"),
    "a huge length": head(b"Content-Length: 999999999999999999", body=b"short"),
    "no last chunk": head(_TE, body=b"5\r\nshort\r\n"),
    "no chunk at all": head(_TE),
    "half a chunk": head(_TE, body=b"a\r\nshort"),
    "half a size": head(_TE, body=b"5\r\nshort\r\n1"),
    "half an end": head(_TE, body=b"5\r\nshort\r\n0\r\n"),
    "half a trailer": head(_TE, body=b"5\r\nshort\r\n0\r\nX: "),
}


def _whole() -> list[Response]:
    """What is well, and what stands behind it: nobody gets that."""
    ok = head(b"Content-Length: 2", body=b"ok")
    chunked = head(_TE, body=b"2\r\nok\r\n0\r\n\r\n")
    escaped = head(b"Location: /%0d%0aSet-Cookie:%20evil=1", b"Content-Length: 2", body=b"ok")
    last = head(b"Content-Length: 2", b"Connection: close", body=b"ok")
    old = b"GET /x HTTP/1.0\r\n\r\n"
    cases = {
        "a second answer behind the first": (ok + _SECOND, ok),
        "bytes behind the answer": (ok + b"\r\n\x00junk", ok),
        "a second answer behind chunks": (chunked + _SECOND, chunked),
        "a body behind 204": (
            head(line=b"HTTP/1.1 204 No") + _SECOND,
            head(line=b"HTTP/1.1 204 No"),
        ),
        "a body behind 304": (
            head(line=b"HTTP/1.1 304 No") + _SECOND,
            head(line=b"HTTP/1.1 304 No"),
        ),
        "an escaped CRLF": (escaped, escaped),
        "an answer as a body": (
            head(b"Content-Length: %d" % len(_SECOND), body=_SECOND),
            head(b"Content-Length: %d" % len(_SECOND), body=_SECOND),
        ),
        "a made-up Connection": (
            head(b"Connection: x", b"X: evil", b"Content-Length: 2", body=b"ok"),
            ok,
        ),
        "Trailer that never comes": (
            head(b"Trailer: X-Sum", _TE, body=b"2\r\nok\r\n0\r\n\r\n"),
            head(b"Trailer: X-Sum", _TE, body=b"2\r\nok\r\n0\r\n\r\n"),
        ),
    }
    found = [Response(name, raw, got) for name, (raw, got) in cases.items()]
    length = head(b"Content-Length: 6")
    found.append(
        Response("a body to HEAD", head(b"Content-Length: 6", body=b"second"), length, _HEAD)
    )
    found.append(Response("an answer behind HEAD", length + _SECOND, length, _HEAD))
    found.append(
        Response("chunks to HTTP/1.0", chunked, last.replace(b"Content-Length: 2\r\n", b""), old)
    )
    found.append(Response("a second answer to HTTP/1.0", ok + _SECOND, last, old))
    return found


RESPONSES = [
    *[
        Response(name, raw, BAD, _HEAD if "HEAD" in name else Response.request)
        for name, raw in MALFORMED.items()
    ],
    *[Response(f"{name} (1.1)", raw, VISIBLE) for name, raw in SHORT.items()],
    *[
        Response(f"{name} (1.0)", raw, VISIBLE, b"GET /x HTTP/1.0\r\n\r\n")
        for name, raw in SHORT.items()
    ],
    *_whole(),
]

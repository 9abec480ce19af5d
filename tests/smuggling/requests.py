"""Hostile requests as data, each with its verdict. `SMUGGLED` is the request that the attacker
wants the upstream to see.
"""

from __future__ import annotations

from dataclasses import dataclass

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
SAFE = b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"


@dataclass(frozen=True)
class Refused:
    """400 and close; the upstream sees nothing of it."""


@dataclass(frozen=True)
class Broken:
    """The head is valid and the body is not: the upstream never gets a complete request, the client
    400 or a reset.
    """


@dataclass(frozen=True)
class Forwarded:
    """Exactly these requests reach the upstream, one after another."""

    requests: tuple[bytes, ...]


Verdict = Refused | Broken | Forwarded


@dataclass(frozen=True)
class Attack:
    """`raw` as the attacker sends it."""

    name: str
    raw: bytes
    verdict: Verdict


def post(
    *lines: bytes, body: bytes = b"", line: bytes = b"POST /x HTTP/1.1", host: bytes = b"Host: h"
) -> bytes:
    return b"\r\n".join([line, *([host] if host else []), *lines, b"", b""]) + body


_CL = b"Content-Length: %d"
_TE = b"Transfer-Encoding: chunked"
_END = b"0\r\n\r\n"

#: What a Transfer-Encoding is written as, hoping that one of two servers does not see it.
OBFUSCATED = {
    "xchunked": b"Transfer-Encoding: xchunked",
    "chunkedx": b"Transfer-Encoding: chunkedx",
    "chunk": b"Transfer-Encoding: chunk",
    "identity": b"Transfer-Encoding: identity",
    "empty": b"Transfer-Encoding:",
    "a comma": b"Transfer-Encoding: ,",
    "chunked and a comma": b"Transfer-Encoding: chunked,",
    "a comma and chunked": b"Transfer-Encoding: ,chunked",
    "identity, chunked": b"Transfer-Encoding: identity, chunked",
    "chunked, identity": b"Transfer-Encoding: chunked, identity",
    "gzip, chunked": b"Transfer-Encoding: gzip, chunked",
    "chunked, chunked": b"Transfer-Encoding: chunked, chunked",
    "a parameter": b"Transfer-Encoding: chunked;foo=bar",
    "a bare semicolon": b"Transfer-Encoding: chunked;",
    "quoted": b'Transfer-Encoding: "chunked"',
    "single quotes": b"Transfer-Encoding: 'chunked'",
    "a space in it": b"Transfer-Encoding: chun ked",
    "vertical tab before": b"Transfer-Encoding: \x0bchunked",
    "form feed before": b"Transfer-Encoding: \x0cchunked",
    "vertical tab after": b"Transfer-Encoding: chunked\x0b",
    "NUL after": b"Transfer-Encoding: chunked\x00",
    "NUL before": b"Transfer-Encoding: \x00chunked",
    "delete after": b"Transfer-Encoding: chunked\x7f",
    "non-breaking space": b"Transfer-Encoding: \xa0chunked",
    "next line": b"Transfer-Encoding: \x85chunked",
    "non-ASCII": b"Transfer-Encoding: \xffchunked",
    "a byte order mark": b"\xef\xbb\xbfTransfer-Encoding: chunked",
    "Kelvin sign": b"Transfer-Encoding: chun\xe2\x84\xaaed",
    "folded": b"Transfer-Encoding:\r\n chunked",
    "folded with a tab": b"Transfer-Encoding:\r\n\tchunked",
    "folded within": b"Transfer-Encoding: chun\r\n ked",
    "folded behind": b"X: y\r\n Transfer-Encoding: chunked",
    "space before the colon": b"Transfer-Encoding : chunked",
    "tab before the colon": b"Transfer-Encoding\t: chunked",
    "space before the name": b" Transfer-Encoding: chunked",
    "NUL before the colon": b"Transfer-Encoding\x00: chunked",
    "CR before the colon": b"Transfer-Encoding\r: chunked",
    "no colon": b"Transfer-Encoding chunked",
    "a bare LF before it": b"X: y\nTransfer-Encoding: chunked",
    "a bare CR before it": b"X: y\rTransfer-Encoding: chunked",
    "CR CR LF before it": b"X: y\r\r\nTransfer-Encoding: chunked",
    "LF CR before it": b"X: y\n\rTransfer-Encoding: chunked",
    "a bare CR behind": b"Transfer-Encoding: chunked\r",
    "twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "twice, then identity": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "twice, first odd": b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
    "twice, one empty": b"Transfer-Encoding: chunked\r\nTransfer-Encoding:",
    "named in Connection": b"Transfer-Encoding: chunked\r\nConnection: transfer-encoding",
}

LENGTHS = {
    "plus": b"Content-Length: +5",
    "minus": b"Content-Length: -5",
    "hexadecimal": b"Content-Length: 0x5",
    "bare hexadecimal": b"Content-Length: a",
    "octal prefix": b"Content-Length: 0o5",
    "fraction": b"Content-Length: 5.0",
    "exponent": b"Content-Length: 5e0",
    "underscore": b"Content-Length: 5_0",
    "thousands": b"Content-Length: 1,000",
    "list": b"Content-Length: 5, 5",
    "list of two": b"Content-Length: 5, 0",
    "comma behind": b"Content-Length: 5,",
    "space within": b"Content-Length: 5 5",
    "letter behind": b"Content-Length: 5x",
    "semicolon": b"Content-Length: 5;",
    "quoted": b'Content-Length: "5"',
    "empty": b"Content-Length:",
    "only spaces": b"Content-Length:   ",
    "64 bits": b"Content-Length: 18446744073709551621",
    "32 bits and more, too long": b"Content-Length: 0000000000000000000005",
    "forty digits": b"Content-Length: " + b"9" * 40,
    "vertical tab": b"Content-Length: \x0b5",
    "NUL": b"Content-Length: 5\x00",
    "non-breaking space": b"Content-Length: \xa05",
    "Arabic digit": b"Content-Length: \xd9\xa5",
    "superscript": b"Content-Length: \xb2",
    "full-width digit": b"Content-Length: \xef\xbc\x95",
    "space before the colon": b"Content-Length : 5",
    "folded": b"Content-Length:\r\n 5",
    "folded behind": b"Content-Length: 5\r\n 0",
    "twice": b"Content-Length: 5\r\nContent-Length: 5",
    "twice, differing": b"Content-Length: 5\r\nContent-Length: 0",
    "twice, in another case": b"Content-Length: 0\r\ncontent-length: 5",
    "twice, one empty": b"Content-Length: 5\r\nContent-Length:",
    "named in Connection": b"Content-Length: 5\r\nConnection: Content-Length",
    "named in Connection, behind others": (
        b"Connection: close, x, CONTENT-LENGTH\r\nContent-Length: 5"
    ),
    "a bare LF before it": b"X: y\nContent-Length: 5",
}

#: Behind a good head with Transfer-Encoding: chunked.
CHUNKS = {
    "0x": b"0x5\r\nhello\r\n" + _END,
    "0x0": b"0x0\r\n\r\n",
    "plus": b"+5\r\nhello\r\n" + _END,
    "minus": b"-5\r\nhello\r\n" + _END,
    "minus nothing": b"-0\r\n\r\n",
    "underscore": b"0_5\r\nhello\r\n" + _END,
    "space before": b" 5\r\nhello\r\n" + _END,
    "space behind": b"5 \r\nhello\r\n" + _END,
    "tab behind": b"5\t\r\nhello\r\n" + _END,
    "space within": b"1 0\r\n" + b"h" * 16 + b"\r\n" + _END,
    "vertical tab": b"5\x0b\r\nhello\r\n" + _END,
    "NUL": b"5\x00\r\nhello\r\n" + _END,
    "letter behind": b"5x\r\nhello\r\n" + _END,
    "comma": b"5,\r\nhello\r\n" + _END,
    "quotes": b'"5"\r\nhello\r\n' + _END,
    "not hexadecimal": b"g\r\n" + _END,
    "no size": b"\r\nhello\r\n" + _END,
    "only an extension": b";a\r\nhello\r\n" + _END,
    "64 bits": b"10000000000000005\r\nhello\r\n" + _END,
    "sixteen zeros and more": b"00000000000000000005\r\nhello\r\n" + _END,
    "64 bits minus one": b"ffffffffffffffff\r\nhello",
    "full-width digit": b"\xef\xbc\x95\r\nhello\r\n" + _END,
    "bare LF behind the size": b"5\nhello\r\n" + _END,
    "bare CR behind the size": b"5\rhello\r\n" + _END,
    "bare LF behind the data": b"5\r\nhello\n" + _END,
    "bare CR behind the data": b"5\r\nhello\r" + _END,
    "nothing behind the data": b"5\r\nhello" + _END,
    "longer than its size": b"5\r\nhelloo\r\n" + _END,
    "shorter than its size": b"5\r\nhell\r\n" + _END,
    "bare LF in an extension": b"5;\nhello\r\n" + _END,
    "bare LF in a long extension": b"2;" + b"x" * 5 + b"\nxx\r\n45\r\n" + _END,
    "bare CR in an extension": b"5;a\rb\r\nhello\r\n" + _END,
    "NUL in an extension": b"5;a\x00\r\nhello\r\n" + _END,
    "an endless extension": b"5;" + b"a" * 70_000 + b"\r\nhello\r\n" + _END,
    "bare LF at the end": b"0\r\n\n",
    "bare LFs at the end": b"0\n\n",
    "something behind the last size": b"0 \r\n\r\n",
    "a folded trailer": b"0\r\nX: 1\r\n 2\r\n\r\n",
    "a trailer with a space": b"0\r\nX : 1\r\n\r\n",
    "a trailer without a colon": b"0\r\nX\r\n\r\n",
    "a trailer with a bare LF": b"0\r\nX: 1\nY: 2\r\n\r\n",
    "a trailer with NUL": b"0\r\nX: \x00\r\n\r\n",
    "a request as a trailer": b"0\r\n" + SMUGGLED,
    "Content-Length as a trailer": b"0\r\nContent-Length: 5\r\n\r\nhello",
    "Transfer-Encoding as a trailer": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "Host as a trailer": b"0\r\nHost: evil\r\n\r\n",
    "Authorization as a trailer": b"0\r\nAuthorization: Basic YTpi\r\n\r\n",
    "Cookie as a trailer": b"0\r\nCookie: a=b\r\n\r\n",
    "endless trailers": b"0\r\n" + b"X: aaaaaaaaaaaaaaaa\r\n" * 5000 + b"\r\n",
}

HEADS = {
    "another host in the target": post(line=b"GET http://other/x HTTP/1.1"),
    "another port in the target": post(line=b"GET http://h:81/x HTTP/1.1"),
    "user information in the target": post(line=b"GET http://h@evil:80/x HTTP/1.1"),
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/1.2": post(line=b"GET / HTTP/1.2"),
    "HTTP/1.10": post(line=b"GET / HTTP/1.10"),
    "HTTP/1.01": post(line=b"GET / HTTP/1.01"),
    "HTTP/2.0": post(line=b"GET / HTTP/2.0"),
    "HTTP/3.0": post(line=b"GET / HTTP/3.0"),
    "HTTP/1": post(line=b"GET / HTTP/1"),
    "HTTP/ 1.1": post(line=b"GET / HTTP/ 1.1"),
    "http/1.1": post(line=b"GET / http/1.1"),
    "HTTP/1,1": post(line=b"GET / HTTP/1,1"),
    "HTTPS/1.1": post(line=b"GET / HTTPS/1.1"),
    "no version": post(line=b"GET /"),
    "two versions": post(line=b"GET / HTTP/1.1 HTTP/1.1"),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "PROXY protocol": b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" + SAFE,
    "a space before the method": b" " + SAFE,
    "a tab after the method": post(line=b"GET\t/ HTTP/1.1"),
    "two spaces": post(line=b"GET  / HTTP/1.1"),
    "a space at the end": post(line=b"GET / HTTP/1.1 "),
    "a space in the target": post(line=b"GET /a b HTTP/1.1"),
    "vertical tab as a space": post(line=b"GET\x0b/\x0bHTTP/1.1"),
    "NUL in the target": post(line=b"GET /\x00 HTTP/1.1"),
    "NUL in the method": post(line=b"G\x00T / HTTP/1.1"),
    "delete in the target": post(line=b"GET /\x7f HTTP/1.1"),
    "a bare CR in the target": post(line=b"GET /\rx HTTP/1.1"),
    "a colon in the method": post(line=b"GE:T / HTTP/1.1"),
    "no method": post(line=b"/ HTTP/1.1"),
    "a relative target": post(line=b"GET x HTTP/1.1"),
    "a target of ?": post(line=b"GET ?x HTTP/1.1"),
    "a backslash target": post(line=b"GET \\x HTTP/1.1"),
    "an authority as target": post(line=b"GET h:80 HTTP/1.1"),
    "CONNECT": post(line=b"CONNECT h:443 HTTP/1.1"),
    "CONNECT with a path": post(line=b"CONNECT /x HTTP/1.1"),
    "** as target": post(line=b"OPTIONS ** HTTP/1.1"),
    "an endless target": post(line=b"GET /" + b"a" * 70_000 + b" HTTP/1.1"),
    "too many fields": post(*[b"a: b"] * 3000),
    "an endless head": b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n",
    "an endless line": b"G" * (1 << 20) + b"G",
    "no Host": post(host=b""),
    "two Hosts": post(b"Host: evil"),
    "two equal Hosts": post(b"host: h"),
    "Host and an empty Host": post(b"Host:"),
    "Host folded": post(host=b"Host:\r\n h"),
    "space before Host's colon": post(host=b"Host : h"),
    "two hosts in one Host": post(host=b"Host: h, evil"),
    "two hosts and a space": post(host=b"Host: h evil"),
    "Host with a path": post(host=b"Host: h/evil"),
    "Host with a query": post(host=b"Host: h?x"),
    "Host with a fragment": post(host=b"Host: h#x"),
    "Host with user": post(host=b"Host: u:p@h"),
    "Host with a backslash": post(host=b"Host: h\\evil"),
    "Host with markup": post(host=b"Host: <script>"),
    "Host with quotes": post(host=b'Host: h"x'),
    "Host with a bad port": post(host=b"Host: h:80x"),
    "Host with a long port": post(host=b"Host: h:123456"),
    "Host with two ports": post(host=b"Host: h:80:80"),
    "Host of a bracket": post(host=b"Host: [::1"),
    "Host non-ASCII": post(host=b"Host: \xe4"),
    "two Hosts on HTTP/1.0": post(b"Host: evil", line=b"GET / HTTP/1.0"),
    "Host named in Connection": post(b"Connection: host"),
    "a first line that is folded": post(host=b" Host: h"),
    "a folded field": post(b"X: a", b" b"),
    "a folded field with a tab": post(b"X: a", b"\tb"),
    "an empty fold": post(b"X: a", b" "),
    "a field without a name": post(b": a"),
    "a field without a colon": post(b"X"),
    "a quoted name": post(b'"X": a'),
    "a name with a space": post(b"X A: a"),
    "a name with a bracket": post(b"X(A: a"),
    "a name with a slash": post(b"X/A: a"),
    "a non-ASCII name": post(b"X\xe4: a"),
    "NUL in a value": post(b"X: a\x00b"),
    "backspace in a value": post(b"X: a\x08b"),
    "escape in a value": post(b"X: \x1b[2J"),
    "a bare CR in a value": post(b"X: a\rb"),
    "a bare LF in a value": post(b"X: a\nb"),
    "a bare LF behind the request line": b"GET / HTTP/1.1\nHost: h\r\n\r\n",
    "only bare LFs": b"GET / HTTP/1.1\nHost: h\n\n",
    "only bare CRs": b"GET / HTTP/1.1\rHost: h\r\r",
    "a head that ends with LF LF": b"GET / HTTP/1.1\r\nHost: h\n\n",
    "three empty lines before": b"\r\n\r\n\r\n" + SAFE,
    "a bare LF before": b"\n" + SAFE,
    "chunks on HTTP/1.0": post(_TE, line=b"POST / HTTP/1.0", body=_END),
}


def _refused() -> list[Attack]:
    found = [Attack(name, raw + SMUGGLED, Refused()) for name, raw in HEADS.items()]
    for name, line in OBFUSCATED.items():
        found.append(Attack(f"TE.TE {name}", post(line, body=_END + SMUGGLED), Refused()))
        beside = post(line, _CL % (len(_END + SMUGGLED)), body=_END + SMUGGLED)
        found.append(Attack(f"CL beside TE {name}", beside, Refused()))
    for name, line in LENGTHS.items():
        found.append(Attack(f"length: {name}", post(line, body=b"hello" + SMUGGLED), Refused()))
    both = {
        "CL.TE": post(_CL % len(_END + SMUGGLED), _TE, body=_END + SMUGGLED),
        "TE.CL": post(_TE, _CL % 4, body=b"%x\r\n%b\r\n%b" % (len(SMUGGLED), SMUGGLED, _END)),
        "CL.TE with length 0": post(_CL % 0, _TE, body=_END + SMUGGLED),
        "CL.TE in lower case": post(
            b"content-length: 6", b"transfer-encoding: CHUNKED", body=_END + b"G"
        ),
        "CL.TE on GET": post(_CL % 5, _TE, line=b"GET / HTTP/1.1", body=_END),
        "CL.TE with a bad length": post(b"Content-Length: x", _TE, body=_END),
    }
    return found + [Attack(name, raw, Refused()) for name, raw in both.items()]


def _broken() -> list[Attack]:
    return [
        Attack(f"chunks: {name}", post(_TE, body=body + SMUGGLED), Broken())
        for name, body in CHUNKS.items()
    ]


def _forwarded() -> list[Attack]:
    inside = post(_CL % len(SMUGGLED), body=SMUGGLED)
    get = post(_CL % len(SMUGGLED), line=b"GET /x HTTP/1.1", body=SMUGGLED)
    chunked = post(_TE, body=b"%x\r\n%b\r\n%b" % (len(SMUGGLED), SMUGGLED, _END))
    extended = post(_TE, body=b"%x;a=b\r\n%b\r\n0;c\r\n\r\n" % (len(SMUGGLED), SMUGGLED))
    named = post(b"X_Content-Length: 5", b"Content_Length: 9", b"X-Transfer-Encoding: chunked")
    upgrade = post(
        b"Connection: Upgrade", b"Upgrade: websocket", line=b"GET /s HTTP/1.1", host=b"Host: h"
    )
    socket = post(b"Upgrade: websocket", b"Connection: Upgrade", line=b"GET /s HTTP/1.1")
    h2c = post(
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: A",
        line=b"GET / HTTP/1.1",
    )
    plain = post(line=b"GET / HTTP/1.1")
    crlf = post(line=b"GET /%0d%0aX-A:%20b HTTP/1.1")
    tunnel = b"GET /s HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    cases = {
        "CL.0: a request as a body": (inside, (inside,)),
        "CL.0 on GET": (get, (get,)),
        "a request as a chunk": (chunked, (chunked,)),
        "a request as a chunk with extensions": (extended, (chunked,)),
        "a request behind a body": (inside + SAFE, (inside, SAFE)),
        "a request behind chunks": (chunked + SAFE, (chunked, SAFE)),
        "POST without a length": (post() + SAFE, (post(), SAFE)),
        "names that resemble framing": (named + SAFE, (named, SAFE)),
        "length 0 and a request": (post(_CL % 0) + SAFE, (post(_CL % 0), SAFE)),
        "an upgrade that U refuses": (socket + SAFE, (tunnel, SAFE)),
        "an upgrade in the other order": (upgrade + SAFE, (tunnel, SAFE)),
        "an upgrade to h2c": (h2c + SAFE, (plain, SAFE)),
        "an upgrade of POST": (
            post(b"Upgrade: websocket", b"Connection: Upgrade", _CL % 2, body=b"hi"),
            (post(_CL % 2, body=b"hi"),),
        ),
        "an escaped CRLF in the target": (crlf, (crlf,)),
        "credentials named in Connection": (
            post(
                b"Authorization: Basic YTpi", b"Connection: authorization", line=b"GET / HTTP/1.1"
            ),
            (plain,),
        ),
        "forwarding fields named in Connection": (
            post(
                b"X-Forwarded-For: 1.1.1.1",
                b"Connection: keep-alive, X-Forwarded-For",
                line=b"GET / HTTP/1.1",
            ),
            (plain,),
        ),
        "TE: trailers": (
            post(b"TE: trailers", b"Connection: TE", line=b"GET / HTTP/1.1"),
            (plain,),
        ),
        "one empty line before": (b"\r\n" + SAFE, (SAFE,)),
    }
    return [Attack(name, raw, Forwarded(requests)) for name, (raw, requests) in cases.items()]


ATTACKS = [*_refused(), *_broken(), *_forwarded()]

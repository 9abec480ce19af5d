"""What is sent both ways, as data: requests with answers, and the names of the differences that are
meant.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """`asked` holds requests, sent at once; `answered` the upstream's answer to each of them, in
    order.

    `differs` names all that may differ on the two sides (tests/transparency/differences.py).
    `closes`: the upstream ends its last connection after the answer, which tells the end of its
    body.
    """

    name: str
    requests: tuple[bytes, ...]
    answered: tuple[bytes, ...]
    differs: frozenset[str] = field(default=frozenset())
    closes: bool = False


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def request(
    *lines: bytes, line: bytes = b"GET /v8/x HTTP/1.1", body: bytes = b"", host: bytes = b"Host: h"
) -> bytes:
    return b"\r\n".join([line, *([host] if host else []), *lines, b"", b""]) + body


def response(*lines: bytes, line: bytes = b"HTTP/1.1 200 OK", body: bytes = b"") -> bytes:
    return b"\r\n".join([line, *lines, b"", b""]) + body


def sized(*lines: bytes, line: bytes = b"HTTP/1.1 200 OK", body: bytes = b"ok") -> bytes:
    return response(*lines, b"Content-Length: %d" % len(body), line=line, body=body)


def asking(name: str, raw: bytes, *differs: str) -> Case:
    return Case(
        name,
        (raw,),
        (OK if not raw.startswith(b"HEAD ") else response(b"Content-Length: 2"),),
        frozenset(differs),
    )


def answering(
    name: str, raw: bytes, *differs: str, request: bytes = GET, closes: bool = False
) -> Case:
    return Case(name, (request,), (raw,), frozenset(differs), closes)


TARGETS = [
    b"/",
    b"//",
    b"///",
    b"//v6/x",
    b"/v6//x//",
    b"/a%2Fb",
    b"/a%2fb",
    b"/%7e%7E~",
    b"/%41%zz%",
    b"/%00",
    b"/%0d%0aX-A:%201",
    b"/a+b",
    b"/a%20b",
    b"/a;b=c;d",
    b"/a,b",
    b"/a:b@c",
    b"/./a/../b/.",
    b"/..",
    b"/../../etc/passwd",
    b"/%2e%2e/a",
    b"/a/",
    b"/x?",
    b"/x??",
    b"/x?&&",
    b"/x?a=b&a=c&A=d",
    b"/x?a",
    b"/x?a=%26&b=+",
    b"/x?q=http://other/?x#y",
    b"/x#fragment",
    b"/x?async=true",
    b"/v8/token?async=true",
    b"/v8/RestoreSessions/1/organization/Mailboxes?async=0",
    b"/v8/RestoreSessions/AbC%2F+=:x/organization/mailboxes/%C3%A4",
    b'/"<>[]{}|\\^`',
    b"/\xc3\xa4/\xff\xfe",
    b"/x?\xe4=\xf6",
    b"/" + b"a" * 8191,
    b"/x?" + b"q=1&" * 2048,
    b"/" + b"%2F" * 5000,
    b"http://h/x",
    b"http://h:80/x?y",
    b"HTTPS://h",
    b"http://h//x/../y?",
    b"/_asyncx",
    b"/v8/_asynchronous/x",
    b"/x/_async/exports",
]

METHODS = [
    *[b"HEAD", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"POST"],
    *[b"PROPFIND", b"M-SEARCH", b"get", b"Get", b"X", b"PRI", b"!#$%&'*+-.^_`|~", b"A" * 200],
]

FIELDS = {
    "case": (b"x-lower: 1", b"X-UPPER: 2", b"X-mIxEd: 3"),
    "order": (b"B: 1", b"A: 2", b"C: 3", b"A: 4"),
    "repeats": (b"X-A: 1", b"X-A: 1", b"X-A: 2"),
    "repeats that differ in case": (b"X-A: 1", b"x-a: 2", b"X-a: 3"),
    "underscores beside hyphens": (b"X_A: 1", b"X-A: 2"),
    "empty values": (b"X-A:", b"X-B: ", b"X-C:\t"),
    "white space around values": (b"X-A:1", b"X-B:   1", b"X-C: 1  ", b"X-D:\t1\t"),
    "white space within values": (b"X-A: a  b\tc",),
    "non-ASCII values": (b"X-A: \xc3\xa4", b"X-B: \xff\xfe\x80", b"X-C: \xe4\xa0"),
    "a name of every token byte": (b"!#$%&'*+-.^_`|~09AZaz: 1",),
    "a name of one byte": (b"a: 1",),
    "a name of 4 KiB": (b"X-" + b"n" * 4096 + b": 1",),
    "colons in values": (b"X-A: :a:b:", b"X-B::"),
    "quotes and commas": (b'X-A: "a,b", c;d="\\""',),
    "a token of 64 KiB": (b"Authorization: Bearer " + b"t" * 65536,),
    "1,000 fields": tuple(b"X-%d: v%d" % (n, n) for n in range(1000)),
    "credentials": (
        b"Authorization: Basic YTpi",
        b"Cookie: a=b; c=d",
        b"Cookie: e=f",
        b"X-XSRF-TOKEN: t",
    ),
    "proxy credentials": (b"Proxy-Authorization: Basic YTpi",),
    "codings": (b"Accept-Encoding: gzip;q=1.0, br, *;q=0", b"Accept: */*"),
    "preconditions": (
        b'If-None-Match: W/"a", *',
        b"If-Modified-Since: nonsense",
        b"Range: bytes=0-,5-6",
        b"If-Range: x",
    ),
    "preferences": (b"Prefer: respond-async, wait=5", b"Idempotency-Key: k"),
    "forwarding": (
        b"X-Forwarded-For: 1.2.3.4",
        b"Forwarded: for=1.2.3.4",
        b"Via: 1.0 a",
        b"X-Forwarded-Proto: https",
    ),
    "an agent": (b"User-Agent: \xe4gent/1.0 (a; b)", b"Referer: /x", b"Origin: null"),
    "a date": (b"Date: not a date",),
    "an expectation that is not ours": (b"Expect: 200-ok",),
    "upgrade-insecure-requests": (b"Upgrade-Insecure-Requests: 1", b"Sec-Fetch-Mode: cors"),
    "names that resemble framing": (
        b"Content-Length-X: 5",
        b"X-Transfer-Encoding: chunked",
        b"Content_Length: 7",
    ),
    "a trailer announcement": (b"Trailer: X-Sum",),
}

HOSTS = [
    b"Host:",
    b"Host: ",
    b"HOST: h:4443",
    b"host:h",
    b"Host: [::1]:80",
    b"Host: a.b-c_d",
    b"Host: h.",
]

BODIES = {
    "not JSON": b'{"a":1,}',
    "zeros": b"\x00" * 100,
    "line ends": b"\r\n\r\n\n\r",
    "another request": GET,
    "a chunked body": b"0\r\n\r\n",
    "every byte": bytes(range(256)) * 40,
    "one byte": b"x",
}

CHUNKED = {
    "one chunk": b"5\r\nhello\r\n0\r\n\r\n",
    "many chunks": b"1\r\na\r\n" * 50 + b"0\r\n\r\n",
    "leading zeros": b"0005\r\nhello\r\n000\r\n\r\n",
    "upper and lower hexadecimals": b"a\r\n0123456789\r\nB\r\n01234567890\r\n0\r\n\r\n",
    "nothing": b"0\r\n\r\n",
    "line ends within": b"4\r\n\r\n\r\n\r\n0\r\n\r\n",
    "trailers": b"1\r\na\r\n0\r\nX-Sum: 1\r\nx-sum:2\r\nEmpty:\r\n\r\n",
    "a chunk of 100 KB": b"186a0\r\n" + b"c" * 100_000 + b"\r\n0\r\n\r\n",
}
EXTENDED = {
    "a name": b"5;a\r\nhello\r\n0\r\n\r\n",
    "a value": b"5;a=b\r\nhello\r\n0;z=1\r\n\r\n",
    "quoted": b'5;a="b c"\r\nhello\r\n0\r\n\r\n',
    "spaced": b"5 ; a=b\r\nhello\r\n0\r\n\r\n",
    "beside trailers": b"1;a\r\nx\r\n0;b\r\nX-Sum: 1\r\n\r\n",
}
_TE = b"Transfer-Encoding: chunked"
_LINES = [
    *[b"%s /x HTTP/1.1" % method for method in (b"POST", b"GET", b"DELETE")],
    b"ODD /x HTTP/1.1",
]

HOPS = {
    "Connection: close": (b"Connection: close",),
    "Connection: keep-alive": (b"Connection: keep-alive", b"Keep-Alive: timeout=5"),
    "named in Connection": (b"Connection: X-A, x-b", b"X-A: 1", b"X-B: 2", b"X-C: 3"),
    "named in two lines": (b"Connection: X-A", b"X-A: 1", b"connection:x-b ,", b"x-B: 2"),
    "TE": (b"TE: trailers, gzip;q=0.5", b"Connection: TE"),
    "Proxy-Connection": (b"Proxy-Connection: keep-alive",),
    "h2c": (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: A"),
    "Upgrade that is not announced": (b"Upgrade: websocket",),
    "an empty Connection": (b"Connection:",),
}


def _close(name: str) -> tuple[str, ...]:
    return ("own_connection_line",) if "close" in name else ()


def requests() -> list[Case]:
    """What clients send."""
    found = [
        asking(f"target {target[:30]!r}", request(line=b"GET %b HTTP/1.1" % target))
        for target in TARGETS
    ]
    found.append(asking("target *", request(line=b"OPTIONS * HTTP/1.1")))
    found += [
        asking(f"method {method[:20]!r}", request(line=b"%b /x HTTP/1.1" % method))
        for method in METHODS
    ]
    found += [asking(f"fields: {name}", request(*lines)) for name, lines in FIELDS.items()]
    found += [asking(f"host {host!r}", request(host=host)) for host in HOSTS]
    for name, body in BODIES.items():
        for line in _LINES if name == "one byte" else _LINES[:1]:
            length = b"content-LENGTH:%d" % len(body)
            found.append(
                asking(f"{line[:4]!r} with a body: {name}", request(length, line=line, body=body))
            )
    found.append(asking("length 0", request(b"Content-Length: 0", line=_LINES[0])))
    found.append(asking("length 002", request(b"Content-Length: 002", line=_LINES[0], body=b"ab")))
    found.append(asking("no length", request(line=_LINES[0])))
    for name, body in CHUNKED.items():
        for line in _LINES if name == "one chunk" else _LINES[:1]:
            found.append(
                asking(f"{line[:4]!r} with chunks: {name}", request(_TE, line=line, body=body))
            )
    found.append(
        asking(
            "Chunked", request(b"transfer-ENCODING:\tChunked ", line=_LINES[0], body=b"0\r\n\r\n")
        )
    )
    for name, body in EXTENDED.items():
        found.append(
            asking(
                f"extensions: {name}", request(_TE, line=_LINES[0], body=body), "chunk_extensions"
            )
        )
    for name, lines in HOPS.items():
        found.append(
            asking(f"hop by hop: {name}", request(*lines), "hop_by_hop_fields", *_close(name))
        )
    found.append(asking("an empty line before", b"\r\n" + GET, "empty_line_before_a_request"))
    return [*found, *_pipelines()]


def _pipelines() -> list[Case]:
    post = request(b"Content-Length: 3", line=b"POST /p HTTP/1.1", body=b"abc")
    chunked = request(_TE, line=b"PUT /c HTTP/1.1", body=b"3\r\nabc\r\n0\r\n\r\n")
    head = request(line=b"HEAD /h HTTP/1.1")
    short = response(b"Content-Length: 2")
    return [
        Case("two pipelined", (GET, GET), (OK, OK)),
        Case("pipelined behind bodies", (post, chunked, GET, post), (OK, OK, OK, OK)),
        Case("pipelined HEAD", (head, GET, head, GET), (short, OK, short, OK)),
        Case("pipelined, chunked answers", (GET, GET), (_chunked(b"2\r\nok\r\n0\r\n\r\n"), OK)),
        Case("forty pipelined", (GET,) * 40, (OK,) * 40),
        Case(
            "empty lines between",
            (post, b"\r\n" + GET),
            (OK, OK),
            frozenset({"empty_line_before_a_request"}),
        ),
        Case(
            "close after the second",
            (GET, request(b"Connection: close")),
            (OK, OK),
            frozenset({"hop_by_hop_fields", "own_connection_line"}),
        ),
    ]


STATUSES = [
    200,
    201,
    202,
    203,
    206,
    207,
    226,
    299,
    300,
    301,
    302,
    303,
    307,
    400,
    401,
    403,
    404,
    405,
    409,
    410,
]
STATUSES += [
    411,
    412,
    416,
    418,
    422,
    426,
    429,
    451,
    499,
    500,
    501,
    503,
    504,
    511,
    599,
    600,
    777,
    999,
]

REASONS = {
    "empty": b"",
    "one space": b" ",
    "non-ASCII": b"Sch\xf6n \xc3\xa4",
    "two spaces": b"Very  odd",
    "a colon": b"Odd: yes",
    "digits": b"200 OK HTTP/1.1",
    "a tab": b"a\tb",
    "1 KiB": b"r" * 1024,
}

ANSWER_FIELDS = {
    **{
        name: FIELDS[name]
        for name in FIELDS
        if name not in ("proxy credentials", "an expectation that is not ours")
    },
    "several Set-Cookie": (b"Set-Cookie: a=1; Path=/", b"set-cookie: b=2", b"Set-Cookie: a=3, 4"),
    "Date and Server": (
        b"Date: Mon, 23 Nov 2026 03:12:04 GMT",
        b"Server: Kestrel",
        b"X-Powered-By: ASP.NET",
    ),
    "Location": (b"Location: //odd/../%2f", b"Content-Location: x"),
    "challenges": (b"WWW-Authenticate: Negotiate", b'WWW-Authenticate: Basic realm="\xe4"'),
    "a made-up marker": (
        b"X-VB365-Async: proxy",
        b"Preference-Applied: respond-async",
        b"Retry-After: -1",
    ),
    "disposition": (
        b"Content-Disposition: attachment; filename=\"\xe4.pst\"; filename*=UTF-8''%C3%A4.pst",
    ),
    "Alt-Svc": (b'Alt-Svc: h3=":443"', b"Strict-Transport-Security: max-age=1"),
}

_DECHUNKED = ("no_chunks_to_http_1_0", "own_connection_line")


def _chunked(body: bytes, *lines: bytes) -> bytes:
    return response(*lines, _TE, body=body)


def responses() -> list[Case]:
    """What the upstream sends."""
    found = [
        answering(f"status {status}", sized(line=b"HTTP/1.1 %d Why" % status))
        for status in STATUSES
    ]
    for name, reason in REASONS.items():
        found.append(answering(f"reason: {name}", sized(line=b"HTTP/1.1 200 " + reason)))
    found.append(
        answering("no reason", sized(line=b"HTTP/1.1 200"), "space_before_an_absent_reason")
    )
    found += [answering(f"answered {name}", sized(*lines)) for name, lines in ANSWER_FIELDS.items()]
    found.append(
        answering("gzip", sized(b"Content-Encoding: gzip", body=gzip.compress(b"hello", mtime=0)))
    )
    found.append(answering("gzip that is none", sized(b"Content-Encoding: gzip, br", body=b"no")))
    found.append(answering("a length of 0", sized(body=b"")))
    for name, body in BODIES.items():
        found.append(answering(f"answered body: {name}", sized(body=body)))
        ending = "own_connection_line"
        found.append(answering(f"until close: {name}", response(body=body), ending, closes=True))
    found.append(answering("until close: nothing", response(), "own_connection_line", closes=True))
    found += [
        answering(f"answered chunks: {name}", _chunked(body)) for name, body in CHUNKED.items()
    ]
    for name, body in EXTENDED.items():
        found.append(
            answering(f"answered extensions: {name}", _chunked(body), "answered_chunk_extensions")
        )
    for name in (
        "Connection: close",
        "Connection: keep-alive",
        "named in Connection",
        "Proxy-Connection",
    ):
        found.append(
            answering(f"answered {name}", sized(*HOPS[name]), "answered_hop_by_hop_fields")
        )
    return [*found, *_bodiless(), *_interim(), *_old()]


def _bodiless() -> list[Case]:
    head = request(line=b"HEAD /x HTTP/1.1")
    return [
        answering("HEAD with a length", response(b"Content-Length: 5000000000"), request=head),
        answering("HEAD with chunks", response(_TE), request=head),
        answering("HEAD with neither", response(b"X: 1"), request=head),
        answering(
            "HEAD, 404", response(b"Content-Length: 5", line=b"HTTP/1.1 404 No"), request=head
        ),
        answering("204", response(b"X: 1", line=b"HTTP/1.1 204 No Content")),
        answering(
            "204 with length 0", response(b"Content-Length: 0", line=b"HTTP/1.1 204 No Content")
        ),
        answering(
            "204 with chunks",
            response(_TE, line=b"HTTP/1.1 204 No Content"),
            "no_transfer_encoding_without_a_body",
        ),
        answering("304", response(b'ETag: "x"', line=b"HTTP/1.1 304 Not Modified")),
        answering(
            "304 with a length", response(b"Content-Length: 9", line=b"HTTP/1.1 304 Not Modified")
        ),
        answering("304 with chunks", response(_TE, line=b"HTTP/1.1 304 Not Modified")),
        answering("205 with length 0", response(b"Content-Length: 0", line=b"HTTP/1.1 205 Reset")),
    ]


def _interim() -> list[Case]:
    hints = response(b"Link: </x>; rel=preload", b"link:\xe4", line=b"HTTP/1.1 103 Early Hints")
    processing = response(line=b"HTTP/1.1 102 Processing")
    post = request(b"Content-Length: 2", line=b"POST /x HTTP/1.1", body=b"ab")
    return [
        answering("103", hints + OK),
        answering("102 many times", processing * 30 + OK),
        answering("199", response(line=b"HTTP/1.1 199 \xe4") + OK),
        answering("100 unasked", response(line=b"HTTP/1.1 100 Continue") + OK, request=post),
        answering("103 before 204", hints + response(line=b"HTTP/1.1 204 No Content")),
        answering("103 before chunks", hints + _chunked(b"2\r\nok\r\n0\r\n\r\n")),
        answering(
            "103 to HEAD",
            hints + response(b"Content-Length: 2"),
            request=request(line=b"HEAD /x HTTP/1.1"),
        ),
    ]


def _old() -> list[Case]:
    """HTTP/1.0, on either side."""
    line = b"GET /v8/x HTTP/1.0"
    plain = request(line=line, host=b"")
    hosted = request(line=line)
    kept = request(b"Connection: keep-alive", line=line)
    ended = "own_connection_line"
    hints = response(line=b"HTTP/1.1 103 Early Hints")
    old = b"HTTP/1.0 200 OK"
    post = request(b"Content-Length: 2", line=b"POST /x HTTP/1.0", body=b"ab")
    return [
        answering("1.0", OK, ended, request=plain),
        answering("1.0 with Host", OK, ended, request=hosted),
        answering("1.0 with a body", OK, ended, request=post),
        answering(
            "1.0 HEAD",
            response(b"Content-Length: 2"),
            ended,
            request=request(line=b"HEAD /x HTTP/1.0"),
        ),
        answering("1.0 kept", OK, "hop_by_hop_fields", ended, request=kept),
        Case("1.0 kept twice", (kept, kept), (OK, OK), frozenset({"hop_by_hop_fields", ended})),
        answering(
            "1.0, chunks",
            _chunked(b"2\r\nok\r\n3\r\n, o\r\n0\r\n\r\n"),
            *_DECHUNKED,
            request=hosted,
        ),
        answering(
            "1.0, trailers", _chunked(b"2\r\nok\r\n0\r\nX: 1\r\n\r\n"), *_DECHUNKED, request=hosted
        ),
        answering("1.0, no chunk", _chunked(b"0\r\n\r\n", b"X: 1"), *_DECHUNKED, request=hosted),
        answering("1.0, 103", hints + OK, "no_interim_answers_to_http_1_0", ended, request=hosted),
        answering("1.0, until close", response(body=b"ok"), ended, request=hosted, closes=True),
        answering(
            "answered 1.0", response(line=old, body=b"ok"), "own_version", ended, closes=True
        ),
        answering("answered 1.0 with a length", sized(line=old), "own_version"),
        answering(
            "answered 1.0 kept",
            sized(b"Connection: keep-alive", line=old),
            "own_version",
            "answered_hop_by_hop_fields",
        ),
        answering("1.0 on both sides", sized(line=old), "own_version", ended, request=hosted),
        answering(
            "1.0 without a reason",
            sized(line=b"HTTP/1.0 404"),
            "own_version",
            "space_before_an_absent_reason",
        ),
    ]


CASES = [*requests(), *responses()]

"""Clients written against odd servers (urllib3, http.client, httpx), directly and through the proxy
(CONTRACT §12).
"""

from __future__ import annotations

import http.client
from collections.abc import Callable

import httpx
import pytest
import urllib3

from tests.interop.foreign.servers import Raw, proxy_in_front_of

LIMIT = 20
#: What an odd server says, in the pieces in which it says it.
ODD: dict[str, list[bytes]] = {
    "chunk extensions": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"5;a=b\r\nhello\r\n0;c\r\n\r\n",
    ],
    "chunks in bytes": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        *[bytes([byte]) for byte in b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"],
    ],
    "chunk sizes with zeros": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n000005\r\nhello\r\n000\r\n\r\n"
    ],
    "trailers": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
    ],
    "no reason": [b"HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello"],
    "no reason and no space": [b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello"],
    "an odd reason": [b"HTTP/1.1 200 Very  Odd: \xe4\r\nContent-Length: 5\r\n\r\nhello"],
    "lower case": [b"HTTP/1.1 200 ok\r\ncontent-length:5\r\ncontent-type:text/plain\r\n\r\nhello"],
    "upper case": [b"HTTP/1.1 200 OK\r\nCONTENT-LENGTH: 5\r\n\r\nhello"],
    "until close": [b"HTTP/1.1 200 OK\r\n\r\n", b"hel", b"lo"],
    "until close, empty": [b"HTTP/1.1 200 OK\r\n\r\n"],
    "HTTP/1.0": [b"HTTP/1.0 200 OK\r\n\r\nhello"],
    "HTTP/1.0 with a length": [b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"],
    "a flood of 1xx": [
        b"HTTP/1.1 102 Processing\r\n\r\n" * 90,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
    "100 unasked": [
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    ],
    "103 with fields": [
        b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    ],
    "a head in bytes": [
        bytes([byte]) for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    ],
    "many fields": [
        b"HTTP/1.1 200 OK\r\n"
        + b"".join(b"X-%d: v\r\n" % n for n in range(90))
        + b"Content-Length: 5\r\n\r\nhello"
    ],
    "a long field": [
        b"HTTP/1.1 200 OK\r\nX: " + b"v" * 60_000 + b"\r\nContent-Length: 5\r\n\r\nhello"
    ],
    "repeated fields": [
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nContent-Length: 0\r\n\r\n"
    ],
    "empty fields": [b"HTTP/1.1 200 OK\r\nX:\r\nContent-Length: 0\r\n\r\n"],
    "non-ASCII fields": [b"HTTP/1.1 200 OK\r\nX: \xe4\xc3\xa4\r\nContent-Length: 0\r\n\r\n"],
    "gzip that is none": [
        b"HTTP/1.1 200 OK\r\nContent-Encoding: x-odd\r\nContent-Length: 5\r\n\r\nhello"
    ],
    "status 299": [b"HTTP/1.1 299 Odd\r\nContent-Length: 5\r\n\r\nhello"],
    "status 999": [b"HTTP/1.1 999 Odd\r\nContent-Length: 5\r\n\r\nhello"],
    "204": [b"HTTP/1.1 204 No Content\r\n\r\n"],
    "304 with a length": [b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"],
    "cut within its length": [b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"],
    "cut within its chunks": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    ],
    "two answers": [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n"],
}
#: What is meant to differ (CONTRACT §12: an ambiguous answer is 502; hop by hop fields are each
#: side's own).
HOPS = {"connection", "keep-alive"}

Outcome = tuple[object, ...]


def by_urllib3(url: str) -> Outcome:
    with urllib3.PoolManager(retries=False) as pool:
        try:
            response = pool.request("GET", url, timeout=LIMIT, decode_content=False)
        except urllib3.exceptions.HTTPError as why:
            return (_kind(why),)
        return (
            response.status,
            response.reason or "",
            _shown(list(response.headers.iteritems())),
            response.data,
        )


def by_http_client(url: str) -> Outcome:
    host = url.removeprefix("http://").partition("/")[0]
    connection = http.client.HTTPConnection(host, timeout=LIMIT)
    try:
        connection.request("GET", "/x")
        response = connection.getresponse()
        return response.status, response.reason, _shown(response.getheaders()), response.read()
    except (http.client.HTTPException, OSError) as why:
        return (_kind(why),)
    finally:
        connection.close()


def by_httpx(url: str) -> Outcome:
    with httpx.Client(trust_env=False, timeout=LIMIT) as client:
        try:
            response = client.get(url)
        except httpx.HTTPError as why:
            return (_kind(why),)
        raw = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in response.headers.raw
        ]
        return (
            response.status_code,
            response.extensions["reason_phrase"],
            _shown(raw),
            response.content,
        )


def _kind(why: Exception) -> str:
    """A broken answer is broken; whether by an early end or by a reset is not the same, and need
    not be.
    """
    broken = (
        "IncompleteRead",
        "ProtocolError",
        "RemoteProtocolError",
        "ReadError",
        "ConnectionResetError",
    )
    return "broken" if type(why).__name__ in broken else type(why).__name__


def _shown(fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in fields if name.lower() not in HOPS]


@pytest.mark.parametrize("client", [by_urllib3, by_http_client, by_httpx])
@pytest.mark.parametrize("pieces", ODD.values(), ids=ODD.keys())
def test_12_clients_see_odd_servers_as_they_are(
    pieces: list[bytes], client: Callable[[str], Outcome]
) -> None:
    with Raw.running(pieces) as server, proxy_in_front_of(server.port) as port:
        direct = client(f"http://127.0.0.1:{server.port}/x")
        proxied = client(f"http://127.0.0.1:{port}/x")
    assert proxied == direct

"""The calls of requests' own functional tests, against httpbin, directly and through the proxy
(CONTRACT §12).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from pytest_httpbin.plugin import httpbin as httpbin
from pytest_httpbin.serve import Server
from urllib3.filepost import encode_multipart_formdata

from tests.interop.foreign.servers import proxy_in_front_of

Call = Callable[[requests.Session, str], requests.Response]
LIMIT = 20


def call(method: str, path: str, **options: Any) -> Call:
    def ask(session: requests.Session, base: str) -> requests.Response:
        return session.request(method, base + path, timeout=LIMIT, **options)

    return ask


def pieces() -> Iterator[bytes]:
    yield from (b"a" * 1000, b"b" * 70_000, b"c")


FORM = encode_multipart_formdata({"f": ("a.bin", b"\x00\xff"), "a": "b"}, boundary="fixed")
CALLS: dict[str, Callable[[], Call]] = {
    "GET": lambda: call("GET", "/get"),
    "GET with a query": lambda: call("GET", "/get", params={"a": ["1", "2"], "b": "ä &="}),
    "GET with an odd path": lambda: call("GET", "/anything/a%20b%2Fc/~x;y=1"),
    "HEAD": lambda: call("HEAD", "/get"),
    "OPTIONS": lambda: call("OPTIONS", "/get"),
    "POST a form": lambda: call("POST", "/post", data={"a": "ä", "b": ["1", "2"]}),
    "POST JSON": lambda: call("POST", "/post", json={"a": [1, None, "ä"]}),
    "POST bytes": lambda: call("POST", "/post", data=bytes(range(256))),
    "POST nothing": lambda: call("POST", "/post"),
    "POST a file": lambda: call("POST", "/post", data=io.BytesIO(b"x" * 100_000)),
    "POST a multipart form": lambda: call(
        "POST", "/post", data=FORM[0], headers={"Content-Type": FORM[1]}
    ),
    "POST what a generator yields": lambda: call("POST", "/anything", data=pieces()),
    "PUT": lambda: call("PUT", "/put", data=b"put"),
    "PATCH": lambda: call("PATCH", "/patch", data=b"patch"),
    "DELETE": lambda: call("DELETE", "/delete"),
    "DELETE with a body": lambda: call("DELETE", "/delete", data=b"body"),
    "GET with a body": lambda: call("GET", "/get", data=b"body"),
    "own fields": lambda: call(
        "GET", "/headers", headers={"X-Odd_Name": "1", "x-lower": "2", "Accept": "a/b"}
    ),
    "no agent": lambda: call(
        "GET", "/headers", headers={"User-Agent": None, "Accept-Encoding": None}
    ),
    "cookies sent": lambda: call("GET", "/cookies", cookies={"a": "b", "c": "d"}),
    "cookies set": lambda: call("GET", "/cookies/set?a=b&c=d"),
    "cookies deleted": lambda: call("GET", "/cookies/delete?a"),
    "a redirect": lambda: call("GET", "/redirect/3"),
    "a relative redirect": lambda: call("GET", "/relative-redirect/2"),
    "a redirect not followed": lambda: call("GET", "/redirect/1", allow_redirects=False),
    "303 after POST": lambda: call("POST", "/redirect-to?url=/get&status_code=303", data=b"x"),
    "307 after POST": lambda: call("POST", "/redirect-to?url=/post&status_code=307", data=b"x"),
    "basic authentication": lambda: call("GET", "/basic-auth/u/p", auth=("u", "p")),
    "wrong basic authentication": lambda: call("GET", "/basic-auth/u/p", auth=("u", "x")),
    "digest authentication": lambda: call(
        "GET", "/digest-auth/auth/u/p/MD5", auth=requests.auth.HTTPDigestAuth("u", "p")
    ),
    "a bearer token": lambda: call("GET", "/bearer", headers={"Authorization": "Bearer t"}),
    "no bearer token": lambda: call("GET", "/bearer"),
    # Their length depends on the port that they tell compressed: so another host is told.
    "gzip": lambda: call("GET", "/gzip", headers={"Host": "h"}),
    "deflate": lambda: call("GET", "/deflate", headers={"Host": "h"}),
    "an image": lambda: call("GET", "/image/png"),
    "bytes": lambda: call("GET", "/bytes/100000?seed=1"),
    "a stream of bytes": lambda: call("GET", "/stream-bytes/100000?seed=1&chunk_size=1000"),
    "a stream of lines": lambda: call("GET", "/stream/20"),
    "a slow drip": lambda: call("GET", "/drip?numbytes=5&duration=0.2&delay=0"),
    "a range": lambda: call("GET", "/range/1000", headers={"Range": "bytes=10-19"}),
    "a range that cannot be": lambda: call("GET", "/range/1000", headers={"Range": "bytes=2000-"}),
    "an etag": lambda: call("GET", "/etag/abc", headers={"If-None-Match": "abc"}),
    "an etag that fails": lambda: call("GET", "/etag/abc", headers={"If-Match": "xyz"}),
    "a cached answer": lambda: call("GET", "/cache", headers={"If-Modified-Since": "x"}),
    "response fields": lambda: call("GET", "/response-headers?X-A=1&X-A=2&x-b=%C3%A4"),
    "204": lambda: call("GET", "/status/204"),
    "304": lambda: call("GET", "/status/304"),
    "404": lambda: call("GET", "/status/404"),
    "418": lambda: call("GET", "/status/418"),
    "500": lambda: call("GET", "/status/500"),
    "UTF-8": lambda: call("GET", "/encoding/utf8"),
    "XML": lambda: call("GET", "/xml"),
    "everything about the request": lambda: call(
        "PUT", "/anything?a=b", data=b"x", headers={"X-A": "\xe4"}
    ),
}
#: What differs between two calls of the same server (its clock, the nonces of its challenges), and
#: hop by hop.
_VOLATILE = {"date", "last-modified", "www-authenticate", "etag", "connection"}


def outcome(ask: Call, port: int, named: int) -> object:
    """What requests makes of the answers, with the port of the server by one name."""
    with requests.Session() as session:
        session.trust_env = False
        del session.headers["Connection"]  # hop by hop: httpbin would tell whether it came
        response = ask(session, f"http://127.0.0.1:{port}")
        chain = [*response.history, response]
        responses = [
            (one.status_code, one.reason, one.url, _fields(one), dict(one.cookies), one.content)
            for one in chain
        ]
        again = session.get(f"http://127.0.0.1:{port}/get", timeout=LIMIT)  # the session goes on
        responses.append(
            (again.status_code, again.reason, again.url, [], dict(session.cookies), b"")
        )
    return [repr(one).replace(str(port), str(named)) for one in responses]


def _fields(response: requests.Response) -> list[tuple[str, str]]:
    return [
        (name, value)
        for name, value in response.raw.headers.items()
        if name.lower() not in _VOLATILE
    ]


@pytest.fixture(scope="module")
def through(httpbin: Server) -> Iterator[int]:
    with proxy_in_front_of(httpbin.port) as port:
        yield port


@pytest.mark.parametrize("made", CALLS.values(), ids=CALLS.keys())
def test_12_requests_sees_no_difference(
    made: Callable[[], Call], httpbin: Server, through: int
) -> None:
    """§12: the outcome is equal, field for field. Each side's answers name its own port, which is
    put right here.
    """
    direct = outcome(made(), httpbin.port, 1)
    proxied = outcome(made(), through, 1)
    assert proxied == direct


def test_12_forty_calls_are_made() -> None:
    assert len(CALLS) >= 40

"""Reuse of connections to VB365 (CONTRACT §12)."""

from __future__ import annotations

import tracemalloc

import pytest

from proxy.core.http.binding import binds
from proxy.core.http.heads import parse_request, parse_response
from proxy.core.http.reuse import Fate, fate, is_repeatable

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


def judged(
    method: bytes = b"GET", fields: bytes = b"", response: bytes = OK, minor: int = 1, **more: bool
) -> Fate:
    head = parse_request(b"%b / HTTP/1.%d\r\nHost: h\r\n%b\r\n" % (method, minor, fields))
    return fate(head, parse_response(response, method), **more)


@pytest.mark.parametrize("method", [b"GET", b"OPTIONS", b"POST", b"DELETE", b"X"])
def test_12_a_connection_is_shared_after_a_complete_response_to_a_request_without_body(
    method: bytes,
) -> None:
    assert judged(method) is Fate.SHARED
    assert judged(method, b"Content-Length: 0\r\n") is Fate.SHARED


@pytest.mark.parametrize("method", [b"GET", b"POST", b"PUT"])
@pytest.mark.parametrize("framing", [b"Content-Length: 1", b"Transfer-Encoding: chunked"])
def test_12_no_request_follows_a_body(method: bytes, framing: bytes) -> None:
    """VB365 may leave it unread, and then read it as the next request."""
    assert judged(method, framing + b"\r\n") is Fate.CLOSED
    assert judged(method, framing + b"\r\n", private=True) is Fate.CLOSED


@pytest.mark.parametrize(
    ("method", "response"),
    [
        (b"HEAD", OK),
        (b"HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\n"),
        (b"GET", b"HTTP/1.1 200 OK\r\n\r\n"),
        (b"GET", b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
        (b"GET", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_12_no_request_follows_an_ambiguous_response(method: bytes, response: bytes) -> None:
    assert judged(method, response=response) is Fate.CLOSED


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 204 No\r\n\r\n",
        b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 304 Not\r\nETag: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_12_an_unambiguous_response_keeps_the_connection(response: bytes) -> None:
    assert judged(response=response) is Fate.SHARED


def test_12_an_http_1_0_request_closes_its_connection() -> None:
    assert judged(fields=b"Connection: keep-alive\r\n", minor=0) is Fate.CLOSED


@pytest.mark.parametrize(
    "line",
    [
        b"Authorization: NTLM TlRMTVNTUAAB",
        b"authorization: negotiate YII",
        b"Proxy-Authorization: Negotiate YII",
        b"WWW-Authenticate: NTLM",
        b"www-authenticate:Negotiate",
        b'WWW-Authenticate: Basic realm="x", NTLM',
        b"WWW-Authenticate: Bearer\r\nWWW-Authenticate:\tnTLM\tTlRM",
        b"Proxy-Authenticate: ,Negotiate",
        b"Persistent-Auth: true",
        b"WWW-Authenticate: Bearer, Nego2 YII",
        b"Authorization: Nego2 YII",
    ],
)
def test_12_ntlm_and_negotiate_make_the_connection_private(line: bytes) -> None:
    assert judged(fields=line + b"\r\n") is Fate.PRIVATE
    assert (
        judged(response=b"HTTP/1.1 401 No\r\n" + line + b"\r\nContent-Length: 0\r\n\r\n")
        is Fate.PRIVATE
    )
    assert binds(line + b"\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"Authorization: Bearer NTLM",
        b"Authorization: Bearer negotiate.ntlm.x",
        b"X-Negotiate: NTLM",
        b"Cookie: ntlm=Negotiate",
        b"WWW-Authenticate: NTLMv3",
        b"WWW-Authenticate: Nego22",
    ],
)
def test_12_similar_words_do_not_make_it_private(line: bytes) -> None:
    assert judged(fields=line + b"\r\n") is Fate.SHARED
    assert not binds(line + b"\r\n")


def test_12_a_long_authorization_is_not_taken_apart() -> None:
    """Anyone may send one: its elements would take many times its time and memory."""
    for value in (b"xy," * 20_000, b"ntlmv3," * 8_000):
        line = b"Authorization: " + value + b"\r\n"
        tracemalloc.start()
        try:
            assert not binds(line)
            assert tracemalloc.get_traced_memory()[1] < 4 * len(line)
        finally:
            tracemalloc.stop()


def test_12_a_private_connection_stays_private() -> None:
    assert judged(private=True) is Fate.PRIVATE


@pytest.mark.parametrize(
    ("method", "fields", "repeatable"),
    [
        (b"GET", b"", True),
        (b"HEAD", b"", True),
        (b"GET", b"Content-Length: 0\r\n", True),
        (b"GET", b"Content-Length: 1\r\n", False),
        (b"GET", b"Transfer-Encoding: chunked\r\n", False),
        (b"POST", b"", False),
        (b"POST", b"Content-Length: 0\r\n", False),
        (b"DELETE", b"", False),
        (b"get", b"", False),
    ],
)
def test_12_only_safe_requests_without_a_body_are_repeatable(
    method: bytes, fields: bytes, repeatable: bool
) -> None:
    head = parse_request(method + b" / HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n")
    assert is_repeatable(head) is repeatable

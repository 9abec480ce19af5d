"""Outbound heads (CONTRACT §12; RFC 9110 §7.6.1)."""

from __future__ import annotations

import pytest

from proxy.core.http.heads import Head, ResponseHead, parse_request, parse_response
from proxy.core.http.outbound import (
    CLOSE,
    Forwarding,
    asks_tunnel,
    request_bytes,
    response_bytes,
    websocket,
)


def request(*lines: bytes, line: bytes = b"GET /x HTTP/1.1") -> Head:
    return parse_request(b"\r\n".join([line, *lines, b"", b""]))


def response_head(
    *lines: bytes, line: bytes = b"HTTP/1.1 200 OK", method: bytes = b"GET"
) -> ResponseHead:
    return parse_response(b"\r\n".join([line, *lines, b"", b""]), method)


def test_12_a_head_without_hop_by_hop_fields_is_unchanged() -> None:
    """Order, case, repeats, white space, bytes outside ASCII."""
    lines = [b"Host: h", b"X-A:1", b"x-a:\t2 ", b"X-B: \xe4", b"Empty:", b"Content-Length: 3"]
    head = request(*lines)
    assert request_bytes(head, head.target) == b"\r\n".join([b"GET /x HTTP/1.1", *lines, b"", b""])
    response = response_head(*lines, line=b"HTTP/1.1 299 Sch\xf6n")
    assert response_bytes(response) == b"\r\n".join([b"HTTP/1.1 299 Sch\xf6n", *lines, b"", b""])


def test_12_only_hop_by_hop_fields_and_those_named_in_connection_are_removed() -> None:
    head = request(
        b"Host: h",
        b"Connection: X-Gone, keep-alive",
        b"Keep-Alive: timeout=5",
        b"X-Gone: 1",
        b"x-stays: 2",
        b"TE: trailers",
        b"Proxy-Connection: keep-alive",
        b"Upgrade: h2c",
        b"x-gone: 3",
        b"Transfer-Encoding: chunked",
    )
    assert request_bytes(head, b"/y?") == (
        b"GET /y? HTTP/1.1\r\nHost: h\r\nx-stays: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    )


def test_12_an_http_1_0_request_stays_http_1_0() -> None:
    head = request(b"Connection: keep-alive", line=b"GET / HTTP/1.0")
    assert request_bytes(head, b"/") == b"GET / HTTP/1.0\r\n\r\n"


def test_12_the_host_is_replaced_only_if_given() -> None:
    head = request(b"X: 1", b"Host: client", b"Y: 2")
    assert (
        request_bytes(head, b"/x", host=b"u:4443")
        == b"GET /x HTTP/1.1\r\nHost: u:4443\r\nX: 1\r\nY: 2\r\n\r\n"
    )


def test_12_forwarding_fields_are_appended_only_if_enabled() -> None:
    head = request(b"Host: h", b"X-Forwarded-For: 192.0.2.1", b"Via: 1.1 lb")
    sent = request_bytes(head, b"/x", forwarding=Forwarding(b"198.51.100.7", b"https"))
    assert sent == (
        b"GET /x HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 192.0.2.1\r\nVia: 1.1 lb\r\n"
        b"X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: h\r\n"
        b"Via: 1.1 vb365-async-proxy\r\n\r\n"
    )
    bare = request(line=b"GET /x HTTP/1.0")
    assert b"X-Forwarded-Host" not in request_bytes(
        bare, b"/x", forwarding=Forwarding(b"::1", b"http")
    )


def test_12_an_upgrade_to_websocket_is_forwarded() -> None:
    head = request(
        b"Host: h",
        b"connection: keep-alive, Upgrade",
        b"upgrade: WebSocket",
        b"Sec-WebSocket-Key: k",
    )
    assert asks_tunnel(head)
    assert request_bytes(head, b"/x") == (
        b"GET /x HTTP/1.1\r\nHost: h\r\nupgrade: WebSocket\r\nSec-WebSocket-Key: "
        b"k\r\nConnection: Upgrade\r\n\r\n"
    )
    response = response_head(
        b"Upgrade: websocket", b"Connection: Upgrade", b"X: 1", line=b"HTTP/1.1 101 Switching"
    )
    assert websocket(response)
    assert response_bytes(response) == (
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nX: 1\r\nConnection: Upgrade\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ((b"Connection: Upgrade", b"Upgrade: h2c"), b"GET / HTTP/1.1"),
        ((b"Connection: Upgrade", b"Upgrade: websocket, h2c"), b"GET / HTTP/1.1"),
        ((b"Connection: Upgrade", b"Upgrade: websocket"), b"POST / HTTP/1.1"),
        ((b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 1"), b"GET / HTTP/1.1"),
        ((b"Upgrade: websocket",), b"GET / HTTP/1.1"),
    ],
)
def test_12_any_other_upgrade_is_dropped(lines: tuple[bytes, ...], line: bytes) -> None:
    head = request(b"Host: h", *lines, line=line)
    assert not asks_tunnel(head)
    assert b"pgrade" not in request_bytes(head, b"/")


def test_12_the_connection_field_of_a_response_is_that_of_the_proxy() -> None:
    response = response_head(
        b"Connection: close, X-Gone",
        b"X-Gone: 1",
        b"Date: d",
        b"Keep-Alive: 9",
        b"Content-Length: 0",
    )
    assert response_bytes(response) == b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 0\r\n\r\n"
    assert response_bytes(response, CLOSE).endswith(
        b"Content-Length: 0\r\nConnection: close\r\n\r\n"
    )
    old = response_head(b"Content-Length: 0", line=b"HTTP/1.0 200 OK")
    assert response_bytes(old) == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def test_12_transfer_encoding_is_kept_unless_the_body_is_dechunked_or_forbidden() -> None:
    lines = (b"A: 1", b"Transfer-Encoding: chunked")
    assert b"Transfer-Encoding: chunked\r\n" in response_bytes(response_head(*lines))
    assert (
        response_bytes(response_head(*lines), dechunked=True) == b"HTTP/1.1 200 OK\r\nA: 1\r\n\r\n"
    )
    assert (
        response_bytes(response_head(*lines, line=b"HTTP/1.1 204 No"))
        == b"HTTP/1.1 204 No\r\nA: 1\r\n\r\n"
    )


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked", b"content-length: 5"])
def test_12_an_interim_response_announces_no_body(framing: bytes) -> None:
    early = response_head(b"A: 1", framing, line=b"HTTP/1.1 103 Early")
    assert response_bytes(early) == b"HTTP/1.1 103 Early\r\nA: 1\r\n\r\n"
    switch = b"HTTP/1.1 101 Switch"
    fields = (b"Connection: Upgrade", b"Upgrade: websocket")
    tunnel = response_bytes(response_head(*fields, framing, line=switch))
    assert tunnel == switch + b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"

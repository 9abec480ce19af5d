"""Host names and absolute-form targets (RFC 9112 §3.2; CONTRACT §12)."""

from __future__ import annotations

import pytest

from proxy.core.http.authority import can_be_looked_up, names_host, origin_form
from proxy.core.http.heads import MalformedMessage, parse_request


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"http://h/x", b"h"),
        (b"HTTP://H/x", b"h"),
        (b"http://vb365.example:80/x", b"VB365.example"),
        (b"http://h/", b"h:80"),
        (b"http://h:/", b"h"),
        (b"https://h?x", b"h:443"),
        (b"https://h:4443", b"h:4443"),
        (b"https://h:04443", b"h:4443"),
        (b"http://[::1]:8080/x", b"[::1]:8080"),
        (b"http://[FE80::A]/x", b"[fe80::a]"),
        (b"ftp://h:21/x", b"h:21"),
        (b"/x", b"h"),
        (b"/http://other/x", b"h"),
        (b"*", b"h"),
        (b"/x", b""),
    ],
)
def test_12_a_target_that_names_the_host_is_accepted(target: bytes, host: bytes) -> None:
    raw = b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, host)
    assert names_host(target, host)
    assert parse_request(raw).target == target


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"http://other/x", b"h"),
        (b"http://h.example/x", b"h"),
        (b"http://h:81/x", b"h"),
        (b"https://h/x", b"h:80"),
        (b"http://h/x", b"h:4443"),
        (b"http://u@h/x", b"h"),
        (b"http://h:80@other/x", b"h"),
        (b"http://h\\@other/x", b"h"),
        (b"http://h#@other/x", b"other"),
        (b"http://h./x", b"h"),
        (b"http:///x", b""),
        (b"http://", b""),
        (b"http://h/x", b""),
        (b"http://%68/x", b"h"),
        (b"http://[::1]/x", b"[::2]"),
        (b"ftp://h/x", b"h:21"),
    ],
)
def test_12_a_target_with_another_authority_than_the_host_is_rejected(
    target: bytes, host: bytes
) -> None:
    assert not names_host(target, host)
    with pytest.raises(MalformedMessage, match="Host"):
        parse_request(b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, host))


def test_12_http_1_0_needs_no_host_beside_an_absolute_target() -> None:
    assert parse_request(b"GET http://h/x HTTP/1.0\r\n\r\n").target == b"http://h/x"


@pytest.mark.parametrize(
    ("method", "target", "origin"),
    [
        (b"GET", b"http://h/x?y", b"/x?y"),
        (b"GET", b"http://h//x", b"//x"),
        (b"GET", b"http://h", b"/"),
        (b"GET", b"http://h?y", b"/?y"),
        (b"OPTIONS", b"http://h", b"*"),
        (b"OPTIONS", b"http://h/", b"/"),
        (b"GET", b"/x", b"/x"),
        (b"GET", b"/x?http://h/y", b"/x?http://h/y"),
        (b"OPTIONS", b"*", b"*"),
    ],
)
def test_12_the_origin_form_drops_scheme_and_authority(
    method: bytes, target: bytes, origin: bytes
) -> None:
    assert origin_form(method, target) == origin


@pytest.mark.parametrize("host", ["h", "vb365.example.com", "127.0.0.1", "::1", "bücher.example"])
def test_a_name_that_can_exist_can_be_looked_up(host: str) -> None:
    assert can_be_looked_up(host)


@pytest.mark.parametrize("host", ["a..b", ".a", "x" * 64, "\u00fc" * 64])
def test_a_name_that_no_lookup_takes_cannot_be_looked_up(host: str) -> None:
    assert not can_be_looked_up(host)

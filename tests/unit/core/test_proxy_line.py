"""The PROXY protocol line between the processes of one proxy."""

from __future__ import annotations

import pytest

from proxy.core.http.proxy_line import MAX_LINE, Introduced, parse_proxy_line, proxy_line

V4 = b"PROXY TCP4 192.0.2.7 127.0.0.1 50000 4443\r\n"


@pytest.mark.parametrize(
    ("client", "local", "line", "read"),
    [
        (("192.0.2.7", 50000), ("127.0.0.1", 4443), V4, ("192.0.2.7", "127.0.0.1")),
        (
            ("2001:db8::1", 50000, 0, 0),
            ("::1", 4443, 0, 0),
            b"PROXY TCP6 2001:db8::1 ::1 50000 4443\r\n",
            ("2001:db8::1", "::1"),
        ),
        (
            ("fe80::1%eth0", 50000, 0, 2),
            ("fe80::2%eth0", 4443, 0, 2),
            b"PROXY TCP6 fe80::1 fe80::2 50000 4443\r\n",
            ("fe80::1", "fe80::2"),
        ),
    ],
)
def test_a_line_is_read_as_it_is_written(
    client: object, local: object, line: bytes, read: tuple[str, str]
) -> None:
    named = line.replace(b"\r\n", b" an-id\r\n")
    assert proxy_line(client, local, "an-id") == named
    for written, named_so in ((line, None), (named, "an-id")):
        assert parse_proxy_line(written + b"GET / HTTP/1.1\r\n") == Introduced(
            (read[0], 50000), (read[1], 4443), len(written), named_so
        )


@pytest.mark.parametrize(
    ("client", "local"),
    [
        ("", "/run/http.sock"),
        (None, None),
        (("192.0.2.7", 1), None),
        (("192.0.2.7", 1), ("::1", 1)),
        (("a name", 1), ("::1", 1)),
    ],
)
def test_a_connection_without_ip_addresses_is_unknown(client: object, local: object) -> None:
    line = proxy_line(client, local, "an-id")
    assert line == b"PROXY UNKNOWN an-id\r\n"
    assert parse_proxy_line(line) == Introduced(None, None, len(line), "an-id")


def test_the_longest_line_is_read() -> None:
    address = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"
    line = proxy_line((address, 65535), (address, 65535), "i" * 128)
    read = parse_proxy_line(line)
    assert read is not None
    assert (read.request_id, read.length) == ("i" * 128, len(line))


def test_an_incomplete_line_needs_more() -> None:
    for length in range(len(V4) - 1):
        assert parse_proxy_line(V4[:length]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"P0",
        b"PROXY TCP4 192.0.2.7 127.0.0.1 0 0\n",
        b"PROXY TCP4 192.0.2.7\r\n",
        b"PROXY TCP4 999.0.2.7 127.0.0.1 0 0\r\n",
        b"PROXY TCP4 1:2 127.0.0.1 0 0\r\n",
        b"PROXY TCP5 192.0.2.7 127.0.0.1 0 0\r\n",
        b"PROXY UNKNOWN" + b" " * MAX_LINE,
        b"PROXY UNKNOWN no/id\r\n",
        b"PROXY UNKNOWN two ids\r\n",
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"does not appear|not a PROXY protocol line"):
        parse_proxy_line(data)

"""Which fields travel: outbound heads are built here, from inbound ones that nobody edits (CONTRACT
§12).

Order, case, repeats and the bytes of a field line stay as sent. Hop-by-hop fields (RFC 9110 §7.6.1
and those that Connection names) end at the proxy; the proxy says its own where the next hop needs
to know.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from proxy.core.http.heads import Field, Framing, Head, ResponseHead, elements, without

_HOP_BY_HOP = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade"}
)
#: Values that must never stand in a log.
_SECRET = frozenset(
    {
        b"authorization",
        b"cookie",
        b"set-cookie",
        b"proxy-authorization",
        b"x-api-key",
        b"x-xsrf-token",
    }
)
_HOST = frozenset({b"host"})
_UPGRADE = frozenset({b"upgrade"})
_TRANSFER_ENCODING = frozenset({b"transfer-encoding"})

CLOSE = b"Connection: close\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n"
UPGRADE = b"Connection: Upgrade\r\n"


@dataclass(frozen=True, slots=True)
class Forwarding:
    """What `upstream.forwarded = true` appends: the peer's address, `http` or `https`, and our name
    for Via.
    """

    peer: bytes
    scheme: bytes
    name: bytes = b"vb365-async-proxy"

    def lines(self, head: Head) -> bytes:
        """The field lines for a request with `head`. Appended lines continue the lists that
        balancers began.
        """
        return b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n%bVia: 1.%d %b\r\n" % (
            self.peer,
            self.scheme,
            b"" if head.host is None else b"X-Forwarded-Host: %b\r\n" % head.host,
            head.minor,
            self.name,
        )


def websocket(head: Head | ResponseHead) -> bool:
    """True iff the head asks for, or grants, the one upgrade that is tunnelled (CONTRACT §12)."""
    return head.upgrade is not None and head.upgrade.lower() == b"websocket"


def request_bytes(
    head: Head, target: bytes, *, host: bytes | None = None, forwarding: Forwarding | None = None
) -> bytes:
    """The head that goes to U: `target` instead of the client's, `host` instead of its Host if
    given.

    An HTTP/1.0 request stays one: U then answers in a way that its client understands.
    """
    block = head.kept
    if head.upgrade is not None and asks_tunnel(head):
        block = without(head.block, head.hops - _UPGRADE) + UPGRADE
    if host is not None:
        block = b"Host: %b\r\n%b" % (host, without(block, _HOST))
    if forwarding is not None:
        block += forwarding.lines(head)
    return b"%b %b HTTP/1.%d\r\n%b\r\n" % (head.method, target, head.minor, block)


def asks_tunnel(head: Head) -> bool:
    """True iff a 101 of U may turn this request's connection into a tunnel."""
    return head.method == b"GET" and head.framing is Framing.NONE and websocket(head)


def response_bytes(
    head: ResponseHead, connection: bytes = b"", *, dechunked: bool = False
) -> bytes:
    """The head that goes to the client. `connection` is the proxy's own Connection line, or empty.

    The version is ours (RFC 9112 §2.3). `dechunked` leaves out Transfer-Encoding, for HTTP/1.0
    clients.
    """
    block = head.kept
    if head.status == 101:
        block = without(head.block, head.hops - _UPGRADE)
        connection = UPGRADE
    elif dechunked or head.status == 204:
        block = without(block, _TRANSFER_ENCODING)
    return b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (head.status, head.reason, block, connection)


def end_to_end(fields: Iterable[Field]) -> list[Field]:
    """The fields that are meant for the other end, in order (RFC 9110 §7.6.1)."""
    fields = list(fields)
    named = elements([value for name, value in fields if name.lower() == b"connection"])
    drop = _HOP_BY_HOP | named
    return [field for field in fields if field[0].lower() not in drop]


def redacted(fields: Iterable[Field]) -> list[Field]:
    """The fields as a log may show them."""
    return [(name, b"***" if name.lower() in _SECRET else value) for name, value in fields]

"""Outbound heads, built from inbound ones (CONTRACT §12).

The order, case, repeats and bytes of field lines are kept as received. Hop-by-hop fields (RFC 9110
§7.6.1 and those that Connection names) end at the proxy, which adds its own where the next
recipient needs them.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.core.http.fields import hop_by_hop, without
from proxy.core.http.heads import Framing, Head, ResponseHead

_HOST = frozenset({b"host"})
_UPGRADE = frozenset({b"upgrade"})
_TRANSFER_ENCODING = frozenset({b"transfer-encoding"})
_FRAMING = _TRANSFER_ENCODING | {b"content-length"}

CLOSE = b"Connection: close\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n"
UPGRADE = b"Connection: Upgrade\r\n"


@dataclass(frozen=True, slots=True)
class Forwarding:
    """What `upstream.forwarded = true` adds to a request: the peer's address, the scheme (`http` or
    `https`), and the proxy's name for Via.
    """

    peer: bytes
    scheme: bytes
    name: bytes = b"vb365-async-proxy"

    def lines(self, head: Head) -> bytes:
        """The field lines to append to a request with `head`. They continue the lists of the load
        balancers in front of the proxy.
        """
        return b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n%bVia: 1.%d %b\r\n" % (
            self.peer,
            self.scheme,
            b"" if head.host is None else b"X-Forwarded-Host: %b\r\n" % head.host,
            head.minor,
            self.name,
        )


def websocket(head: Head | ResponseHead) -> bool:
    """Whether the head requests or accepts WebSocket, the only upgrade that is tunnelled (CONTRACT
    §12).
    """
    return head.upgrade is not None and head.upgrade.lower() == b"websocket"


def request_bytes(
    head: Head, target: bytes, *, host: bytes | None = None, forwarding: Forwarding | None = None
) -> bytes:
    """The head of a request to VB365, with this target, and with this Host if `host` is given.

    An HTTP/1.0 request stays HTTP/1.0, so that VB365 sends a response that its client understands.
    """
    block = head.kept
    if head.upgrade is not None and asks_tunnel(head):
        block = without(head.block, hop_by_hop(head.fields) - _UPGRADE) + UPGRADE
    if host is not None:
        block = b"Host: %b\r\n%b" % (host, without(block, _HOST))
    if forwarding is not None:
        block += forwarding.lines(head)
    return b"%b %b HTTP/1.%d\r\n%b\r\n" % (head.method, target, head.minor, block)


def asks_tunnel(head: Head) -> bool:
    """Whether a 101 response of VB365 may turn this request's connection into a tunnel."""
    return head.method == b"GET" and head.framing is Framing.NONE and websocket(head)


def response_bytes(
    head: ResponseHead, connection: bytes = b"", *, dechunked: bool = False
) -> bytes:
    """The head of a response to the client. `connection` is the proxy's Connection line, or empty.

    The HTTP version is the proxy's (RFC 9112 §2.3). `dechunked` drops Transfer-Encoding, for
    HTTP/1.0 clients.
    """
    block = head.kept
    if head.status == 101:
        block = without(head.block, hop_by_hop(head.fields) - _UPGRADE)
        connection = UPGRADE
    if head.status < 200:
        # RFC 9110 §8.6, RFC 9112 §6.1: a recipient might wait for a body, or take the next response
        # for one
        block = without(block, _FRAMING)
    elif dechunked or head.status == 204:
        block = without(block, _TRANSFER_ENCODING)
    return b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (head.status, head.reason, block, connection)

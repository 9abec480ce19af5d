"""A final response before the request's body is complete reaches the client, even if a reset
follows (§12).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct

import pytest
import trustme

from tests.support.proxies import proxy_to
from tests.support.wire import LIMIT
from tests.unit.relay.test_relay_streams import contexts

PIECE = bytes(1 << 16)
REPEATS = 40


def accepted(listener: socket.socket, tls: ssl.SSLContext | None) -> socket.socket:
    """Accept the proxy's next connection and read its request's head."""
    peer, _ = listener.accept()
    peer.settimeout(LIMIT)
    peer.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )  # else a reset discards what waits for an ACK
    peer = tls.wrap_socket(peer, server_side=True) if tls else peer
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += peer.recv(1)
    return peer


def received(client: socket.socket, size: int) -> bytes:
    got = b""
    while not got.endswith(b"\r\n\r\n") and b"\r\n\r\n" not in got:
        got += client.recv(1)
    head, _, body = got.partition(b"\r\n\r\n")
    while len(body) < size and (data := client.recv(1 << 16)):
        body += data
    assert len(body) == size
    return head.partition(b"\r\n")[0]


def end(peer: socket.socket, *, reset: bool) -> None:
    """Close, with a reset at once or as the kernel does if data is unread."""
    if reset:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


@pytest.mark.parametrize("size", [20, 100_000])
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("tls", [False, True])
async def test_12_an_early_response_arrives_complete(
    size: int, reset: bool, tls: bool, localhost: trustme.LeafCert, authority: trustme.CA
) -> None:
    """The proxy wakes up with a piece of the body, a response and a reset: the piece must not be
    sent first.
    """
    server, trusting = contexts(localhost, authority)
    response = b"HTTP/1.1 413 Too Large\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as sockets:
        listener.settimeout(LIMIT)
        async with proxy_to(
            listener.getsockname()[1], pool={"tls": trusting} if tls else {}
        ) as proxy:
            for _ in range(REPEATS):
                client = sockets.enter_context(
                    socket.create_connection(("127.0.0.1", proxy.port), LIMIT)
                )
                client.sendall(
                    b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (1 << 30)
                )
                peer = await asyncio.to_thread(accepted, listener, server if tls else None)
                client.sendall(PIECE)
                peer.sendall(response)
                end(peer, reset=reset)
                assert await asyncio.to_thread(received, client, size) == b"HTTP/1.1 413 Too Large"
                client.close()


@pytest.mark.parametrize("size", [30_000, 250_000, 1 << 21])
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("tls", [False, True])
async def test_12_an_early_response_arrives_while_the_body_is_sent(
    size: int, reset: bool, tls: bool, localhost: trustme.LeafCert, authority: trustme.CA
) -> None:
    """A write fails before the proxy has read the response."""
    server, trusting = contexts(localhost, authority)
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as sockets:
        listener.settimeout(LIMIT)

        def respond() -> None:
            peer = accepted(listener, server if tls else None)
            peer.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\n\r\n" + bytes(9))
            end(peer, reset=reset)

        def ask(port: int) -> bytes:
            client = sockets.enter_context(socket.create_connection(("127.0.0.1", port), LIMIT))
            with contextlib.suppress(ConnectionError):
                client.sendall(head + bytes(size))
            return received(client, 9)

        async with proxy_to(
            listener.getsockname()[1], pool={"tls": trusting} if tls else {}
        ) as proxy:
            for _ in range(REPEATS):
                responding = asyncio.create_task(asyncio.to_thread(respond))
                assert await asyncio.to_thread(ask, proxy.port) == b"HTTP/1.1 413 Too Large"
                await responding

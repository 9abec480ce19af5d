"""A TLS connection is paused by what is not sent, not by what its TLS layer has kept."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme

from proxy.net.tls import upstream_context
from proxy.net.tls_flow import start_tls
from tests.support.tls_peers import server_side
from tests.support.upstreams import Origin
from tests.support.wire import Peer, eventually

SIZE = 16 << 20


class Writer(asyncio.Protocol):
    paused = False
    received = b""

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def data_received(self, data: bytes) -> None:
        self.received += data


async def test_each_byte_that_is_not_sent_pauses() -> None:
    reading = asyncio.Event()

    async def peer_reads(peer: Peer) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await reading.wait()
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        while not (await peer.some()).endswith(b"the end"):
            pass
        await peer.send(b"read")

    loop = asyncio.get_running_loop()
    context = server_side(trustme.CA().issue_cert("localhost"))
    async with Origin(peer_reads).running(context) as origin:
        below, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", origin.port)
        below.set_write_buffer_limits(high=1, low=0)
        writer = Writer()
        transport = await start_tls(below, upstream_context(verify=False), "localhost", writer)
        for _ in range(0, SIZE, 1 << 14):
            transport.write(bytes(1 << 14))
            assert writer.paused == (below.get_write_buffer_size() > 1)
            if writer.paused:
                break
            await asyncio.sleep(0)
        assert writer.paused
        transport.write(b"the end")
        reading.set()
        await eventually(lambda: writer.received == b"read")
        assert not writer.paused
        assert below.get_write_buffer_size() == 0
        transport.abort()


async def test_no_byte_is_lost_that_the_peer_sends_at_once() -> None:
    """Else the bytes behind it were taken for the beginning of a response."""
    handshaken = asyncio.Event()

    async def peer_sends(peer: Peer) -> None:
        await peer.send(b"early")
        await handshaken.wait()

    loop = asyncio.get_running_loop()
    context = server_side(trustme.CA().issue_cert("localhost"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # the server's last message ends the handshake
    lost = 0
    async with Origin(peer_sends).running(context) as origin:
        for _ in range(20):
            below, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", origin.port)
            writer = Writer()
            try:
                transport = await start_tls(
                    below, upstream_context(verify=False), "localhost", writer
                )
            except ConnectionResetError:
                below.abort()
                continue
            for _ in range(50):
                await asyncio.sleep(0.001)
            lost += writer.received != b"early"
            transport.abort()
        handshaken.set()
    assert not lost


async def test_a_peer_that_closes_at_once_leaves_nothing_behind() -> None:
    """uvloop began the handshake on the closed connection: it raised in a callback, and kept the
    TLS state for its handshake time-out of a minute.
    """
    loop = asyncio.get_running_loop()
    broken: list[object] = []
    loop.set_exception_handler(lambda _, context: broken.append(context))

    async def peer_closes(peer: Peer) -> None:
        peer.abort()

    async with Origin(peer_closes).running() as origin:
        below, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", origin.port)
        while not below.is_closing():  # noqa: ASYNC110  # the handshake begins in that turn
            await asyncio.sleep(0)
        with pytest.raises(ConnectionResetError):
            await start_tls(below, upstream_context(verify=False), "localhost", Writer())
        for _ in range(3):
            await asyncio.sleep(0)
    assert not broken

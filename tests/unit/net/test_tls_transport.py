"""TLS of both sides: what is not sent counts, and no byte is lost or left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from itertools import islice
from pathlib import Path

import pytest
import trustme

from proxy.net.tls import upstream_context
from proxy.net.tls_transport import TlsTransport
from proxy.ports import UpstreamUnreachable
from proxy.upstream.pool import Pool
from tests.support.tls_peers import server_side
from tests.support.upstreams import Origin
from tests.support.wire import Peer, eventually
from tests.unit.net.test_tls_records import REQUESTED, key_updates

SIZE = 16 << 20


class Writer(asyncio.Protocol):
    paused = False
    pauses = 0
    received = b""
    lost: Exception | None = None

    def pause_writing(self) -> None:
        self.paused = True
        self.pauses += 1

    def resume_writing(self) -> None:
        self.paused = False

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc


async def connect(
    port: int, protocol: asyncio.Protocol, *, keys: Path | None = None
) -> TlsTransport:
    context = upstream_context(verify=False)
    if keys is not None:
        context.keylog_filename = str(keys)
    transport = TlsTransport(context, protocol, host="localhost")
    await asyncio.get_running_loop().create_connection(lambda: transport, "127.0.0.1", port)
    await transport.connected()
    return transport


def origin_context() -> ssl.SSLContext:
    return server_side(trustme.CA().issue_cert("localhost"))


async def accepting(protocol: asyncio.Protocol) -> tuple[asyncio.Server, list[TlsTransport]]:
    """A server whose connections have this protocol, and their transports."""
    transports: list[TlsTransport] = []

    def accepted() -> TlsTransport:
        transports.append(TlsTransport(origin_context(), protocol))
        return transports[-1]

    return await asyncio.get_running_loop().create_server(accepted, "127.0.0.1", 0), transports


@pytest.mark.parametrize("piece", [1 << 10, 1 << 14, (1 << 18) + 1])
async def test_each_byte_that_is_not_sent_pauses(piece: int) -> None:
    """Once, when all of a write counts."""
    reading = asyncio.Event()

    async def peer_reads(peer: Peer) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await reading.wait()
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        while not (await peer.some()).endswith(b"the end"):
            pass
        await peer.send(b"read")

    async with Origin(peer_reads).running(origin_context()) as origin:
        writer = Writer()
        transport = await connect(origin.port, writer)
        transport.set_write_buffer_limits(high=1, low=0)
        for _ in range(0, SIZE, piece):
            transport.write(bytes(piece))
            assert writer.paused == (transport.get_write_buffer_size() > 1)
            if writer.paused:
                break
            await asyncio.sleep(0)
        assert writer.pauses == 1
        transport.write(b"the end")
        reading.set()
        await eventually(lambda: writer.received == b"read")
        assert not writer.paused
        assert transport.get_write_buffer_size() == 0
        transport.abort()


@pytest.mark.parametrize("tls", [False, True])
async def test_12_bytes_that_vb365_sends_at_once_begin_no_response(tls: bool) -> None:
    """Such a connection is not used: the bytes behind them would be taken for one."""
    handshaken = asyncio.Event()

    async def peer_sends(peer: Peer) -> None:
        await peer.send(b"early")
        await handshaken.wait()

    context, trusting = (origin_context(), upstream_context(verify=False)) if tls else (None, None)
    if context is not None:
        # the server's last message ends the handshake, and these bytes come with it
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with Origin(peer_sends).running(context) as origin:
        pool = Pool("127.0.0.1", origin.port, tls=trusting)
        for _ in range(20):
            try:
                connection = await pool.connect()
            except UpstreamUnreachable:
                continue
            await asyncio.sleep(0.05)
            assert connection.closed
        handshaken.set()
        await pool.close()


async def test_a_peer_that_closes_at_once_leaves_nothing_behind() -> None:
    broken: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context))

    async def peer_closes(peer: Peer) -> None:
        peer.abort()

    async with Origin(peer_closes).running() as origin:
        for _ in range(20):
            with pytest.raises(OSError):  # a reset, or an end
                await connect(origin.port, Writer())
    assert not broken


async def test_a_connection_that_finds_no_memory_as_it_begins_is_reported() -> None:
    """Its listener, or its pool, would wait for the whole of its time-out."""

    class Lacking(Writer):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            raise MemoryError

    async def peer_waits(peer: Peer) -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            await peer.some()

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    async with Origin(peer_waits).running(origin_context()) as origin:
        with pytest.raises((MemoryError, ConnectionError)):
            await asyncio.wait_for(connect(origin.port, Lacking()), 20)


async def test_a_write_that_finds_no_memory_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The peer gets nothing behind what is missing."""
    received: list[bytes] = []
    ended = asyncio.Event()

    async def peer_reads(peer: Peer) -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                received.append(await peer.some())
        ended.set()

    async with Origin(peer_reads).running(origin_context()) as origin:
        writer = Writer()
        transport = await connect(origin.port, writer)
        written: list[int] = []

        class Lacking:
            def write(self, data: bytes) -> int:
                if written:
                    raise MemoryError
                written.append(len(data))
                return encrypt(data)

        encrypt = transport._tls.write
        monkeypatch.setattr(transport, "_tls", Lacking())
        transport.write(bytes(1 << 17))
        transport.write(b"more")
        assert transport.is_closing()
        await eventually(lambda: isinstance(writer.lost, MemoryError))
        await asyncio.wait_for(ended.wait(), 20)
    assert not received


async def test_15_what_arrives_while_reading_is_paused_waits_in_the_system() -> None:
    """The loops' TLS transports go on reading."""
    reader = Writer()
    server, transports = await accepting(reader)
    client = await connect(server.sockets[0].getsockname()[1], Writer())
    await eventually(lambda: transports[0]._established)
    client.write(b"begun")
    await eventually(lambda: reader.received == b"begun")
    transports[0].pause_reading()
    client.write(bytes(SIZE))
    await asyncio.sleep(0.2)
    assert reader.received == b"begun"
    assert transports[0]._incoming.pending <= 1 << 16
    transports[0].resume_reading()
    await eventually(lambda: len(reader.received) == 5 + SIZE)
    client.abort()
    server.close()


@pytest.mark.parametrize("pending", [False, True])
async def test_15_the_peer_gets_a_close_notify_whatever_it_has_sent(pending: bool) -> None:
    """OpenSSL reads no more after a close_notify that is sent with something to read."""
    reader, writer = Writer(), Writer()
    server, transports = await accepting(reader)
    client = await connect(server.sockets[0].getsockname()[1], writer)
    await eventually(lambda: transports[0]._established)
    if pending:
        transports[0]._paused = True  # as within `data_received`
        client.write(b"pending")
        await eventually(lambda: transports[0]._incoming.pending > 0)
        transports[0]._paused = False
    transports[0].write(b"the response")
    transports[0].write_eof()
    client.write(b"more")
    await eventually(lambda: writer.received == b"the response" and client.closed_by_peer)
    await eventually(lambda: reader.received == b"more")
    await eventually(transports[0].is_closing)
    server.close()


async def test_15_a_key_update_after_the_close_notify_breaks_nothing_off(tmp_path: Path) -> None:
    """OpenSSL responds to it, though nothing can be written any more."""
    reader, keys = Writer(), tmp_path / "keys"
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    server, transports = await accepting(reader)
    client = await connect(server.sockets[0].getsockname()[1], Writer(), keys=keys)
    await eventually(lambda: transports[0]._established)
    client.pause_reading()  # it would close
    transports[0].write_eof()
    for update in islice(key_updates(keys, REQUESTED), 3):
        client._plain.write(update)
        await asyncio.sleep(0.1)
    assert not failures
    assert not transports[0].is_closing()
    transports[0].close()
    client.abort()
    server.close()


@pytest.mark.parametrize(("updates", "ends"), [(200, False), (1000, True)])
async def test_15_a_peer_that_does_not_read_the_responses_of_tls_is_broken_off(
    tmp_path: Path, updates: int, ends: bool
) -> None:
    """No other limit counts them, and TLS 1.2 has no end of requests to negotiate again."""
    reader, keys = Writer(), tmp_path / "keys"
    server, transports = await accepting(reader)
    client = await connect(server.sockets[0].getsockname()[1], Writer(), keys=keys)
    await eventually(lambda: transports[0]._established)
    client.pause_reading()
    transports[0].write(bytes(SIZE))
    assert reader.paused
    client._plain.write(b"".join(islice(key_updates(keys, REQUESTED), updates)))
    await asyncio.sleep(0.3)
    assert transports[0].is_closing() == ends
    assert ("does not read" in str(reader.lost)) == ends
    transports[0].abort()
    client.abort()
    server.close()


async def test_15_many_small_records_leave_others_their_turns() -> None:
    """uvloop would read 32 times from one connection before it looks at the others."""
    turns: list[int] = [0]

    class Reader(Writer):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            turns[-1] += len(data)

    async def count() -> None:
        while True:
            turns.append(0)
            await asyncio.sleep(0)

    reader, sent = Reader(), 90_000
    server, transports = await accepting(reader)
    client = await connect(server.sockets[0].getsockname()[1], Writer())
    await eventually(lambda: transports[0]._established)
    transports[0].pause_reading()
    for _ in range(sent):
        client._tls.write(b"x")
    client._flush()
    await asyncio.sleep(0.2)  # the system has taken most of it
    transports[0].resume_reading()
    counting = asyncio.create_task(count())
    try:
        await eventually(lambda: len(reader.received) == sent)
    finally:
        counting.cancel()
        client.abort()
        server.close()
    most = max(turns)
    assert most < 10_000


async def test_12_what_a_peer_sends_before_it_breaks_the_connection_is_passed_on() -> None:
    """Such as a response with a fatal alert behind it: they may arrive together."""
    reader = Writer()
    server, transports = await accepting(reader)
    client = await connect(server.sockets[0].getsockname()[1], Writer())
    await eventually(lambda: transports[0]._established)
    client._tls.write(b"response")
    client._plain.write(client._outgoing.read() + b"\x17\x03\x03\x00\x20" + bytes(32))
    await eventually(lambda: reader.lost is not None)
    assert reader.received == b"response"
    assert isinstance(reader.lost, ssl.SSLError)
    client.abort()
    server.close()

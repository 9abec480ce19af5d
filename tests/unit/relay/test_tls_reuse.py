"""Over TLS, no request follows a part of a record that belongs to no response (CONTRACT §12)."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trustme

from proxy.net.tls import upstream_context
from proxy.upstream.client import HttpUpstream
from proxy.upstream.pool import Pool
from tests.support.proxies import proxy_to
from tests.support.tls_peers import server_side, write
from tests.support.upstreams import Upstream
from tests.support.wire import LIMIT, Peer

_T = TypeVar("_T")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STRAY = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"
NTLM = b"Authorization: NTLM x\r\n"


class CutRecords(Upstream):
    """A TLS server that sends, behind its first response, the first `cut` bytes of a record. The
    rest of that comes before the next response on the same connection.
    """

    def __init__(self, context: ssl.SSLContext, cut: int) -> None:
        super().__init__()
        self._context = context
        self._cut = cut

    async def serve(self, peer: Peer) -> None:
        with contextlib.suppress(EOFError):
            await self._serve_tls(peer)

    async def _serve_tls(self, peer: Peer) -> None:
        first = self.accepted == 1
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self._context.wrap_bio(incoming, outgoing, server_side=True)

        async def done(step: Callable[[], _T]) -> _T:
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    peer.writer.write(outgoing.read())
                    incoming.write(await peer.some())

        await done(tls.do_handshake)
        held = b""
        while True:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await done(lambda: tls.read(1 << 16))
            tls.write(OK)
            peer.writer.write(held + outgoing.read())
            held = b""
            if first and self._cut:
                tls.write(STRAY)
                stray = outgoing.read()
                peer.writer.write(stray[: self._cut])
                held = stray[self._cut :]


@pytest.mark.parametrize("fields", [b"", NTLM])
@pytest.mark.parametrize(("cut", "connections"), [(0, 1), (1, 2), (5, 2), (30, 2)])
async def test_12_a_connection_with_a_part_of_a_record_is_not_used_again(
    cut: int,
    connections: int,
    fields: bytes,
    tmp_path: Path,
    localhost: trustme.LeafCert,
) -> None:
    upstream = CutRecords(server_side(localhost), cut)
    tls = upstream_context(ca_file=write(localhost, tmp_path)[0])
    async with (
        upstream.running(),
        proxy_to(upstream.port, pool={"tls": tls}) as proxy,
    ):
        client = await proxy.connect()
        for _ in range(2):
            await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n")
            assert (await client.response())[1] == b"ok"
        assert upstream.accepted == connections


@pytest.mark.parametrize(("cut", "connections"), [(0, 1), (1, 2), (30, 2)])
async def test_12_nor_is_it_for_the_proxys_own_requests(
    cut: int, connections: int, tmp_path: Path, localhost: trustme.LeafCert
) -> None:
    server = CutRecords(server_side(localhost), cut)
    tls = upstream_context(ca_file=write(localhost, tmp_path)[0])
    async with server.running():
        upstream = HttpUpstream(Pool("127.0.0.1", server.port, tls=tls))
        for _ in range(2):
            response = await upstream.send(b"GET", b"/", [], timeout=LIMIT, stall=LIMIT)
            assert await response.read() == b"ok"
            response.close()
        await upstream.close()
        assert server.accepted == connections

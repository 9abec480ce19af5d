"""The memory of a real `serve` process per upload: VB365 has read it and does not answer; or its
client is idle behind it; or sends more than the proxy reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from functools import partial
from pathlib import Path

import pytest
import trustme

from tests.memory.test_slow_readers import DESCRIPTION, settled
from tests.support.process import served
from tests.support.tls_peers import server_side, write
from tests.support.upstreams import Origin
from tests.support.wire import Peer, connected, eventually

MIB, KIB = 1 << 20, 1 << 10
UPLOADS, SIZE = 250, MIB
HEAD = b"POST /v8/Jobs HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % SIZE
#: Memory that an upload may cost, its TLS session included.
EACH = 320 * KIB
#: The same of one whose client is idle again; and the requests and responses of one who sends
#: requests without reading.
IDLE, UNREAD = 128 * KIB, 512 * KIB


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_12_an_upload_that_vb365_does_not_answer_costs_little(
    tls: bool, tmp_path: Path
) -> None:
    """The TLS layer keeps buffers as large as the largest write."""
    arrived = 0

    async def upstream(peer: Peer) -> None:
        nonlocal arrived
        await peer.head()
        await peer.reader.readexactly(SIZE)
        arrived += 1
        await asyncio.Event().wait()

    context = server_side(trustme.CA().issue_cert("localhost")) if tls else None
    async with Origin(upstream).running(context) as origin, contextlib.AsyncExitStack() as clients:
        url = f"http{'s' if tls else ''}://127.0.0.1:{origin.port}"
        settings = {"UPSTREAM__VERIFY": "false"} if tls else {}
        running = await clients.enter_async_context(served(url, tmp_path / "data", **settings))
        before = await settled(running)
        for count in range(1, UPLOADS + 1):
            client = await clients.enter_async_context(connected(running.port))
            client.writer.write(HEAD + bytes(SIZE))
            await eventually(partial(lambda least: arrived >= least, count))
        grown = await settled(running) - before
        assert grown < UPLOADS * EACH


@pytest.mark.parametrize("idle", [True, False])
async def test_15_a_tls_client_costs_little_however_much_it_sends(
    idle: bool, tmp_path: Path
) -> None:
    """Anybody may be one: no credentials are needed for either."""

    async def upstream(peer: Peer) -> None:
        with contextlib.suppress(TimeoutError):  # an idle connection
            while True:
                await peer.head()
                await peer.exactly(SIZE)
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    authority = trustme.CA()
    chain, key = write(authority.issue_cert("localhost"), tmp_path)
    settings = {"LISTEN__TLS_CERTIFICATE": str(chain), "LISTEN__TLS_KEY": str(key)}
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with Origin(upstream).running() as origin, contextlib.AsyncExitStack() as clients:
        url = f"http://127.0.0.1:{origin.port}"
        running = await clients.enter_async_context(served(url, tmp_path / "data", **settings))
        before = await settled(running)
        for _ in range(UPLOADS):
            client = await clients.enter_async_context(
                connected(running.port, tls=context, limit=4096, receive_buffer=4096)
            )
            if idle:
                client.writer.write(HEAD + bytes(SIZE))
                assert (await client.response())[1] == b"ok"
            else:
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]
                client.writer.write(DESCRIPTION * (SIZE // len(DESCRIPTION)))
        grown = await settled(running) - before
        assert grown < UPLOADS * (IDLE if idle else UNREAD), grown // UPLOADS

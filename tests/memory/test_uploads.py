"""The memory of a real `serve` process per upload that VB365 has read, and does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
from functools import partial
from pathlib import Path

import pytest
import trustme

from tests.memory.test_slow_readers import settled
from tests.support.process import served
from tests.support.tls_peers import server_side
from tests.support.upstreams import Origin
from tests.support.wire import Peer, connected, eventually

MIB, KIB = 1 << 20, 1 << 10
UPLOADS, SIZE = 250, MIB
HEAD = b"POST /v8/Jobs HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % SIZE
#: Memory that an upload may cost, its TLS session included.
EACH = 320 * KIB
#: What asyncio reads a TLS connection into, allocated for each; uvloop has a smaller one.
READ_BUFFER = 256 * KIB if os.environ.get("VB365_LOOP") == "asyncio" else 0


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
        assert grown < UPLOADS * (EACH + (READ_BUFFER if tls else 0))

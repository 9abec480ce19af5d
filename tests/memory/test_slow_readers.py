"""The memory of a real `serve` process per client that does not read a finished file."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trustme

from tests.support.process import ProxyProcess, served
from tests.support.tls_peers import write
from tests.support.upstreams import Origin
from tests.support.wire import LIMIT, Peer, connected

MIB, KIB = 1 << 20, 1 << 10
SIZE = 16 * MIB
READERS = 250
#: Memory that a reader may cost, its TLS session included, and that all large pieces may cost.
EACH, LARGE = 160 * KIB, 24 * MIB
#: The same for a response that is written at once.
WHOLE = 640 * KIB
DESCRIPTION = b"GET /_async/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
FIELDS = "Host: localhost\r\nAuthorization: Bearer x\r\n"


async def upstream(peer: Peer) -> None:
    """The file for an export, and an empty object for everything else."""
    with contextlib.suppress(TimeoutError):  # an idle connection
        while True:
            head = await peer.head()
            body = bytes(SIZE) if head.startswith(b"POST") else b"{}"
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def client(
    port: int, tls: ssl.SSLContext | None, *, buffer: int = 4096
) -> AbstractAsyncContextManager[Peer]:
    """A client with buffers of that size, so that what it does not read stays with the proxy."""
    return connected(port, tls=tls, limit=buffer, receive_buffer=buffer)


async def exported(peer: Peer) -> str:
    """The path of the result of a finished export, which is read once."""
    kickoff = "POST /v8/RestoreSessions/s/organization/mailboxes/m/exportToPst HTTP/1.1"
    fields = "Prefer: respond-async, wait=30\r\nContent-Length: 0\r\n"
    await peer.send(f"{kickoff}\r\n{FIELDS}{fields}\r\n".encode())
    head, body = await peer.response()
    assert body == bytes(SIZE)
    return re.search(r"Content-Location: \S+?localhost(\S+)", head.decode())[1]  # type: ignore[index]


async def settled(running: ProxyProcess) -> int:
    """Resident memory, once it has not moved for half a second."""
    async with asyncio.timeout(LIMIT):
        last = -1
        while last != (now := running.memory()):
            last = now
            await asyncio.sleep(0.5)
    return last


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("what", ["file", "description"])
async def test_6_a_reader_that_stalls_costs_little(what: str, tls: bool, tmp_path: Path) -> None:
    """§6: 250 of them. The kernel's buffers are not counted. The description of the API needs no
    credentials, and anyone can ask for it many times at once.
    """
    authority = trustme.CA()
    settings, context = {}, None
    if tls:
        chain, key = write(authority.issue_cert("localhost"), tmp_path)
        settings = {"LISTEN__TLS_CERTIFICATE": str(chain), "LISTEN__TLS_KEY": str(key)}
        context = ssl.create_default_context()
        authority.configure_trust(context)
    async with Origin(upstream).running() as origin, contextlib.AsyncExitStack() as clients:
        running = await clients.enter_async_context(
            served(f"http://127.0.0.1:{origin.port}", tmp_path / "data", **settings)
        )
        async with client(running.port, context, buffer=MIB) as reader:
            result = await exported(reader)
        before = await settled(running)
        for _ in range(READERS):
            reader = await clients.enter_async_context(client(running.port, context))
            reader.writer.transport.pause_reading()  # type: ignore[attr-defined]
            if what == "file":
                await reader.send(f"GET {result} HTTP/1.1\r\n{FIELDS}\r\n".encode())
            else:
                await reader.send(DESCRIPTION * 200)
        grown = await settled(running) - before
        assert grown < LARGE + READERS * (EACH if what == "file" else WHOLE)

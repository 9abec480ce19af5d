"""A file that the kernel copies to a client (`FileSink`, `FileSource`), on both loops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
from aiohttp import web

from proxy.api import download
from proxy.api.file_response import FileResponse
from proxy.core.http.heads import Head
from proxy.core.routing import Decision
from proxy.downstream.bridge import Bridge
from proxy.ports.counts import FileCounts
from proxy.ports.sending import IMPOSSIBLE, FileSink, FileSource, Turn
from proxy.stores.file_artifacts import files
from proxy.stores.file_artifacts.reader import FileReader
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.support.artifacts import new_id, note
from tests.support.proxies import Proxy, through
from tests.support.tls_peers import server_side
from tests.support.wire import LIMIT, Peer, eventually
from tests.unit.downstream.test_server import decide, silent

pytestmark = pytest.mark.skipif(
    not hasattr(os, "RWF_NOWAIT"),
    reason="only Linux sends files: downloads by the kernel are not tested here",
)

SIZE = 4 << 20
CONTENT = os.urandom(SIZE)


class Site:
    """Serves [start, stop) of a stored file at /_own/<start>-<stop>, as a download does."""

    def __init__(self, store: FileArtifacts, job: str) -> None:
        self.store = store
        self.job = job
        self.counts = FileCounts()
        #: Turns that ended, and requests in progress.
        self.turns: list[Turn] = []
        self.serving = 0
        self.proxy: Proxy = cast("Proxy", None)

    async def handle(
        self, request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        start, _, stop = head.target.rpartition(b"/")[2].partition(b"-")
        reader = await self.store.open(self.job)
        assert reader is not None
        self.serving += 1
        send = reader.send

        async def noted(*args: Any, **options: Any) -> Turn:
            self.turns.append(await send(*args, **options))
            return self.turns[-1]

        reader.send = noted  # type: ignore[method-assign]
        assert isinstance(reader, FileSource)
        assert isinstance(request.transport, FileSink)
        response = FileResponse(200, [], int(stop) - int(start))
        sender = download.Download(self.store, cast("Any", None))
        asked = cast("Any", type("Request", (), {"inner": request}))
        try:
            await response.prepare(request)
            await sender._copy(asked, response, reader, int(start), int(stop), self.counts)
            await response.write_eof()
            return response
        finally:
            self.serving -= 1
            await reader.close()

    async def client(self, *, buffer: int = 0) -> Peer:
        """A client, the socket of which has a small receive buffer if one is given."""
        url = f"//127.0.0.1:{self.proxy.port}"
        return await Peer.to(url, limit=buffer or 1 << 20, receive_buffer=buffer)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def get(start: int = 0, stop: int = SIZE) -> bytes:
    return b"GET /_own/%d-%d HTTP/1.1\r\nHost: h\r\n\r\n" % (start, stop)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    store, job = await FileArtifacts.at(tmp_path, durable=False), new_id()
    partial = await store.create(job)
    await partial.write(CONTENT)
    await partial.commit(SIZE, note)
    made = Site(store, job)
    async with through(silent, decide=decide, handler=made.handle) as (made.proxy, _):
        yield made
    await store.close()


def sent(site: Site) -> int:
    """Bytes of the file that the kernel copied."""
    return sum(turn.size for turn in site.turns)


async def test_6_ranges_and_pipelined_requests_get_exactly_their_bytes(site: Site) -> None:
    """Each response follows the whole one before it, and every byte is counted once."""
    parts = [(0, SIZE), (1, SIZE - 1), (70_001, 400_000), (5, 6), (4096, 4096 + (1 << 20))]
    client = await site.client()
    await client.send(b"".join(get(*part) for part in parts))
    length = 0
    for start, stop in parts:
        head, body = await client.response()
        assert body == CONTENT[start:stop], (start, stop)
        length += len(head) + len(body)
    await eventually(lambda: site.serving == 0)  # a turn is counted when it ends
    assert site.counts.served == sum(stop - start for start, stop in parts)
    assert sent(site) > site.counts.served // 2
    site.proxy.server.settle()
    assert site.proxy.server.counters.sent == length
    client.abort()


async def test_6_a_client_with_a_small_buffer_gets_every_byte(site: Site) -> None:
    client = await site.client(buffer=4096)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    client.writer.write(get() + get(5, 7))
    await eventually(lambda: any(turn.full for turn in site.turns))
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert (await client.response())[1] == CONTENT
    assert (await client.response())[1] == CONTENT[5:7]
    assert sent(site) > 0
    client.abort()


async def test_6_a_socket_that_is_full_near_the_end_gets_no_byte_behind_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(descriptor: int, socket: int, start: int, stop: int, *, patient: bool) -> Turn:
        size = os.sendfile(socket, descriptor, start, min(stop - start - 100, 100_000))
        return Turn(size, full=True)

    monkeypatch.setattr(files, "send", send)
    monkeypatch.setattr(download, "_LEAST", 1)
    client = await site.client()
    await client.send(get(9, 1_000_009) + get(1, 300))
    assert (await client.response())[1] == CONTENT[9:1_000_009]
    assert (await client.response())[1] == CONTENT[1:300]
    client.abort()


async def test_6_stalled_readers_take_no_threads(site: Site) -> None:
    """They wait in the event loop, and neither delay another client nor keep a turn."""
    stalled = [await site.client(buffer=4096) for _ in range(30)]
    for client in stalled:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(get())
    await eventually(lambda: site.serving == 30 and sum(turn.full for turn in site.turns) >= 30)
    other = await site.client()
    await other.send(get())
    assert (await other.response())[1] == CONTENT
    names = [thread.name for thread in threading.enumerate()]
    assert sum(name.startswith("sending") for name in names) <= 8
    assert not site.store.turns.locked()
    for client in stalled[1:]:
        client.reset()
    stalled[0].writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert (await stalled[0].response())[1] == CONTENT
    for client in (other, stalled[0]):
        client.abort()


async def test_6_a_reader_that_stalls_is_disconnected(site: Site) -> None:
    """It cannot take what it has got for the whole."""
    site.proxy.server.head_timeout = 0.05
    client = await site.client(buffer=4096)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await client.send(get())
    await eventually(lambda: site.proxy.server.counters.timed_out == 1)
    await eventually(lambda: site.serving == 0)
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.response()
    client.abort()


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_6_a_client_that_leaves_releases_the_file(site: Site, how: str) -> None:
    before = descriptors()
    client = await site.client(buffer=4096)
    await client.send(get())
    await client.head()
    await client.exactly(10_000)
    if how == "reset":
        client.reset()
    else:
        await client.close()
    await eventually(lambda: site.serving == 0 and site.proxy.server.open == 0)
    await eventually(lambda: descriptors() == before)
    assert site.store.turns._value == 8
    assert site.counts.served < SIZE


async def test_6_a_turn_of_a_client_that_has_left_writes_to_nobody_else(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new connection may get the number of the closed descriptor while a thread still writes."""
    begun, go, wrote = threading.Event(), threading.Event(), threading.Event()
    send = files.send

    def late(*args: Any, **options: Any) -> Turn:
        begun.set()
        go.wait(LIMIT)
        try:
            return send(*args, **options)
        finally:
            wrote.set()

    monkeypatch.setattr(files, "send", late)
    client = await site.client()
    await client.send(get())
    await eventually(begun.is_set)
    client.reset()
    await eventually(lambda: site.proxy.server.open == 0)
    others = [await site.client() for _ in range(8)]
    await eventually(lambda: site.proxy.server.open == len(others))
    go.set()
    await eventually(lambda: wrote.is_set() and site.serving == 0)
    monkeypatch.undo()
    for other in others:
        await other.send(get(3, 5))
        head, body = await other.response()
        assert (head[:15], body) == (b"HTTP/1.1 200 OK", CONTENT[3:5])
        other.abort()


async def fails_after(
    site: Site, monkeypatch: pytest.MonkeyPatch, copied: int, fail: Callable[[], int]
) -> bytes:
    """The body of the response whose file the kernel copies up to byte `copied`, then it calls
    `fail`.
    """
    copy, places = os.sendfile, site.store._places(site.job)

    def sendfile(to: int, file: int, start: int, count: int) -> int:
        return copy(to, file, start, min(count, copied - start)) if start < copied else fail()

    monkeypatch.setattr(os, "sendfile", sendfile)
    assert places.file.exists()
    client = await site.client()
    await client.send(get())
    received = b""
    with contextlib.suppress(ConnectionError):
        while len(received) < SIZE and (
            data := await asyncio.wait_for(client.reader.read(1 << 20), LIMIT)
        ):
            received += data
    client.abort()
    return received.partition(b"\r\n\r\n")[2]


async def test_6_what_the_kernel_cannot_copy_is_read_and_written(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EINVAL: some file systems cannot."""

    def refuse() -> int:
        raise OSError(22, "Invalid argument")

    body = await fails_after(site, monkeypatch, 1_000_000, refuse)
    await eventually(lambda: site.serving == 0)
    assert (body, site.counts.served, sent(site)) == (CONTENT, SIZE, 1_000_000)
    assert site.turns[-1] == IMPOSSIBLE


async def test_6_a_file_that_became_shorter_breaks_the_connection(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is shorter than announced does not look whole."""
    places = site.store._places(site.job)

    def shorten() -> int:
        os.truncate(places.file, 1_000_000)
        return 0

    body = await fails_after(site, monkeypatch, 1_000_000, shorten)
    await eventually(lambda: site.serving == 0)
    assert body == CONTENT[: len(body)]
    assert len(body) <= 1_000_000


async def test_6_nothing_is_written_while_the_kernel_copies(site: Site) -> None:
    bridges: list[Bridge] = []
    handle = site.handle

    async def refused(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        bridge = cast("Bridge", request.transport)
        bridges.append(bridge)
        assert bridge.begin_sending() is None  # before the head
        return await handle(request, head, decision)

    site.proxy.server._handler = refused
    begin = FileReader.send

    async def send(self: FileReader, sink: FileSink, *args: Any, **options: Any) -> Turn:
        turn = asyncio.ensure_future(begin(self, sink, *args, **options))
        await asyncio.sleep(0)
        assert repr(bridges[0]).endswith("sending>")
        assert bridges[0].begun
        with pytest.raises(RuntimeError, match="write"):
            bridges[0].write(b"x")
        return await turn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileReader, "send", send)
        client = await site.client()
        await client.send(get())
        assert (await client.response())[1] == CONTENT
        client.abort()


async def test_6_the_kernel_copies_nothing_over_tls(
    tmp_path: Path, authority: trustme.CA, localhost: trustme.LeafCert
) -> None:
    store, job = await FileArtifacts.at(tmp_path, durable=False), new_id()
    partial = await store.create(job)
    await partial.write(CONTENT)
    await partial.commit(SIZE, note)
    site = Site(store, job)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    tls = {"server_tls": server_side(localhost), "client_tls": trust}
    async with through(silent, decide=decide, handler=site.handle, **tls) as (proxy, _):
        peer = await proxy.ask(get())
        assert (await peer.response())[1] == CONTENT
        assert site.turns == [IMPOSSIBLE]
        peer.abort()
    await store.close()

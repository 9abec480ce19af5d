"""A body that a thread stores is the same file, and fails in the same ways, as one that the event
loop reads (CONTRACT §10).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trustme

from proxy.core.events import Answered, Claimed
from proxy.core.job import FileFacts
from proxy.jobs.reception import Reception
from proxy.jobs.record import Record
from proxy.jobs.reservations import Reservations
from proxy.net.tls import upstream_context
from proxy.ports import (
    Partial,
    Response,
    StorageFull,
    StoreUnavailable,
    UpstreamBroken,
    UpstreamTimedOut,
    UpstreamUnreachable,
)
from proxy.stores.file_artifacts.spool import Spool
from proxy.stores.file_artifacts.store import FileArtifacts
from proxy.upstream.client import HttpUpstream
from proxy.upstream.pool import Pool
from proxy.upstream.source import BodySource
from tests.support.fakes import MemoryJobs, new_job
from tests.support.tls_peers import server_side
from tests.support.upstreams import Origin, Script
from tests.support.wire import LIMIT, Peer

SIZE = 6 << 20
CONTENT = b"!BDN" + os.urandom(1 << 20) * 6
BODY = CONTENT[:SIZE]


def chunks(body: bytes) -> bytes:
    """The body as chunks of changing sizes, without the last one."""
    out: list[bytes] = []
    at = 0
    for size in itertools.cycle((1, 70_000, 3, 300_000)):
        piece = body[at : at + size]
        if not piece:
            return b"".join(out)
        out.append(b"%x\r\n%b\r\n" % (len(piece), piece))
        at += size
    raise AssertionError


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"
WHOLE = {
    "length": LENGTH + BODY,
    "chunked": CHUNKED + chunks(BODY) + b"0\r\n\r\n",
    "close": CLOSE + BODY,
}
HALF = SIZE // 2


class Storing:
    """A response of which the body is being stored in `partial`."""

    def __init__(self, response: Response, reception: Reception, pool: Pool) -> None:
        self.response = response
        self.reception = reception
        self.pool = pool

    @property
    def partial(self) -> Partial:
        return self.reception.partial

    async def run(self) -> None:
        try:
            await self.reception.copy(self.response)
        finally:
            self.response.close()

    async def stored(self) -> bytes:
        return await self.partial.read(0, self.partial.offset)


@contextlib.asynccontextmanager
async def storing(
    script: Script,
    directory: Path,
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | None,
    stall: float = LIMIT,
) -> AsyncIterator[Storing]:
    server, client = tls or (None, None)
    artifacts = await FileArtifacts.at(directory, durable=False)
    job = new_job(id=str(uuid4()))
    jobs = MemoryJobs()
    await jobs.add(job, b"")
    space = Reservations(artifacts, min_free=0, max_bytes=None)
    await space.measure()
    record = Record(jobs, job, time.time)
    await record.advance(Claimed("here", 0))
    await record.advance(
        Answered(FileFacts(media_type="a/b", file_name=None, size=None, etag=None))
    )
    reception = Reception(record, artifacts, space)
    await reception.open(wait=True)
    async with Origin(script).running(server) as origin:
        pool = Pool("localhost" if tls else "127.0.0.1", origin.port, tls=client)
        upstream = HttpUpstream(pool)
        response = await upstream.send(b"POST", b"/", [], timeout=LIMIT, stall=stall)
        try:
            yield Storing(response, reception, pool)
        finally:
            response.close()
            await artifacts.close()
            await upstream.close()


@pytest.fixture(params=["http", "https"])
def tls(
    request: pytest.FixtureRequest, localhost: trustme.LeafCert, authority: trustme.CA
) -> tuple[ssl.SSLContext, ssl.SSLContext] | None:
    if request.param == "http":
        return None
    client = upstream_context()
    authority.configure_trust(client)
    return server_side(localhost), client


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The bytes that threads have appended."""
    counts = {"bytes": 0}
    pour = BodySource.pour

    def counting(source: BodySource, append: Any) -> bool:
        before = source.received
        try:
            return pour(source, append)
        finally:
            counts["bytes"] += source.received - before

    monkeypatch.setattr(BodySource, "pour", counting)
    return counts


async def rest(response: Response) -> None:
    while await response.read():
        pass


def sends(raw: bytes, *, then: Any = None) -> Script:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(raw)
        if then is not None:
            await then(peer)

    return script


@pytest.mark.parametrize("framing", WHOLE)
async def test_a_body_that_a_thread_stores_is_the_same_file(
    framing: str, tmp_path: Path, tls: Any, threads: dict[str, int]
) -> None:
    async with storing(sends(WHOLE[framing]), tmp_path, tls) as stored:
        await stored.run()
        assert stored.partial.offset == SIZE
        artifact = await stored.partial.commit(SIZE, lambda _: b"")
        assert artifact.sha256 == hashlib.sha256(BODY).digest()
        assert stored.reception._space.written == SIZE
        assert stored.pool.counts.received >= len(WHOLE[framing])
    assert threads["bytes"] > HALF


@pytest.mark.parametrize(
    "raw",
    [
        LENGTH + BODY[:HALF],
        CHUNKED + chunks(BODY[:HALF]),
        CHUNKED + chunks(BODY[:HALF]) + b"xyz\r\n",
    ],
    ids=["length", "chunked", "malformed"],
)
async def test_a_body_that_breaks_in_a_thread_is_not_whole(
    raw: bytes, tmp_path: Path, tls: Any, threads: dict[str, int]
) -> None:
    async with storing(sends(raw), tmp_path, tls) as stored:
        with pytest.raises(UpstreamBroken):
            await stored.run()
        counts, malformed = stored.pool.counts, raw.endswith(b"xyz\r\n")
        assert (counts.truncated, counts.malformed) == (not malformed, malformed)
        assert BODY.startswith(await stored.stored())
        assert malformed or stored.partial.offset == HALF
    assert threads["bytes"]


async def test_a_connection_that_is_reset_in_a_thread_does_not_end_a_body(
    tmp_path: Path, tls: Any, threads: dict[str, int]
) -> None:
    """Nothing but the end of the connection says that this body is whole."""

    async def reset(peer: Peer) -> None:
        peer.reset()

    async with storing(sends(CLOSE + BODY, then=reset), tmp_path, tls) as stored:
        with pytest.raises(UpstreamBroken):
            await stored.run()
        assert BODY.startswith(await stored.stored())


async def test_bytes_that_could_not_be_written_are_written_again(
    tmp_path: Path, tls: Any, threads: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, append = itertools.count(), Spool.append

    def failing(spool: Spool, pieces: Any) -> None:
        if next(calls) in (3, 9):
            raise StoreUnavailable("away")
        append(spool, pieces)

    monkeypatch.setattr(Spool, "append", failing)
    async with storing(sends(WHOLE["length"]), tmp_path, tls) as stored:
        await stored.run()
        assert await stored.stored() == BODY
    assert next(calls) > 9


async def test_a_full_disk_ends_a_thread(
    tmp_path: Path, tls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(spool: Spool, piece: Any) -> None:
        raise StorageFull("full")

    monkeypatch.setattr(Spool, "append_piece", failing)  # only a thread that reads calls it
    async with storing(sends(WHOLE["length"]), tmp_path, tls) as stored:
        with pytest.raises(StorageFull):
            await stored.run()
        with pytest.raises(UpstreamBroken):  # and not the end of the body
            await rest(stored.response)
        await stored.partial.discard()


async def test_a_body_that_stalls_after_a_thread_has_read_times_out(
    tmp_path: Path, tls: Any, threads: dict[str, int]
) -> None:
    async def stall(peer: Peer) -> None:
        await peer.rest()

    async with storing(sends(LENGTH + BODY[:HALF], then=stall), tmp_path, tls, 0.3) as stored:
        with pytest.raises(UpstreamTimedOut):
            await stored.run()
        assert await stored.stored() == BODY[:HALF]
    assert threads["bytes"]


async def test_a_cancelled_export_stops_its_thread(
    tmp_path: Path, tls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, running = asyncio.Event(), [0]
    loop, pour = asyncio.get_running_loop(), BodySource.pour

    def noted(source: BodySource, append: Any) -> bool:
        running[0] += 1
        loop.call_soon_threadsafe(begun.set)
        try:
            return pour(source, append)
        finally:
            running[0] -= 1

    monkeypatch.setattr(BodySource, "pour", noted)
    async with storing(sends(WHOLE["length"]), tmp_path, tls) as stored:
        task = asyncio.create_task(stored.run())
        await begun.wait()
        task.cancel()
        async with asyncio.timeout(LIMIT):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert running == [0]
        assert stored.pool.open == 0
        kept = stored.partial.offset
        assert stored.reception._space.written == kept
        assert await stored.stored() == BODY[:kept]


async def test_a_certificate_that_is_not_trusted_is_refused(localhost: trustme.LeafCert) -> None:
    """A connection that a thread may read decides that as every other one does."""

    async def script(peer: Peer) -> None:
        await peer.head()

    async with Origin(script).running(server_side(localhost)) as origin:
        for context in (upstream_context(), upstream_context(fingerprint="00" * 32)):
            pool = Pool("localhost", origin.port, tls=context)
            with pytest.raises(UpstreamUnreachable, match="certificate"):
                await pool.connect()
            assert (pool.counts.tls, pool.open) == (1, 0)


async def test_a_peer_that_ends_the_handshake_is_unreachable() -> None:
    async def script(peer: Peer) -> None:
        await peer.exactly(1)
        peer.abort()

    async with Origin(script).running() as origin:
        pool = Pool("127.0.0.1", origin.port, tls=upstream_context())
        with pytest.raises(UpstreamUnreachable):
            await pool.connect()
        assert pool.open == 0

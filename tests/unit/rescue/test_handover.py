"""Exports whose worker ends before it responds (CONTRACT §3.9, §14, §15)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.core.exports import Export
from proxy.core.http.heads import Head
from proxy.core.preferences import Preferences
from proxy.core.routing import Decision, Kickoff, Rescue
from proxy.net.budget import Budget
from proxy.relay.handover import HandoverRelay
from proxy.relay.relay import Relay
from proxy.rescue.handover import HandoverRescuer
from proxy.upstream.pool import Pool
from tests.support.exports import CONTENT, HEAD, Exports, post
from tests.support.proxies import Proxy, proxy_to
from tests.support.wire import LIMIT, Peer, eventually

MAX_BODY = 1000
CHUNKS = ("Transfer-Encoding: chunked",)


@dataclass
class Second:
    """A worker that does not own the jobs, and VB365."""

    proxy: Proxy
    upstream: Exports
    memory: Budget


@contextlib.asynccontextmanager
async def second(path: Path) -> AsyncIterator[Second]:
    """A worker that hands exports over to the socket at `path`."""

    def decide(head: Head) -> Decision:
        export = Export("v8", "s1", "m1", "exportToPst", "Export")
        if head.get_all(b"prefer"):
            return Kickoff(export, head.target, Preferences(respond_async=True))
        return Rescue(export, head.target)

    first = HandoverRelay({b"http": path}, timeout=LIMIT)
    async with Exports().running() as upstream:
        pool, memory = Pool("127.0.0.1", upstream.port), Budget(10 * MAX_BODY)
        rescue = HandoverRescuer(first, Relay(pool), memory=memory, max_body=MAX_BODY)
        async with proxy_to(upstream.port, decide=decide, exports=first, rescue=rescue) as proxy:
            yield Second(proxy, upstream, memory)
        await pool.close()
        await first.close()
    assert memory.taken == 0


@contextlib.asynccontextmanager
async def dying(path: Path, size: int) -> AsyncIterator[list[bytes]]:
    """A worker that closes its connections once `size` bytes of a body have arrived. Yields the
    heads that it has received.
    """
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = contextlib.suppress(asyncio.IncompleteReadError, ConnectionError)
        with contextlib.closing(writer), left:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(size)

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield heads
    finally:
        server.close()
        await server.wait_closed()


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


async def check(client: Peer, scene: Second, body: bytes) -> None:
    response = await client.message()
    assert (response.head, response.body) == (HEAD, CONTENT)
    assert [one.body for one in scene.upstream.posts] == [body]


@pytest.mark.parametrize("body", [b"{}", b""])
async def test_14_without_the_first_worker_an_export_is_passed_through(
    tmp_path: Path, body: bytes
) -> None:
    async with second(tmp_path / "none") as scene:
        await check(await scene.proxy.ask(post(body=body)), scene, body)


@pytest.mark.parametrize("path", ["none", "first"])
async def test_14_an_export_for_whose_relaying_there_is_no_memory_is_broken_off(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client would wait for ever, whether or not the worker got the request."""

    def short_of_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Relay, "start", short_of_memory)
    async with dying(tmp_path / "first", 2), second(tmp_path / path) as scene:
        client = await scene.proxy.ask(post(body=b"{}"))
        async with asyncio.timeout(LIMIT):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await client.response()
        assert scene.proxy.server.busy == 0


@pytest.mark.parametrize("after", [0, 8])
async def test_14_an_export_is_passed_through_with_what_follows_of_its_body(
    tmp_path: Path, after: int
) -> None:
    """The worker ends before the body is whole, or after."""
    path = tmp_path / "first"
    async with dying(path, after), second(path) as scene:
        client = await scene.proxy.ask(post(body=b"3\r\nabc\r\n", fields=CHUNKS))
        await eventually(lambda: scene.upstream.accepted == 1)
        await client.send(chunk(b"def") + b"0\r\n\r\n")
        await check(client, scene, b"abcdef")
        assert scene.memory.taken == 0


async def test_14_an_export_with_a_body_too_large_to_keep_is_refused(tmp_path: Path) -> None:
    """The worker relays such a body itself; what it has sent of it cannot be sent again."""
    path = tmp_path / "first"
    body = chunk(bytes(MAX_BODY)) + b"0\r\n\r\n"
    async with dying(path, len(body)), second(path) as scene:
        client = await scene.proxy.ask(post(body=body, fields=CHUNKS))
        assert (await client.message()).status == 503
        assert scene.upstream.posts == []


async def test_14_a_client_that_leaves_is_not_passed_through(tmp_path: Path) -> None:
    path = tmp_path / "first"
    async with dying(path, 1000), second(path) as scene:
        client = await scene.proxy.ask(post(body=chunk(b"abc"), fields=CHUNKS))
        await eventually(lambda: scene.memory.taken > 0)
        client.reset()
        await eventually(lambda: scene.memory.taken == 0)
        assert scene.upstream.posts == []


@pytest.mark.parametrize("key", [(), ("Idempotency-Key: k",)])
async def test_3_a_kickoff_that_may_have_been_stored_is_not_refused(
    tmp_path: Path, key: tuple[str, ...]
) -> None:
    """§3.9: after a 503 its client would start the export again. With a key it gets the job."""
    path = tmp_path / "first"
    async with dying(path, 2), second(path) as scene:
        client = await scene.proxy.ask(post(fields=("Prefer: respond-async", *key)))
        if key:
            assert (await client.message()).status == 503
        else:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await client.message()


async def test_3_a_kickoff_that_was_not_sent_is_refused(tmp_path: Path) -> None:
    """§3: nothing has been stored, so that its client may send it again."""
    async with second(tmp_path / "none") as scene:
        client = await scene.proxy.ask(post(fields=("Prefer: respond-async",)))
        assert (await client.message()).status == 503


@pytest.mark.parametrize("exists", [False, True])
async def test_16_the_log_does_not_blame_vb365_for_the_first_worker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, exists: bool
) -> None:
    path = tmp_path / "first"
    async with AsyncExitStack() as stack:
        if exists:
            await stack.enter_async_context(dying(path, 2))
        scene = await stack.enter_async_context(second(path))
        client = await scene.proxy.ask(post(fields=("Prefer: respond-async",)))
        if exists:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await client.message()
        else:
            assert (await client.message()).status == 503
    (text,) = [each.message for each in caplog.records if each.name == "proxy.relay.exchange"]
    assert "the worker that runs the exports" in text
    assert "upstream" not in text
    assert "localhost" not in text


@pytest.mark.parametrize("name", ["Prefer", "Authorization", "Idempotency-Key", "close, If-Range"])
async def test_12_the_first_worker_gets_the_fields_that_connection_names(
    tmp_path: Path, name: str
) -> None:
    """The worker that a client is connected to makes no difference."""
    path = tmp_path / "first"
    fields = ("Prefer: respond-async", "Idempotency-Key: k", f"Connection: {name}", 'If-Range: "e"')
    request = post(fields=fields)
    async with dying(path, 2) as heads, second(path) as scene:
        client = await scene.proxy.ask(request)
        assert (await client.message()).status == 503
    (head,) = heads
    assert head.partition(b"\r\n")[2] == request.removesuffix(b"{}")


async def test_14_a_response_that_cannot_be_handed_on_releases_the_memory(tmp_path: Path) -> None:
    """§14: the lines of the connection between the workers can make its head too large."""
    path = tmp_path / "first"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"abc")
        writer.write(b"HTTP/1.1 200 OK\r\nX: %b\r\n\r\n" % bytes(1 << 18).replace(b"\0", b"x"))
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    async with server, second(path) as scene:
        client = await scene.proxy.ask(post(body=b"abc"))
        assert (await client.message()).status == 502
        assert scene.memory.taken == 0

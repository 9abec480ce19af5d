"""The access line of each request: how it ended, its bytes, and what is never in it (§15)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

import pytest
from aiohttp import web

from proxy.core.http.heads import Head
from proxy.core.routing import Decision, Own, PassThrough
from proxy.downstream.access_log import AccessLog
from tests.support.log_lines import LogLines, check_documented, logged
from tests.support.proxies import Proxy, no_handler, through
from tests.support.upstreams import Origin, Script
from tests.support.wire import Peer, eventually

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /v8/x?secret=1 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer secret\r\n\r\n"
JOB = "5f0c6d3e-0000-4000-8000-000000000001"


def decide(head: Head) -> Decision:
    if head.target.startswith(b"/_own"):
        return Own("/_own", None, head.target[5:].decode(), None)
    return PassThrough(head.target)


@contextlib.asynccontextmanager
async def logging(
    script: Script, trusted: str | None = None, **options: Any
) -> AsyncIterator[tuple[Proxy, Origin, LogLines]]:
    networks = () if trusted is None else (ip_network(trusted),)
    options.setdefault("handler", no_handler)
    async with through(script, decide=decide, access=AccessLog(networks), **options) as (
        proxy,
        origin,
    ):
        with logged() as log:
            yield proxy, origin, log


async def lines(log: LogLines, number: int = 1) -> list[dict[str, Any]]:
    """The access lines, once there are so many."""
    await eventually(lambda: len(log.named("request")) >= number)
    found = log.named("request")
    assert len(found) == number
    check_documented(found)
    return found


async def answering(peer: Peer) -> None:
    while True:
        await peer.head()
        await peer.send(OK)


async def silent(peer: Peer) -> None:
    await peer.head()
    await peer.closed()


async def test_a_relayed_request() -> None:
    seen = []

    async def script(peer: Peer) -> None:
        for _ in range(2):
            seen.append(await peer.head())
            await peer.send(OK)

    named = GET.replace(b"\r\n\r\n", b"\r\nX-Request-Id: my-id\r\n\r\n")
    async with logging(script) as (proxy, _, log):
        peer = await proxy.ask(GET)
        await peer.response()
        await peer.send(named)
        await peer.response()
        first, second = await lines(log, 2)
    assert first["request_id"] != second["request_id"] == "my-id"
    assert b"x-request-id" not in seen[0].lower()
    assert (first["client"], first["lane"], first["job"]) == ("127.0.0.1", "relay", None)
    assert (first["method"], first["path"], first["status"]) == ("GET", "/v8/x", 200)
    assert [line["termination"] for line in (first, second)] == ["served", "served"]
    assert [line["bytes_in"] for line in (first, second)] == [len(GET), len(named)]
    assert [line["bytes_out"] for line in (first, second)] == [len(OK), len(OK)]
    assert 0 <= first["seconds"] < 30
    assert "secret" not in log.getvalue()


async def test_pipelined_requests_have_their_own_bytes() -> None:
    post = b"POST /v8/y HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n12345"

    async def script(peer: Peer) -> None:
        while head := await peer.head():
            await peer.exactly(5 if head.startswith(b"POST") else 0)
            await peer.send(OK)

    async with logging(script) as (proxy, _, log):
        peer = await proxy.ask(GET + post + GET)
        for _ in range(3):
            await peer.response()
        found = await lines(log, 3)
    assert [line["bytes_in"] for line in found] == [len(GET), len(post), len(GET)]


async def test_a_request_of_the_proxys_own_has_the_job_and_the_id_of_its_response() -> None:
    async def handler(request: web.BaseRequest, head: Head, decision: Decision) -> web.Response:
        return web.Response(body=b"body", headers={"X-Request-Id": str(head.id)})

    async with logging(silent, handler=handler) as (proxy, _, log):
        peer = await proxy.ask(b"GET /_own/exports/%b HTTP/1.1\r\nHost: h\r\n\r\n" % JOB.encode())
        head, body = await peer.response()
        (line,) = await lines(log)
    assert (line["lane"], line["status"], line["job"]) == ("own", 200, JOB)
    assert f"X-Request-Id: {line['request_id']}\r\n".encode() in head
    assert line["bytes_out"] == len(head) + len(body)


async def test_a_client_that_leaves() -> None:
    async with logging(silent) as (proxy, origin, log):
        peer = await proxy.ask(GET)
        await eventually(lambda: origin.accepted == 1)
        peer.reset()
        (line,) = await lines(log)
    assert (line["status"], line["termination"], line["bytes_out"]) == (499, "client-left", 0)


@pytest.mark.parametrize(
    ("response", "status"), [(b"", 502), (b"no http\r\n\r\n", 502), (OK[:-1], 200)]
)
async def test_an_upstream_that_cuts(response: bytes, status: int) -> None:
    """The 502 is the proxy's own: VB365's would be `served`."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(response)

    async with logging(script) as (proxy, _, log):
        peer = await proxy.ask(GET.replace(b"GET", b"POST"))
        await peer.head()
        (line,) = await lines(log)
    assert (line["status"], line["termination"]) == (status, "upstream-cut")


async def test_a_502_of_the_upstream_is_served() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

    async with logging(script) as (proxy, _, log):
        await (await proxy.ask(GET)).response()
        (line,) = await lines(log)
    assert (line["status"], line["termination"]) == (502, "served")


@pytest.mark.parametrize(
    ("sent", "lane", "method"),
    [
        (b"POST /v8/x HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n1", "relay", "POST"),
        (b"GET /v8/x?secret", "refused", None),
    ],
)
async def test_a_client_that_stops_sending(sent: bytes, lane: str, method: str | None) -> None:
    async with logging(silent, head_timeout=0.1) as (proxy, _, log):
        peer = await proxy.ask(sent)
        await peer.closed()
        (line,) = await lines(log)
        codes = {name: dict(each.codes) for name, each in proxy.server.counters.lanes.items()}
    assert (line["lane"], line["method"], line["termination"]) == (lane, method, "timed-out")
    assert (line["status"], line["bytes_in"]) == (499, len(sent))
    assert {name: each for name, each in codes.items() if each} == {lane: {499: 1}}


@pytest.mark.parametrize(
    ("sent", "path", "status"),
    [
        (b"GET /secret HTTP/1.1\r\nHost: h\r\nA b: c\r\n\r\n", None, 400),
        (
            b"POST /v8/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "/v8/x",
            400,
        ),
    ],
)
async def test_a_malformed_request(sent: bytes, path: str | None, status: int) -> None:
    async with logging(silent) as (proxy, _, log):
        head, body = await (await proxy.ask(sent)).response()
        (line,) = await lines(log)
    assert (line["lane"], line["termination"], line["status"]) == ("refused", "refused", status)
    assert (line["path"], line["bytes_in"]) == (path, len(sent))
    assert line["request_id"].encode() in body
    assert line["bytes_out"] == len(head) + len(body)


async def test_a_connection_over_the_limit() -> None:
    async with logging(answering, max_connections=1) as (proxy, _, log):
        first = await proxy.ask(GET)
        await first.response()
        await (await proxy.connect()).response()
        _, line = await lines(log, 2)
    assert (line["lane"], line["status"], line["method"]) == ("refused", 503, None)


async def test_a_handler_that_fails_in_its_response() -> None:
    async def handler(
        request: web.BaseRequest, head: Head, decision: Decision
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "5"})
        await response.prepare(request)
        await response.write(b"1")
        raise OSError("the file is gone")

    async with logging(silent, handler=handler) as (proxy, _, log):
        await (await proxy.ask(b"GET /_own HTTP/1.1\r\nHost: h\r\n\r\n")).closed()
        (line,) = await lines(log)
    assert (line["status"], line["termination"]) == (200, "aborted")


async def test_a_shutdown() -> None:
    async with logging(silent) as (proxy, origin, log):
        await proxy.ask(GET)
        await eventually(lambda: origin.accepted == 1)
        await asyncio.wait_for(proxy.server.drain(0.0), 10)
        (line,) = await lines(log)
    assert line["termination"] == "aborted"


@pytest.mark.parametrize(("trusted", "client"), [(None, "127.0.0.1"), ("127.0.0.0/8", "192.0.2.7")])
async def test_the_client_behind_a_balancer(trusted: str | None, client: str) -> None:
    request = GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n")
    async with logging(answering, trusted) as (proxy, _, log):
        await (await proxy.ask(request)).response()
        (line,) = await lines(log)
    assert line["client"] == client


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a\xff%0a\x1b"[:-1] + b"?b", "/a\xff%0a"),
        (b"http://h/v8/x?secret", "/v8/x"),
        (b"http://h?secret", ""),
        (b"/v8/x#secret", "/v8/x"),
        (b"/" + b"a" * 3000, "/" + "a" * 1999),
    ],
)
async def test_the_path(target: bytes, path: str) -> None:
    async with logging(answering) as (proxy, _, log):
        await (await proxy.ask(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target)).response()
        (line,) = await lines(log)
    assert line["path"] == path
    assert "secret" not in log.getvalue()


async def test_the_bytes_of_an_open_connection_are_counted_once() -> None:
    async with logging(answering) as (proxy, _, _log):
        counters = proxy.server.counters
        peer = await proxy.ask(GET)
        await peer.response()
        for _ in range(2):
            proxy.server.settle()
            assert (counters.received, counters.sent) == (len(GET), len(OK))
        await peer.send(GET)
        await peer.response()
        await peer.close()
        await eventually(lambda: proxy.server.open == 0)
        assert (counters.received, counters.sent) == (2 * len(GET), 2 * len(OK))

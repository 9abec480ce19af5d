"""A response of VB365 that the proxy writes as it is (CONTRACT §3)."""

from __future__ import annotations

from typing import cast

from aiohttp import web

from proxy.api.whole_response import Verbatim
from proxy.core.http.heads import Head
from proxy.core.routing import Decision
from proxy.ports import WholeResponse
from tests.support.proxies import through
from tests.support.wire import Peer


def decide(head: Head) -> Decision:
    return cast("Decision", "ours")


async def silent(peer: Peer) -> None:
    await peer.closed()


def response(status: int = 401, body: bytes = b"no") -> WholeResponse:
    fields = (
        (b"wWW-Authenticate", b"Bearer"),
        (b"Set-Cookie", b"a=\xff"),
        (b"Set-Cookie", b"b"),
        (b"Content-Length", b"999"),
        (b"Connection", b"x-gone"),
        (b"X-Gone", b"1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"x", b""),
    )
    return WholeResponse(status, b"Nicht sch\xf6n", fields, body)


VERBATIM = (
    b" Nicht sch\xf6n\r\nwWW-Authenticate: Bearer\r\nSet-Cookie: a=\xff\r\nSet-Cookie: b\r\nx: \r\n"
)


async def test_3_a_response_of_the_upstream_is_relayed_verbatim() -> None:
    """Nothing is added but its length: no Date, no Server, no Content-Type."""

    async def relayed(request: web.BaseRequest, head: Head, decision: Decision) -> Verbatim:
        return Verbatim(response(int(head.target[-3:])))

    async with through(silent, decide=decide, handler=relayed) as (proxy, _):
        client = await proxy.ask(b"POST /_own401 HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
        expected = b"HTTP/1.1 401" + VERBATIM + b"Content-Length: 2\r\n\r\nno"
        assert await client.exactly(len(expected)) == expected
        await client.send(b"GET /_own304 HTTP/1.1\r\nHost: h\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 304" + VERBATIM + b"\r\n"
        await client.send(b"HEAD /_own999 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert (
            await client.rest()
            == b"HTTP/1.1 999" + VERBATIM + b"Content-Length: 2\r\nConnection: close\r\n\r\n"
        )

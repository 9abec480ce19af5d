"""Pass-through, byte for byte (CONTRACT §12)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from proxy.core.http.heads import Head
from proxy.core.routing import Decision, PassThrough
from tests.support.proxies import through
from tests.support.wire import Peer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def once(
    response: bytes, heard: list[bytes], *, body: bytes = b""
) -> Callable[[Peer], Awaitable[None]]:
    """An upstream that reads one head and the body up to `body`, responds, and continues."""

    async def script(peer: Peer) -> None:
        while True:
            heard.append(await peer.head() + (await peer.until(body) if body else b""))
            await peer.send(response)

    return script


SAME = [
    b"GET //v6/x HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /a%2Fb/%7e+;x=y/../. HTTP/1.1\r\nHost: h:4443\r\n\r\n",
    b"GET /x? HTTP/1.1\r\nHost: \r\n\r\n",
    b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET HTTP://H:80/x HTTP/1.1\r\nHost: h\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    (
        b"FOO /\xc3\xa4\xff HTTP/1.1\r\nhOsT: h\r\nX-A: 1\r\nx-a:2\r\nX-A:\t\xe4 "
        b"\r\nEmpty:\r\nX-A: 1\r\n\r\n"
    ),
    (
        b"GET / HTTP/1.1\r\nHost: h\r\nPrefer: respond-async\r\nAccept-Encoding: gzip, "
        b"br\r\nCookie: a=b\r\n\r\n"
    ),
    b"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer " + b"t" * 65536 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(b"X-%d: v\r\n" % n for n in range(1000)) + b"\r\n",
    b"DELETE /x HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
]


@pytest.mark.parametrize("raw", SAME, ids=lambda raw: repr(raw[:40]))
async def test_12_requests_arrive_as_they_were_sent(raw: bytes) -> None:
    heard: list[bytes] = []
    async with through(once(OK, heard)) as (proxy, _):
        client = await proxy.ask(raw)
        assert (await client.response())[1] == b"ok"
    assert heard == [raw]


BODIES = [
    (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\n", b'{"a":,}', b"}"),
    (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n", b"x\r}", b"}"),
    (
        b"PUT / HTTP/1.1\r\nHost: h\r\ntransfer-encoding: Chunked\r\n\r\n",
        b"3\r\nabc\r\n0\r\n\r\n",
        b"0\r\n\r\n",
    ),
    (
        b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0\r\nX-Sum: 9\r\n\r\n",
        b"9\r\n\r\n",
    ),
]


@pytest.mark.parametrize(("head", "body", "end"), BODIES)
async def test_12_bodies_on_any_method_keep_their_framing(
    head: bytes, body: bytes, end: bytes
) -> None:
    heard: list[bytes] = []
    async with through(once(OK, heard, body=end)) as (proxy, _):
        client = await proxy.connect()
        for at in range(0, len(head + body), 5):
            await client.send((head + body)[at : at + 5])
            await asyncio.sleep(0)
        assert (await client.response())[1] == b"ok"
    assert heard == [head + body]


async def test_12_chunk_extensions_are_dropped() -> None:
    heard: list[bytes] = []
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with through(once(OK, heard, body=b"0\r\n\r\n")) as (proxy, _):
        client = await proxy.ask(head + b"3;x=y\r\nabc\r\n0;z\r\n\r\n")
        await client.response()
    assert heard == [head + b"3\r\nabc\r\n0\r\n\r\n"]


ANSWERS = [
    (
        b"HTTP/1.1 200 OK\r\ndATE: x\r\nX-A: 1\r\nx-a:2\r\nSet-Cookie: a\r\nSet-Cookie: "
        b"b\r\nContent-Length: 0\r\n\r\n"
    ),
    b"HTTP/1.1 299 Sch\xf6n  so\r\nContent-Length: 1\r\nEmpty:\r\n\r\nx",
    b"HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 999 Odd\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x00\r",
    b"HTTP/1.1 200 OK\r\nX: " + b"v" * 65536 + b"\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n"
    + b"".join(b"X-%d: v\r\n" % n for n in range(1000))
    + b"Content-Length: 0\r\n\r\n",
]


@pytest.mark.parametrize("raw", ANSWERS, ids=lambda raw: repr(raw[:40]))
async def test_12_responses_arrive_as_they_were_sent(raw: bytes) -> None:
    async with through(once(raw, [])) as (proxy, _):
        client = await proxy.ask(GET)
        assert b"".join(await client.response()) == raw


async def test_12_responses_may_be_split_anywhere() -> None:
    raw = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
    )

    async def script(peer: Peer) -> None:
        while True:
            await peer.head()
            for at in range(len(raw)):
                await peer.send(raw[at : at + 1])
                await asyncio.sleep(0)

    async with through(script) as (proxy, origin):
        client = await proxy.connect()
        for _ in range(2):
            await client.send(GET)
            assert await client.exactly(len(raw)) == raw
        assert origin.accepted == 1


@pytest.mark.parametrize(
    ("method", "raw", "connections"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 3),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 3),
        (b"GET", b"HTTP/1.1 304 Not\r\nContent-Length: 5\r\nETag: x\r\n\r\n", 3),
        (b"GET", b"HTTP/1.1 304 Not\r\nETag: x\r\n\r\n", 1),
        (b"GET", b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", 1),
    ],
)
async def test_12_bodiless_responses_keep_connections_unless_ambiguous(
    method: bytes, raw: bytes, connections: int
) -> None:
    async with through(once(raw, [])) as (proxy, origin):
        client = await proxy.connect()
        for _ in range(3):
            await client.send(method + b" / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert await client.head() == raw
        assert origin.accepted == connections


async def test_12_hop_by_hop_fields_are_replaced_in_both_directions() -> None:
    heard: list[bytes] = []
    response = (
        b"HTTP/1.1 200 OK\r\nConnection: X-U, close\r\nX-U: 1\r\nKeep-Alive: "
        b"5\r\nContent-Length: 0\r\nY: 2\r\n\r\n"
    )
    async with through(once(response, heard)) as (proxy, _):
        client = await proxy.ask(
            b"GET / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: close, X-C\r\nX-C: "
            b"1\r\nX-D: 2\r\n"
            b"Upgrade: h2c\r\nProxy-Connection: x\r\n\r\n"
        )
        assert (
            await client.rest()
            == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nY: 2\r\nConnection: close\r\n\r\n"
        )
    assert heard == [b"GET / HTTP/1.1\r\nHost: h\r\nX-D: 2\r\n\r\n"]


async def test_12_the_decision_may_change_the_target_and_nothing_else() -> None:
    heard: list[bytes] = []

    def decide(head: Head) -> Decision:
        return PassThrough(head.target.replace(b"?async=0", b""))

    async with through(once(OK, heard), decide=decide) as (proxy, _):
        client = await proxy.ask(b"GET /x?async=0 HTTP/1.1\r\nHost:h\r\nX:  1\r\n\r\n")
        await client.response()
    assert heard == [b"GET /x HTTP/1.1\r\nHost:h\r\nX:  1\r\n\r\n"]


async def test_12_host_and_forwarding_fields_are_added_only_if_enabled() -> None:
    heard: list[bytes] = []
    async with through(
        once(OK, heard), pool={"preserve_host": False}, relay={"forwarded": True}
    ) as (
        proxy,
        origin,
    ):
        client = await proxy.ask(GET)
        await client.response()
        port = b"%d" % origin.port
    assert heard == [
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1:" + port + b"\r\nX-Forwarded-For: 127.0.0.1\r\n"
        b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\nVia: 1.1 vb365-async-proxy\r\n\r\n"
    ]


async def test_12_pipelined_requests_are_served_in_order() -> None:
    async def script(peer: Peer) -> None:
        while True:
            target = (await peer.head()).split(b" ")[1]
            await peer.send(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target)
            )

    async with through(script) as (proxy, _):
        client = await proxy.ask(
            b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n for n in range(50))
        )
        assert [(await client.response())[1] for _ in range(50)] == [b"/%d" % n for n in range(50)]


async def test_12_a_pipelined_request_behind_a_body_is_not_part_of_it() -> None:
    heard: list[bytes] = []
    first = b"POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
    second = b"POST /2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nc\r\n0\r\n\r\n"
    async with through(once(OK, heard, body=b"c")) as (proxy, _):
        client = await proxy.ask(first + second + GET)
        for _ in range(2):
            await client.response()
    assert heard[0] == first
    assert heard[1].startswith(b"POST /2 ")


async def test_12_an_http_1_0_client_gets_http_1_0_framing() -> None:
    """No chunks, no interim responses, and the connection closes unless the client asked to keep
    it.
    """
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: "
        b"1\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n"
    )
    async with through(once(b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + chunked, [])) as (proxy, _):
        client = await proxy.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert await client.rest() == b"HTTP/1.1 200 OK\r\nX: 1\r\nConnection: close\r\n\r\nabcde"
    async with through(once(OK, [])) as (proxy, _):
        client = await proxy.connect()
        for _ in range(2):
            await client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert b"Connection: keep-alive\r\n" in (await client.response())[0]
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await client.rest()).endswith(b"Connection: close\r\n\r\nok")


async def test_12_a_response_without_length_closes_the_clients_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\nsome ")
        await peer.send(b"more")
        await peer.close()

    async with through(script) as (proxy, _):
        client = await proxy.ask(GET)
        assert (
            await client.rest() == b"HTTP/1.1 200 OK\r\nX: 1\r\nConnection: close\r\n\r\nsome more"
        )


async def test_12_interim_responses_are_forwarded() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    async with through(once(early + early + OK, [])) as (proxy, _):
        client = await proxy.ask(GET)
        assert await client.exactly(len(early + early + OK)) == early + early + OK


async def test_12_expect_continue_works_end_to_end() -> None:
    async def script(peer: Peer) -> None:
        assert b"Expect: 100-continue" in await peer.head()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await peer.exactly(4) == b"body"
        await peer.send(OK)

    async with through(script, head_timeout=0.5) as (proxy, _):
        client = await proxy.ask(
            b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"body")
        assert (await client.response())[1] == b"ok"


async def test_12_a_rejected_expectation_closes_the_connection() -> None:
    """It is unknown whether the body will follow, so no request can."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno")
        await peer.closed()

    async with through(script) as (proxy, _):
        client = await proxy.ask(
            b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 40\r\n\r\n"
        )
        assert (
            await client.rest()
            == b"HTTP/1.1 417 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
        )


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
WEBSOCKET = b"GET /s HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


async def test_12_websockets_are_tunnelled_in_both_directions() -> None:
    async def script(peer: Peer) -> None:
        assert await peer.head() == WEBSOCKET
        await peer.send(SWITCH + b"\x81\x02hi")
        assert await peer.exactly(5) == b"GET /"
        await peer.send(b"\x00" * 300_000)
        assert await peer.exactly(300_000) == b"\x01" * 300_000
        await peer.send(b"bye")
        await peer.closed()

    async with through(script, head_timeout=0.5) as (proxy, _):
        client = await proxy.ask(WEBSOCKET)
        assert await client.head() == SWITCH
        assert await client.exactly(4) == b"\x81\x02hi"
        await client.send(b"GET /")
        assert await client.exactly(300_000) == b"\x00" * 300_000
        await client.send(b"\x01" * 300_000)
        assert await client.exactly(3) == b"bye"
        await client.close()


async def test_12_the_end_of_a_tunnel_is_forwarded_to_the_client() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCH + b"bye")
        await peer.close()

    async with through(script) as (proxy, _):
        client = await proxy.ask(WEBSOCKET)
        assert await client.rest() == SWITCH + b"bye"


async def test_12_bytes_after_a_rejected_upgrade_are_the_next_request() -> None:
    """They are not sent into a tunnel that does not exist."""
    heard: list[bytes] = []
    async with through(once(OK, heard)) as (proxy, _):
        client = await proxy.ask(WEBSOCKET + GET)
        assert (await client.response())[1] == b"ok"
        assert (await client.response())[1] == b"ok"
    assert heard == [WEBSOCKET, GET]


async def test_12_any_other_upgrade_is_dropped() -> None:
    heard: list[bytes] = []
    async with through(once(OK, heard)) as (proxy, _):
        client = await proxy.ask(
            b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: A\r\n\r\n"
        )
        await client.response()
    assert heard == [GET]


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        (b"http://h/x?y", b"/x?y"),
        (b"http://h", b"/"),
        (b"//x", b"//x"),
        (b"/http://h/", b"/http://h/"),
    ],
)
async def test_12_without_preserve_host_no_target_names_the_clients_host(
    target: bytes, sent: bytes
) -> None:
    heard: list[bytes] = []
    async with through(once(OK, heard), pool={"preserve_host": False}) as (proxy, origin):
        client = await proxy.ask(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target)
        await client.response()
        assert heard == [b"GET %b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % (sent, origin.port)]


async def test_12_a_target_with_another_host_is_rejected() -> None:
    async with through(once(OK, [])) as (proxy, origin):
        client = await proxy.ask(b"GET http://other/x HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
        assert origin.accepted == 0


MALFORMED = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/2 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    b"\x15\x03\x01\x00\x02",
    b"",
    b"HTTP/1.1 2",
]


@pytest.mark.parametrize("raw", MALFORMED, ids=lambda raw: repr(raw[:60]))
async def test_12_a_malformed_response_is_502_and_a_valid_problem(raw: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(raw)
        await peer.close()

    async with through(script) as (proxy, _):
        client = await proxy.ask(
            b"GET /v8/x?y HTTP/1.1\r\nHost: h\r\nAccept: application/json\r\n\r\n"
        )
        head, body = await client.response()
        assert head.startswith(b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\n")
        assert b"X-VB365-Async: proxy\r\n" in head
        problem = json.loads(body)
        assert problem["type"] == "urn:vb365-async:problem:upstream-unreachable"
        assert (problem["errorCode"], problem["instance"]) == ("HttpError", "/v8/x")
        await client.send(b"GET /v6/x HTTP/1.1\r\nHost: h\r\n\r\n")
        head, body = await client.response()
        assert head.startswith(
            b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/problem+json\r\n"
        )
        assert "errorCode" not in json.loads(body)


async def test_11_the_problem_of_a_head_request_has_no_body() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.close()

    async with through(script) as (proxy, _):
        client = await proxy.ask(b"HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert (await client.rest()).endswith(b"\r\n\r\n")


async def test_12_an_unreachable_upstream_is_502() -> None:
    async with through(once(OK, [])) as (proxy, origin):
        proxy.pool.port = 1
        client = await proxy.ask(b"POST /v7/x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
        head, body = await client.response()
        assert head.startswith(b"HTTP/1.1 502 ")
        assert "errorCode" not in json.loads(body)
        proxy.pool.port = origin.port
        await client.send(GET)
        assert (await client.response())[1] == b"ok"

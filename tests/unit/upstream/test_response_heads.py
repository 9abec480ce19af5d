"""Heads of responses that arrive slowly, in large numbers, or are not HTTP (CONTRACT §12)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import pytest

from proxy.core.http.heads import MAX_INTERIM, parse_request
from proxy.downstream.duplex import ClientSide
from proxy.ports import UpstreamBroken
from proxy.ports.counts import UpstreamCounts
from proxy.relay.exchange import Exchange
from proxy.upstream.client import HttpUpstream, _StreamedResponse
from proxy.upstream.connection import Connection
from proxy.upstream.pool import Pool
from tests.support.proxies import through
from tests.support.upstreams import Origin
from tests.support.wire import LIMIT, Peer

REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
FINAL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


def relayed() -> Exchange:
    client = cast("ClientSide", None)
    return Exchange(Pool("h", 1), client, parse_request(REQUEST), REQUEST, whole=True)


def called() -> _StreamedResponse:
    connection, counts = cast("Connection", None), UpstreamCounts()
    return _StreamedResponse(connection, parse_request(REQUEST), LIMIT, counts)


def seconds(taker: Exchange | _StreamedResponse, pieces: int) -> float:
    """The time to parse an incomplete head that arrives in this many pieces."""
    taker.data_received(b"HTTP/1.1 200 OK\r\n")
    line = b"X: aaa\r\n"
    begun = time.process_time()
    for _ in range(pieces):
        taker.data_received(line)
    return time.process_time() - begun


@pytest.mark.parametrize("make", [relayed, called])
async def test_12_a_head_in_many_pieces_takes_linear_time(
    make: Callable[[], Exchange | _StreamedResponse],
) -> None:
    """Four times the pieces take about four times as long; a quadratic parser needs
    sixteen times.
    """
    short = min(seconds(make(), 7_500) for _ in range(3))
    long = min(seconds(make(), 30_000) for _ in range(3))
    assert long < short * 8, (short, long)


def script_for(raw: bytes) -> Origin:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(raw)
        await peer.closed()

    return Origin(script)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("interims", "status"), [(0, 200), (1, 200), (MAX_INTERIM, 200), (MAX_INTERIM + 1, 502)]
)
async def test_12_at_most_a_hundred_interim_responses_are_forwarded(
    interims: int, status: int, at_once: bool
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        for _ in range(0 if at_once else interims):
            await peer.send(INTERIM)
        await peer.send(INTERIM * (interims if at_once else 0) + FINAL)
        await peer.closed()

    async with through(script) as (proxy, _):
        client = await proxy.ask(REQUEST)
        for _ in range(min(interims, MAX_INTERIM)):
            assert (await client.head()).startswith(b"HTTP/1.1 103 ")
        assert (await client.head()).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize(("interims", "whole"), [(MAX_INTERIM, True), (MAX_INTERIM + 1, False)])
async def test_12_the_proxys_own_calls_accept_a_hundred_interim_responses(
    interims: int, whole: bool
) -> None:
    async with script_for(INTERIM * interims + FINAL).running() as origin:
        upstream = HttpUpstream(Pool("127.0.0.1", origin.port))
        if whole:
            response = await upstream.send(b"GET", b"/", (), timeout=LIMIT, stall=LIMIT)
            assert await response.read() == b"ok"
        else:
            with pytest.raises(UpstreamBroken, match="too many interim responses"):
                await upstream.send(b"GET", b"/", (), timeout=LIMIT, stall=LIMIT)
        await upstream.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"220 mail ESMTP\r\n",
        b"H",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"<html>",
        b"\x15\x03\1",
    ],
)
async def test_11_a_response_that_is_not_http_fails_at_once(raw: bytes) -> None:
    """The server keeps the connection open; the proxy does not wait for the rest of the head."""
    raw += b"x" if raw == b"H" else b""
    async with script_for(raw).running() as origin:
        upstream = HttpUpstream(Pool("127.0.0.1", origin.port))
        with pytest.raises(UpstreamBroken, match="not valid HTTP") as why:
            await upstream.send(b"POST", b"/", (), b"{}", timeout=LIMIT, stall=LIMIT)
        assert why.value.delivered
        await upstream.close()
    async with through(script_for(raw).script) as (proxy, _):
        client = await proxy.ask(REQUEST)
        head, body = await client.response()
        assert head.startswith(b"HTTP/1.1 502 ")
        assert b"malformed response" in body

"""Dialogues in which both sides take turns: every byte arrives as it was sent, directly and through
the proxy. A step that arrives otherwise says so (`arrives`), with the reason beside it (CONTRACT
§12).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from tests.support.proxies import proxy_to
from tests.support.upstreams import Origin
from tests.support.wire import LIMIT, Peer, connected
from tests.transparency.test_transparency import LISTENER


@dataclass(frozen=True)
class Said:
    """`by` is "client" or "upstream"; `arrives` is what the other side gets through the proxy
    instead of `text`.
    """

    by: str
    text: bytes
    arrives: bytes | None = None


def client(text: bytes, arrives: bytes | None = None) -> Said:
    return Said("client", text, arrives)


def upstream(text: bytes, arrives: bytes | None = None) -> Said:
    return Said("upstream", text, arrives)


EXPECTING = b"POST /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
CHUNKED = (
    b"PUT /x HTTP/1.1\r\nHost: h\r\nexpect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n"
)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
SOCKET = (
    b"GET /s HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "
    b"x\r\nConnection: Upgrade\r\n\r\n"
)
POST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 8\r\n\r\n"
EARLY = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n"
#: The response began before the request was complete, so the connection closes after it.
EARLY_HERE = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\n"

DIALOGUES = {
    "100 and a body": [client(EXPECTING), upstream(CONTINUE), client(b"body"), upstream(OK)],
    "100 with a reason and fields": [
        client(EXPECTING),
        upstream(b"HTTP/1.1 100 Go on\r\nX-A: 1\r\n\r\n"),
        client(b"body"),
        upstream(OK),
    ],
    "100 twice": [client(EXPECTING), upstream(CONTINUE + CONTINUE), client(b"body"), upstream(OK)],
    "103 and then 100": [
        client(EXPECTING),
        upstream(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
        upstream(CONTINUE),
        client(b"body"),
        upstream(OK),
    ],
    "100 and chunks": [
        client(CHUNKED),
        upstream(CONTINUE),
        client(b"4\r\nbody\r\n0\r\n\r\n"),
        upstream(OK),
    ],
    "a body without waiting": [client(EXPECTING + b"body"), upstream(CONTINUE + OK)],
    "a body in place of patience": [client(EXPECTING), client(b"bo"), client(b"dy"), upstream(OK)],
    "401 instead of 100": [
        client(EXPECTING),
        # It is unknown whether the body will follow, so no request can on this connection.
        upstream(
            b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        ),
    ],
    "100, request after request": [
        client(EXPECTING),
        upstream(CONTINUE),
        client(b"body"),
        upstream(OK),
        client(EXPECTING),
        upstream(CONTINUE),
        client(b"BODY"),
        upstream(OK),
    ],
    "a WebSocket": [
        client(SOCKET),
        upstream(SWITCH),
        client(b"\x81\x85abcdhello"),
        upstream(b"\x81\x05hello"),
        client(b"\x88\x80abcd"),
        upstream(b"\x88\x00"),
    ],
    "a WebSocket whose server speaks at once": [
        client(SOCKET),
        upstream(SWITCH + b"\x81\x02hi"),
        client(b"\x89\x00"),
    ],
    "a WebSocket with HTTP inside": [
        client(SOCKET),
        upstream(SWITCH),
        client(GET + GET),
        upstream(OK),
        client(b"\r\n"),
    ],
    "a WebSocket that is refused": [
        client(SOCKET),
        upstream(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"),
        client(GET),
        upstream(OK),
    ],
    "a body in pieces": [client(POST), client(b"ab"), client(b"cdef"), client(b"gh"), upstream(OK)],
    "a head in pieces": [
        client(GET[:3], b""),
        client(GET[3:20], b""),
        client(GET[20:], GET),
        upstream(OK),
    ],
    "an answer in pieces": [client(GET), upstream(EARLY), upstream(b"abc"), upstream(b"defgh")],
    "an answer's head in pieces": [client(GET), upstream(OK[:9], b""), upstream(OK[9:], OK)],
    "an echo": [
        client(POST),
        upstream(EARLY, EARLY_HERE),
        client(b"abcd"),
        upstream(b"abcd"),
        client(b"efgh"),
        upstream(b"efgh"),
    ],
    "server-sent events": [
        client(GET),
        upstream(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: "
            b"text/event-stream\r\n\r\n"
        ),
        upstream(b"9\r\ndata: 1\n\n\r\n"),
        upstream(b"9\r\ndata: 2\n\n\r\n"),
        upstream(b"0\r\n\r\n"),
    ],
    "trailers late": [
        client(GET),
        upstream(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"),
        upstream(b"0\r\nX-Sum: 1\r\n"),
        upstream(b"\r\n"),
        client(GET),
        upstream(OK),
    ],
}


async def hold(steps: list[Said], speaker: Peer, listener: Peer, *, proxied: bool) -> None:
    """Send each step; the other side must receive it before the next one is sent."""
    for step in steps:
        says, hears = (speaker, listener) if step.by == "client" else (listener, speaker)
        await says.send(step.text)
        expected = step.arrives if proxied and step.arrives is not None else step.text
        assert await hears.exactly(len(expected)) == expected


class Connections:
    """An upstream that keeps its newest connection open for whoever plays it."""

    def __init__(self) -> None:
        self.newest: asyncio.Queue[Peer] = asyncio.Queue()
        self.over = asyncio.Event()

    async def script(self, peer: Peer) -> None:
        self.newest.put_nowait(peer)
        await self.over.wait()


async def play(
    steps: list[Said], speaker: Peer, connections: Connections, *, proxied: bool
) -> None:
    """Hold the dialogue. Through the proxy each non-idempotent request comes on a connection of its
    own.
    """
    turns: list[list[Said]] = [[]]
    for step in steps:
        if step.by == "client" and step.text.endswith(b"Length: 4\r\n\r\n") and turns[-1]:
            turns.append([])
        turns[-1].append(step)
    listener: Peer | None = None
    for turn in turns:
        first = turn[0]
        await speaker.send(first.text)
        if listener is None or proxied:
            listener = (
                await asyncio.wait_for(connections.newest.get(), LIMIT)
                if first.arrives is None
                else None
            )
        if listener is None:
            listener = await _late(turn, speaker, connections, proxied=proxied)
            rest = turn[3:]
        else:
            rest = turn[1:]
            assert await listener.exactly(len(first.text)) == first.text
        await hold(rest, speaker, listener, proxied=proxied)
    connections.over.set()


async def _late(
    turn: list[Said], speaker: Peer, connections: Connections, *, proxied: bool
) -> Peer:
    """A head that comes in three pieces reaches the upstream with its last one."""
    for step in turn[1:3]:
        await speaker.send(step.text)
    listener = await asyncio.wait_for(connections.newest.get(), LIMIT)
    whole = b"".join(step.text for step in turn[:3])
    assert await listener.exactly(len(whole)) == whole
    return listener


@pytest.mark.parametrize("steps", DIALOGUES.values(), ids=DIALOGUES.keys())
@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxied"])
async def test_12_each_step_arrives_before_the_next_is_sent(
    steps: list[Said], proxied: bool
) -> None:
    """§12: Expect, interim responses, WebSockets, early responses and pieces, without a
    deadlock.
    """
    connections = Connections()
    async with Origin(connections.script).running() as origin:
        if not proxied:
            async with connected(origin.port) as speaker:
                await play(steps, speaker, connections, proxied=False)
            return
        async with proxy_to(origin.port, decide=LISTENER.decide) as proxy:
            await play(steps, await proxy.connect(), connections, proxied=True)

"""The fuzzer: requests and responses cut and recombined at random. Seconds here, minutes with `make
fuzz`. There are never two interpretations, an unhandled exception or a hang, and a valid request is
served afterwards (§12).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.smuggling.readers import READERS, lengths_first
from tests.smuggling.requests import ATTACKS, SAFE
from tests.smuggling.responses import RESPONSES
from tests.smuggling.test_requests import Witness
from tests.smuggling.test_responses import GOOD, OK, answering
from tests.support.proxies import Proxy, proxy_to
from tests.support.upstreams import Origin
from tests.support.wire import LIMIT, Peer
from tests.transparency.reference import read_response
from tests.transparency.test_transparency import LISTENER

#: Seconds that a client may be silent: short, so that what is unfinished ends soon.
SHORT = 0.03

#: Each example is a conversation over sockets, so `make fuzz` makes fewer of them than of pure
#: functions.
EXAMPLES = max(settings().max_examples // 10, 60)

_PIECES = st.sampled_from(
    [
        *[
            b"GET",
            b"POST",
            b"HEAD",
            b" ",
            b"/",
            b"/x",
            b"*",
            b"http://h/",
            b" HTTP/1.1",
            b" HTTP/1.0",
            b"\r\n",
            b"\r\n",
        ],
        *[
            b"\n",
            b"\r",
            b"\t",
            b"\x00",
            b"\x0b",
            b"\xa0",
            b":",
            b";",
            b",",
            b"0",
            b"5",
            b"a",
            b"hello",
            b"ffffffffffffffff",
        ],
        *[
            b"Host: h\r\n",
            b"Host: i\r\n",
            b"Content-Length: 5\r\n",
            b"Content-Length: 0\r\n",
            b"content-length:",
        ],
        *[
            b"Transfer-Encoding: chunked\r\n",
            b"Transfer-Encoding:",
            b"chunked",
            b"0\r\n\r\n",
            b"5\r\nhello\r\n",
            b"0x",
        ],
        *[
            b"Connection: close\r\n",
            b"Connection: ",
            b"Expect: 100-continue\r\n",
            b"Upgrade: websocket\r\n",
            b" folded\r\n",
        ],
        *[b"GET / HTTP/1.1\r\nHost: h\r\n", b"POST / HTTP/1.1\r\nHost: h\r\n", b"\r\n\r\n", SAFE],
    ]
)
_ATTACKS = st.sampled_from([attack.raw for attack in ATTACKS if len(attack.raw) < 5000])
_ANSWERS = st.sampled_from([response.raw for response in RESPONSES if len(response.raw) < 5000])
_ANSWER_PIECES = st.sampled_from(
    [
        *[
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.0 200\r\n",
            b"HTTP/1.1 103 X\r\n\r\n",
            b"HTTP/1.1 204 N\r\n",
            b"\r\n",
            b"\n",
        ],
        *[
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"5\r\nhello\r\n",
            b"0\r\n\r\n",
            b"hello",
            b"X: y",
        ],
        *[
            b"Connection: close\r\n",
            b"\r",
            b"\x00",
            b";",
            b":",
            b" ",
            b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n",
        ],
    ]
)


@st.composite
def _torn(
    draw: st.DrawFn, whole: st.SearchStrategy[bytes], pieces: st.SearchStrategy[bytes]
) -> bytes:
    """Pieces; or something known, with a few places cut out and pieces put in."""
    if draw(st.booleans()):
        return b"".join(draw(st.lists(pieces, min_size=1, max_size=14)))
    raw = draw(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(raw)))
        cut = draw(st.integers(0, 3))
        raw = raw[:at] + draw(st.one_of(pieces, st.binary(max_size=3))) + raw[at + cut :]
    return raw


class LoopErrors:
    """Calls of the loop's exception handler: every entry is a crash."""

    def __init__(self) -> None:
        self.contexts: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: self.contexts.append(context)
        )


async def send_and_wait(proxy: Proxy, raw: bytes, cuts: list[int]) -> bytes:
    """Send it in pieces; whatever comes back until the proxy ends the connection, which it must."""
    client = await proxy.connect()
    got = b""
    with contextlib.suppress(ConnectionError):
        for start, stop in zip([0, *cuts], [*cuts, len(raw)], strict=True):
            await client.send(raw[start:stop])
            await asyncio.sleep(0)
        while data := await asyncio.wait_for(client.reader.read(1 << 16), LIMIT):
            got += data
    return got


def _cuts(raw: bytes, places: list[int]) -> list[int]:
    return sorted({place % (len(raw) + 1) for place in places})


@settings(max_examples=EXAMPLES)
@given(
    st.lists(
        st.tuples(_torn(_ATTACKS, _PIECES), st.lists(st.integers(0, 4000), max_size=3)),
        min_size=1,
        max_size=8,
    )
)
async def test_12_torn_requests_are_never_read_in_two_ways(
    inputs: list[tuple[bytes, list[int]]],
) -> None:
    """Each stream that reaches the upstream is the same to three readers, and contains nothing that
    was not sent.
    """
    complaints = LoopErrors()
    for raw, places in inputs:
        witness = Witness()
        async with (
            Origin(witness.script).running() as origin,
            proxy_to(
                origin.port, decide=LISTENER.decide, head_timeout=SHORT, idle_timeout=SHORT
            ) as proxy,
        ):
            got = await send_and_wait(proxy, raw, _cuts(raw, places))
            reached = len(witness.whole)
            proxy.server.head_timeout = LIMIT  # this machine may be slow
            assert (
                await read_response(await proxy.ask(SAFE), b"GET")
                == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            )
        assert got.count(b"HTTP/1.1 200 OK\r\n") <= reached
        _check_origin(raw, witness.whole[:reached])
        _check_streams(witness)
    assert not complaints.contexts


def _check_origin(raw: bytes, whole: list[bytes]) -> None:
    """Check that what reached the upstream is what one of the readers finds in the
    client's bytes.
    """
    forwarded = [lengths_first(one)[0] for one in whole]
    assert any(reader(raw)[: len(forwarded)] == forwarded for reader in READERS)


#: h11 takes no target with a byte beyond ASCII, which §12 passes: to all readers they are shown as
#: letters.
_PLAIN = bytes(range(128)) + b"x" * 128


def _check_streams(witness: Witness) -> None:
    for stream in witness.streams:
        readings = [reader(bytes(stream).translate(_PLAIN)) for reader in READERS]
        assert readings[0] == readings[1] == readings[2]
    assert sum(len(lengths_first(bytes(stream))) for stream in witness.streams) == len(
        witness.whole
    )


@settings(max_examples=EXAMPLES)
@given(st.lists(st.tuples(_torn(_ANSWERS, _ANSWER_PIECES), st.booleans()), min_size=1, max_size=8))
async def test_12_torn_responses_are_never_a_short_success(
    inputs: list[tuple[bytes, bool]],
) -> None:
    """What the client takes for a complete response is one to an independent reader, byte
    for byte.
    """
    complaints = LoopErrors()
    for raw, old in inputs:
        async with (
            answering(raw).running() as origin,
            proxy_to(origin.port, decide=LISTENER.decide) as proxy,
        ):
            client = await proxy.ask(
                b"GET /x HTTP/1.%d\r\nHost: h\r\nConnection: close\r\n\r\n" % (not old)
            )
            got, clean = await _until_the_end(client)
            assert await read_response(await proxy.ask(GOOD), b"GET") == OK
        body = _whole_body(got, clean=clean)
        if body is not None and b"X-VB365-Async: proxy\r\n" not in got:
            assert body == _whole_body(raw, clean=True)
    assert not complaints.contexts


async def _until_the_end(client: Peer) -> tuple[bytes, bool]:
    got = b""
    try:
        while data := await asyncio.wait_for(client.reader.read(1 << 16), LIMIT):
            got += data
    except ConnectionError:
        return got, False
    return got, True


def _whole_body(raw: bytes, *, clean: bool) -> bytes | None:
    """The body of the one final answer in `raw` as h11 reads it, None if it is not whole."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 24)
    connection.send(h11.Request(method="GET", target="/x", headers=[("Host", "h")]))
    connection.send(h11.EndOfMessage())
    body = b""
    try:
        connection.receive_data(raw)
        if clean:
            connection.receive_data(b"")
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return body
            elif (
                event is h11.NEED_DATA
                or event is h11.PAUSED
                or isinstance(event, h11.ConnectionClosed)
            ):
                return None
    except h11.RemoteProtocolError:
        return None

"""Response splitting and broken responses: 502, a visible break, or exactly the response (CONTRACT
§12).
"""

from __future__ import annotations

import asyncio
import json

import pytest

from proxy.core.errors import Problem, problem_bytes
from proxy.core.http.heads import parse_request
from tests.smuggling.responses import BAD, RESPONSES, Response
from tests.support.proxies import proxy_to
from tests.support.upstreams import Origin
from tests.support.wire import LIMIT, Peer
from tests.transparency.reference import read_request, read_response
from tests.transparency.test_transparency import LISTENER

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
GOOD = b"GET /good HTTP/1.1\r\nHost: h\r\n\r\n"


def answering(raw: bytes) -> Origin:
    """An upstream that responds with `raw` and closes, but with a valid response to /good."""

    async def script(peer: Peer) -> None:
        while True:
            request = await read_request(peer)
            if request == GOOD:
                await peer.send(OK)
                continue
            await peer.send(raw)
            return

    return Origin(script)


@pytest.mark.parametrize("response", RESPONSES, ids=lambda response: response.name)
async def test_12_hostile_responses_get_their_verdict(response: Response) -> None:
    """§12: malformed heads are 502; a body that breaks off breaks the client's response visibly;
    bytes after a response are never used.
    """
    async with (
        answering(response.raw).running() as origin,
        proxy_to(origin.port, decide=LISTENER.decide) as proxy,
    ):
        client = await proxy.ask(response.request)
        if isinstance(response.verdict, bytes):
            assert (
                await read_response(client, response.request.partition(b" ")[0]) == response.verdict
            )
        elif response.verdict == BAD:
            _check_problem(*await _problem(client, response.request))
        else:
            with pytest.raises(ConnectionResetError):
                await client.rest()
        if b"HTTP/1.1\r\n" in response.request and response.verdict != "broken":
            await client.send(
                GOOD
            )  # on the same connection: the rest of the previous response is not the next one
            assert await read_response(client, b"GET") == OK
        other = await proxy.ask(GOOD)
        assert await read_response(other, b"GET") == OK


async def _problem(client: Peer, request: bytes) -> tuple[bytes, bytes]:
    raw = await read_response(client, request.partition(b" ")[0])
    head, _, body = raw.partition(b"\r\n\r\n")
    return head, body


def _check_problem(head: bytes, body: bytes) -> None:
    assert head.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"\r\nX-VB365-Async: proxy" in head
    assert b"evil" not in head + body
    assert not body or json.loads(body)["status"] == 502


def test_12_there_are_a_hundred_responses() -> None:
    assert len({response.name for response in RESPONSES}) == len(RESPONSES) >= 100


ECHOED = [
    b"/\r\nSet-Cookie:evil=1",
    b"/%0d%0aSet-Cookie:%20evil=1",
    b"/\xe5\x98\x8a\xe5\x98\x8dSet-Cookie:evil=1",
    b'/"},{"x":"',
    b"/<script>alert(1)</script>",
    b"/\xff\xfe\x85",
]


@pytest.mark.parametrize("target", ECHOED)
async def test_12_an_echoed_path_cannot_end_a_line(target: bytes) -> None:
    """§11: the instance of a problem is the path, as JSON in ASCII; no field contains a byte of the
    client's.
    """
    async with answering(b"nonsense\r\n\r\n").running() as origin, proxy_to(origin.port) as proxy:
        client = await proxy.ask(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target)
        head, body = await client.response()
        assert b"evil" not in head
        assert head.split(b"\r\n")[0] in (b"HTTP/1.1 502 Bad Gateway", b"HTTP/1.1 400 Bad Request")
        json.loads(body)
        assert b"<script" not in body or b"json" in head


def test_11_a_problem_is_one_response_to_any_head() -> None:
    raw = b'GET /\xe4\x85"\\ HTTP/1.1\r\nHost: h\r\nAccept: application/json\r\n\r\n'
    head, _, body = problem_bytes(
        Problem("bad-request", "no"), parse_request(raw), keep=False
    ).partition(b"\r\n\r\n")
    assert head.isascii()
    assert b"\n" not in body
    assert body.isascii()


async def test_12_a_flood_of_interim_responses_is_not_buffered() -> None:
    """§12: interim responses are under back-pressure like all else."""
    flood = b"HTTP/1.1 102 Processing\r\nX: " + b"x" * 1000 + b"\r\n\r\n"
    sent = 0
    stop = asyncio.Event()

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.head()
        while not stop.is_set() and sent < 100_000:
            await peer.send(flood * 50)
            sent += 50
        stop.set()

    async with Origin(script).running() as origin, proxy_to(origin.port) as proxy:
        client = await proxy.connect(limit=1 << 16)
        await client.send(GOOD)
        async with asyncio.timeout(LIMIT):
            last = -1
            while last != sent:
                last = sent
                await asyncio.sleep(0.5)
        assert 0 < sent < 100_000
        stop.set()

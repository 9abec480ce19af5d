"""Request smuggling: 400 and close, or forwarded unambiguously (CONTRACT §12)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable

import pytest

from tests.smuggling.readers import READERS
from tests.smuggling.requests import ATTACKS, SAFE, Attack, Broken, Forwarded, Refused
from tests.support.proxies import Proxy, proxy_to
from tests.support.upstreams import Origin
from tests.support.wire import LIMIT, Peer
from tests.transparency.reference import read_request, read_response
from tests.transparency.test_transparency import LISTENER

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Witness:
    """An upstream that keeps every byte of every connection and responds to complete requests."""

    def __init__(self) -> None:
        self.streams: list[bytearray] = []
        self.whole: list[bytes] = []
        self.open = 0

    async def script(self, peer: Peer) -> None:
        stream = bytearray()
        self.streams.append(stream)
        self.open += 1
        recording = _Tap(peer, stream)
        try:
            while True:
                self.whole.append(await read_request(recording))
                await peer.send(OK)
        finally:
            self.open -= 1


class _Tap(Peer):
    """A peer that records what is read from it."""

    def __init__(self, peer: Peer, into: bytearray) -> None:
        super().__init__(peer.reader, peer.writer)
        self._into = into

    async def until(self, mark: bytes) -> bytes:
        return await self._keep(super().until(mark))

    async def exactly(self, count: int) -> bytes:
        return await self._keep(super().exactly(count))

    async def _keep(self, reading: Awaitable[bytes]) -> bytes:
        try:
            data = await reading
        except asyncio.IncompleteReadError as cut:
            self._into += cut.partial
            raise
        self._into += data
        return data


async def outcome(proxy: Proxy, raw: bytes, responses: int) -> list[bytes]:
    """Send it, read that many answers, and with 0 everything up to the end, whatever kind of
    end.
    """
    client = await proxy.connect()
    with contextlib.suppress(ConnectionError):
        await client.send(raw)
    if responses:
        return [await read_response(client, b"GET") for _ in range(responses)]
    got = b""
    with contextlib.suppress(ConnectionError):
        while data := await asyncio.wait_for(client.reader.read(1 << 16), LIMIT):
            got += data
    return [got]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_12_hostile_requests_get_their_verdict(attack: Attack) -> None:
    """§12, last paragraph. Afterwards a valid request is served, and all readers agree about the
    streams.
    """
    witness = Witness()
    async with (
        Origin(witness.script).running() as origin,
        proxy_to(origin.port, decide=LISTENER.decide, head_timeout=2.0) as proxy,
    ):
        expected = attack.verdict.requests if isinstance(attack.verdict, Forwarded) else ()
        got = await outcome(proxy, attack.raw, len(expected))
        if expected:
            assert got == [OK] * len(expected)
        else:
            _check_refusal(got[0], may_be_reset=isinstance(attack.verdict, Broken))
        assert witness.whole == list(expected)
        if isinstance(attack.verdict, Refused):
            assert not any(witness.streams)
        assert await outcome(proxy, SAFE, 1) == [OK]
    for stream in witness.streams:
        readings = [reader(bytes(stream)) for reader in READERS]
        whole = [request for request in readings[0] if not isinstance(attack.verdict, Broken)]
        assert all(reading[: len(whole)] == whole for reading in readings)


def _check_refusal(got: bytes, *, may_be_reset: bool) -> None:
    if not got and may_be_reset:
        return
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(
        (b"HTTP/1.1 400 Bad Request\r\n", b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    )
    assert b"\r\nConnection: close" in head
    assert b"\r\nX-VB365-Async: proxy" in head
    assert b"Content-Length: %d\r\n" % len(body) in head
    assert body.startswith(b"{")
    assert got.count(b"HTTP/1.1 ") == 1


def test_12_there_are_150_attacks_of_every_verdict() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 150
    verdicts = Counter(type(attack.verdict) for attack in ATTACKS)
    assert min(verdicts[kind] for kind in (Refused, Broken, Forwarded)) >= 15

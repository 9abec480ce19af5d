"""The watch over VB365: changes are logged once, and nothing but a connection is opened."""

from __future__ import annotations

import asyncio

import pytest

from proxy.ports import LocalShortage, UpstreamUnreachable
from proxy.upstream.pool import Pool
from proxy.upstream.watch import UpstreamWatch
from tests.support.log_lines import check_documented, logged
from tests.support.wire import LIMIT


class Fake:
    """Connects, or raises `failure`, at the second `now`."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.now = 100.0
        self.closed = 0

    async def connect(self) -> Fake:
        if self.failure is not None:
            raise self.failure
        return self

    def close(self) -> None:
        self.closed += 1


async def test_each_change_is_logged_once_with_its_cause_and_how_long_it_lasted() -> None:
    vb365 = Fake()
    watch = UpstreamWatch(vb365.connect, seconds=lambda: vb365.now)
    down = UpstreamUnreachable("no connection to vb365:4443: refused", delivered=False)
    with logged() as log:
        for failure in (
            None,
            down,
            down,
            LocalShortage("descriptors", delivered=False),
            None,
            None,
        ):
            vb365.failure = failure
            vb365.now += 10
            await watch.look()
    check_documented(log.entries)
    assert [(entry["event"], entry["level"]) for entry in log.entries] == [
        ("upstream.down", "error"),
        ("upstream.up", "info"),
    ]
    assert log.entries[0]["cause"] == "no connection to vb365:4443: refused"
    assert (log.entries[0]["seconds_up"], log.entries[1]["seconds_down"]) == (20, 30)
    assert (watch.up, vb365.closed) == (True, 3)


async def test_a_shortage_of_this_machine_is_no_change() -> None:
    vb365 = Fake()
    vb365.failure = LocalShortage("descriptors", delivered=False)
    watch = UpstreamWatch(vb365.connect)
    with logged() as log:
        await watch.look()
    assert (log.names, watch.up) == ([], True)


async def test_the_upstream_sees_a_connection_and_not_a_byte() -> None:
    """No request, no credential: its request log shows nothing."""
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.set_result(await reader.read())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        pool = Pool("127.0.0.1", server.sockets[0].getsockname()[1])
        await UpstreamWatch(pool.connect).look()
        assert await asyncio.wait_for(received, LIMIT) == b""
        await pool.close()


async def test_the_first_look_is_after_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    vb365, pauses = Fake(), []

    async def sleep(seconds: float) -> None:
        pauses.append((seconds, vb365.closed))
        if len(pauses) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr("proxy.upstream.watch.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await UpstreamWatch(vb365.connect).run()
    assert pauses == [(10.0, 0), (10.0, 1), (10.0, 2)]

"""docs/upstream.md §1, §7: generating, delivering, Range on POST, disconnects, restarts."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
import trustme

from proxy.simulator import Kind, Simulator, SimulatorSettings, expected_sha256, make, serve
from tests.unit.simulator.conftest import Client, Connect, Start, post, raw

MIB = 1 << 20


def pst(client: Client) -> str:
    """The path of an export of a mailbox in a new session."""
    return client.sim.export_paths(client.sim.open_session())[1]


@asynccontextmanager
async def generating(client: Client, path: str) -> AsyncIterator[asyncio.Task[object]]:
    """An export that is suspended while it generates."""
    client.sim.fault(path=path, count=1, hold=True)
    task = asyncio.create_task(client.post(path))
    await client.sim.until(lambda: client.sim.held == 1)
    yield task


async def test_the_delivered_bytes_have_the_expected_digest(alice: Client) -> None:
    path = pst(alice)
    alice.sim.fault(path=path, size=3 * MIB + 1, seed=7)
    reply = await alice.post(path)
    assert reply.headers["Content-Length"] == str(3 * MIB + 1)
    assert alice.sim.content(path).sha256() == expected_sha256(3 * MIB + 1, "pst", seed=7)
    assert reply.body == make(Kind.PST, 3 * MIB + 1, 7).read()


async def test_nothing_is_sent_while_the_file_is_generated(alice: Client) -> None:
    path = pst(alice)
    async with generating(alice, path) as export:
        assert alice.sim.deliveries[-1].status is None
        assert alice.sim.requests[-1].status is None
        alice.sim.release()
        await export
    assert alice.sim.deliveries[-1].outcome == "complete"


async def test_generation_takes_the_configured_time(start: Start, connect: Connect) -> None:
    alice = await connect(await start(generate=0.15))
    began = time.monotonic()
    await alice.post(pst(alice))
    assert time.monotonic() - began >= 0.14


@pytest.mark.parametrize(
    ("wanted", "shown", "first", "stop"),
    [
        ("bytes=0-3", "bytes 0-3/1048576", 0, 4),
        ("bytes=1000-", "bytes 1000-1048575/1048576", 1000, MIB),
        ("bytes=-10", "bytes 1048566-1048575/1048576", MIB - 10, MIB),
        ("bytes=1048570-9999999", "bytes 1048570-1048575/1048576", MIB - 6, MIB),
    ],
)
async def test_a_range_is_served_from_the_generated_file(
    alice: Client, wanted: str, shown: str, first: int, stop: int
) -> None:
    path = pst(alice)
    await alice.post(path)
    reply = await alice.post(path, headers={"Range": wanted})
    assert (reply.status, reply.headers["Content-Range"]) == (206, shown)
    assert reply.body == make(Kind.PST, MIB).read(first, stop)
    assert alice.sim.generations[path] == 1
    assert (alice.sim.deliveries[-1].start, alice.sim.deliveries[-1].sent) == (first, stop - first)


@pytest.mark.parametrize(
    "wanted", ["bytes=5-2", "items=0-1", "bytes=", "bytes=0-1,3-4", "bytes=x-"]
)
async def test_an_invalid_range_is_ignored(alice: Client, wanted: str) -> None:
    assert (await alice.post(pst(alice), headers={"Range": wanted})).status == 200


@pytest.mark.parametrize("wanted", ["bytes=1048576-", "bytes=-0"])
async def test_a_range_beyond_the_end_is_416(alice: Client, wanted: str) -> None:
    reply = await alice.post(pst(alice), headers={"Range": wanted})
    assert (reply.status, reply.headers["Content-Range"]) == (416, "bytes */1048576")


async def test_a_post_without_range_generates_another_file(alice: Client) -> None:
    path = pst(alice)
    await alice.post(path)
    await alice.post(path)
    assert alice.sim.generations[path] == 2


async def test_only_an_identical_request_gets_the_same_file(
    alice: Client, connect: Connect
) -> None:
    path, ranged = pst(alice), {"Range": "bytes=0-1"}
    await alice.post(path, data=b"{}")
    await alice.post(path, data=b"{ }", headers=ranged)
    await (await connect(alice.sim, "operator")).post(path, data=b"{}", headers=ranged)
    assert alice.sim.generations[path] == 3
    await alice.post(path, data=b"{}", headers=ranged)
    assert alice.sim.generations[path] == 3


async def test_generation_continues_after_a_disconnect(alice: Client) -> None:
    """A Range request can join it while it runs and afterwards."""
    session = alice.sim.open_session()
    path = alice.sim.export_paths(session)[1]
    async with generating(alice, path) as export:
        export.cancel()
        await alice.sim.until(lambda: alice.sim.deliveries[-1].outcome == "disconnected")
        assert session.events[0].status == "Running"
        joined = asyncio.create_task(alice.post(path, headers={"Range": "bytes=4-9"}))
        await alice.sim.until(lambda: len(alice.sim.deliveries) == 2)
        alice.sim.release()
        assert (await joined).status == 206
    assert session.events[0].status == "Success"
    assert alice.sim.generations[path] == 1


async def test_a_second_post_starts_a_second_generation(alice: Client) -> None:
    path = pst(alice)
    async with generating(alice, path) as export:
        export.cancel()
        assert (await alice.post(path)).status == 200
    assert alice.sim.generations[path] == 2


async def test_a_client_that_disconnects_during_the_transfer_is_detected(alice: Client) -> None:
    path = pst(alice)
    alice.sim.fault(path=path, size=200 * MIB)
    async with alice.request("POST", path) as response:
        await response.content.readexactly(1000)
        response.close()
    await alice.sim.until(lambda: alice.sim.deliveries[-1].outcome == "disconnected")
    assert alice.sim.deliveries[-1].sent < 200 * MIB


async def test_a_restart_drops_connections_and_keeps_port_and_files(alice: Client) -> None:
    path, port = pst(alice), alice.sim.port
    await alice.post(path)
    alice.sim.fault(path=path, count=1, stall_at=1000)
    async with alice.request("POST", path) as response:
        await response.content.readexactly(1000)
        await alice.sim.restart()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert alice.sim.port == port
    assert (await alice.post(path, headers={"Range": "bytes=1000-"})).status == 206
    assert alice.sim.generations[path] == 2
    await alice.sim.restart(keep_files=False)
    await alice.post(path, headers={"Range": "bytes=1000-"})
    assert alice.sim.generations[path] == 3


async def test_a_restart_ends_running_generations(alice: Client) -> None:
    session = alice.sim.open_session()
    path = alice.sim.export_paths(session)[1]
    async with generating(alice, path) as export:
        await alice.sim.restart()
        with pytest.raises(aiohttp.ClientError):
            await export
    assert session.events[0].status == "Failed"
    assert alice.sim.held == 0
    assert (await alice.post(path, headers={"Range": "bytes=0-"})).status == 206
    assert alice.sim.generations[path] == 2


async def test_stopping_a_session_fails_its_running_exports(alice: Client) -> None:
    session = alice.sim.open_session()
    path = alice.sim.export_paths(session)[1]
    async with generating(alice, path) as export:
        await alice.post(f"/v8/RestoreSessions/{session.id}/Stop")
        reply = await export
    assert getattr(reply, "status", None) == 500
    assert session.events[0].status == "Failed"


async def test_requests_are_recorded_as_received(alice: Client) -> None:
    path = pst(alice)
    target = f"{path}?x=%61&&y"
    await raw(alice.sim, post(alice.sim, target, "X-A: 1", "x-a: \xfc2"))
    record = alice.sim.requests[-1]
    assert (record.method, record.target, record.complete, record.status) == (
        "POST",
        target,
        True,
        200,
    )
    lines = [pair for pair in record.headers if pair[0].lower() == b"x-a"]
    assert lines == [(b"X-A", b"1"), (b"x-a", "\xfc2".encode())]
    await alice.post(path, data=b"x" * 100_000)
    record = alice.sim.requests[-1]
    assert (record.length, len(record.body), len(record.sha256)) == (100_000, 65_536, 64)
    assert record.header("content-LENGTH") == "100000"


async def test_records_are_bounded(start: Start, connect: Connect) -> None:
    alice = await connect(await start(records=3))
    for _ in range(5):
        await alice.get("/v8/ServiceInstance")
    assert len(alice.sim.requests) == 3


async def test_expect_is_answered_before_the_body(alice: Client) -> None:
    path = pst(alice)
    assert (await alice.post(path, data=b"{}", expect100=True)).status == 200


async def test_large_and_many_fields_are_accepted(alice: Client) -> None:
    """CONTRACT §12: token fields of 64 KiB and 1,000 fields."""
    headers = {f"X-{number}": "v" for number in range(1000)} | {"X-Large": "v" * 65_536}
    assert (await alice.get("/v8/ServiceInstance", headers=headers)).status == 200


async def test_it_serves_tls(connect: Connect) -> None:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    sim = Simulator()
    await sim.start(ssl=server)
    try:
        alice = await connect(sim)
        path = pst(alice)
        assert sim.url.startswith("https://")
        assert (await alice.post(path, ssl=client)).body[:4] == b"!BDN"
        sim.fault(path=path, cut_at=1000)
        with pytest.raises(aiohttp.ClientError):
            await alice.post(path, ssl=client)
    finally:
        await sim.stop()


async def test_serve_runs_until_it_is_cancelled() -> None:
    ready: asyncio.Future[Simulator] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(SimulatorSettings(), port=0, ready=ready.set_result))
    sim = await asyncio.wait_for(ready, 10)
    assert b"401" in await raw(
        sim, b"GET /v8/ServiceInstance HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(OSError):
        await raw(sim, b"")

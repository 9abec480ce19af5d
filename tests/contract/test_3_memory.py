"""CONTRACT §3: kick-offs share the memory for bodies and header fields."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from proxy import app
from proxy.api.request_body import RequestBody
from proxy.core import pace
from proxy.jobs.run import Run
from proxy.net.budget import Budget
from proxy.rescue.call import Call
from tests.contract.conftest import Clock, MakeRescue, MakeStage, Stage
from tests.support.exports import EXPORT, Slow, post
from tests.support.local_proxy import settings_of
from tests.support.upstreams import Origin
from tests.support.wire import Message, Peer, eventually, raw, request_bytes


async def part_of_a_kickoff(stage: Stage, body: bytes, **fields: str) -> Peer:
    """Open a connection and send a kick-off's head, with the caller's credentials, and `body`."""
    wire = await Peer.to(stage.url)
    more = {name.replace("_", "-"): value for name, value in fields.items()}
    head = request_bytes(
        "POST", stage.export, stage.fields | {"Prefer": "respond-async"} | more, None, "h"
    )
    await wire.send(head + body)
    return wire


async def test_3_1_bodies_that_are_received_share_a_memory_limit(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body takes memory as it arrives, whatever it announces; all of it is released."""
    memory, heads = Budget(100 << 10), Budget(64 << 20)
    budgets = iter((memory, Budget(100 << 10), Budget(100 << 10), heads))
    monkeypatch.setattr("proxy.parts.memory.Budget", lambda _: next(budgets))
    stage = await make_stage(EXPORTS__BODY_MEMORY="100KiB", EXPORTS__MAX_REQUEST_BODY="90KiB")

    async def refused(**more: Any) -> bool:
        response = await stage.kickoff(stage.export, **more)
        if response.status == 202:
            return False
        assert response.status == 503
        assert response.json()["type"] == "urn:vb365-async:problem:capacity-exhausted"
        assert response.get("Retry-After")
        assert response["Connection"] == "close"
        return True

    async def until_taken(size: int) -> None:
        await eventually(lambda: memory.taken == size)

    await stage.get("/v8/_async/exports")  # VB365 accepts the caller
    await until_taken(0)
    announced = await part_of_a_kickoff(stage, b"x", Content_Length=str(80 << 10))
    large = {"body": b"y" * (30 << 10)}
    assert not await refused(**large)
    await until_taken(1)
    await announced.send(b"x" * ((80 << 10) - 2))
    await until_taken((80 << 10) - 1)
    assert await refused(**large)
    await until_taken((80 << 10) - 1)
    assert not await refused(body=b"y" * (10 << 10))
    await announced.send(b"x")
    assert (await announced.message()).status == 202
    announced.abort()
    await until_taken(0)
    assert not await refused(**large)

    await until_taken(0)
    chunked = await part_of_a_kickoff(
        stage, b"14000\r\n" + b"x" * (80 << 10), Transfer_Encoding="chunked"
    )
    await until_taken(80 << 10)
    assert await refused(**large)
    chunked.abort()
    await until_taken(0)
    assert not await refused(**large)

    for body in (b"100000\r\n" + b"x" * (95 << 10), b"5\r\nabcdefgh"):
        wrong = await part_of_a_kickoff(stage, body, Transfer_Encoding="chunked")
        assert (await wrong.message()).status in (400, 413)
        wrong.abort()
    await until_taken(0)
    assert not await refused(body=b"y" * (90 << 10))


async def test_3_1_an_announced_body_takes_no_memory(make_stage: MakeStage) -> None:
    """Callers with invented credentials announce more than all memory and stop no kick-off."""
    stage = await make_stage(EXPORTS__BODY_MEMORY="32KiB", EXPORTS__MAX_REQUEST_BODY="16KiB")
    fields = {"Authorization": "Bearer made-up", "Content_Length": str(16 << 10)}
    wires = [await part_of_a_kickoff(stage, b"x", **fields) for _ in range(4)]
    for _ in range(2):  # all heads before it have been read when the second one is accepted
        assert (await stage.kickoff(stage.export, body=b"y" * (16 << 10))).status == 202
    for wire in wires:
        wire.abort()


async def test_3_1_callers_with_invented_credentials_share_the_memory_limit(
    make_stage: MakeStage,
) -> None:
    """The slowest body gets 503, so that the others can grow: none waits for another."""
    stage = await make_stage(EXPORTS__BODY_MEMORY="32KiB", EXPORTS__MAX_REQUEST_BODY="16KiB")
    fields = {"Authorization": "Bearer made-up", "Content_Length": str(16 << 10)}
    body = b"x" * ((16 << 10) - 1)
    wires = [await part_of_a_kickoff(stage, body, **fields) for _ in range(3)]
    responses = [asyncio.ensure_future(wire.message()) for wire in wires]
    done, waiting = await asyncio.wait(responses, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    assert [response.result().status for response in done] == [503]
    for wire, response in zip(wires, responses, strict=True):
        if response in waiting:
            await wire.send(b"x")
            assert (await response).status == 401
        wire.abort()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("known", [False, True])
async def test_3_1_strangers_that_hold_the_memory_stop_no_kickoff(
    make_stage: MakeStage, *, chunked: bool, known: bool
) -> None:
    """Their bodies arrive at once but for the rest, which keeps the pace that is asked for: the one
    that takes longest makes room.
    """
    stage = await make_stage(EXPORTS__BODY_MEMORY="128KiB", EXPORTS__MAX_REQUEST_BODY="64KiB")
    if known:
        await stage.get("/v8/_async/exports")  # VB365 accepts the caller
    framing = {"Transfer_Encoding": "chunked"} if chunked else {"Content_Length": str(64 << 10)}
    sent = (b"10000\r\n" if chunked else b"") + b"x" * (40 << 10)
    strangers = []
    for number in range(4):  # of which three fit
        fields = {"Authorization": f"Bearer made-up-{number}", **framing}
        strangers.append(await part_of_a_kickoff(stage, sent, **fields))
        await asyncio.sleep(0.05)
    assert (await strangers[0].message()).status == 503
    ends = [asyncio.ensure_future(stranger.message()) for stranger in strangers[1:]]
    for stranger in strangers[1:]:
        await stranger.send(b"x" * 1024)
    assert (await stage.kickoff(stage.export, body=b"y" * 100)).status == 202
    assert not any(end.done() for end in ends), "there was room"
    other = {} if known else {"Authorization": "Bearer not-seen-yet"}
    large = await stage.kickoff(stage.export, body=b"y" * (32 << 10), **other)
    assert large.status == (202 if known else 401)
    assert ends[0].done()
    assert not ends[1].done()
    for end in ends:
        end.cancel()
    for stranger in strangers:
        stranger.abort()


@pytest.mark.parametrize("known", [False, True])
async def test_3_1_rescued_bodies_of_strangers_stop_no_kickoff(
    make_stage: MakeStage, *, known: bool
) -> None:
    """They make no room while they arrive, so that they leave some."""
    limits = {"EXPORTS__BODY_MEMORY": "128KiB", "EXPORTS__MAX_REQUEST_BODY": "64KiB"}
    stage = await make_stage(EXPORTS__RESCUE_SYNC="true", **limits)
    if known:
        await stage.get("/v8/_async/exports")  # VB365 accepts the caller
    strangers = []
    for number in range(3):
        fields = {"Authorization": f"Bearer made-up-{number}", "Content-Length": str(60 << 10)}
        strangers.append(await Peer.to(stage.url))
        head = request_bytes("POST", stage.export, stage.fields | fields, None, "h")
        await strangers[-1].send(head + b"x" * (40 << 10))
        await asyncio.sleep(0.05)
    assert (await stage.kickoff(stage.export, body=b"y" * (30 << 10))).status == 202
    for stranger in strangers:
        stranger.abort()


async def test_3_1_a_body_that_arrives_too_slowly_is_aborted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "WINDOW", 0.5)
    wire = await part_of_a_kickoff(stage, b"x", Content_Length="1000")
    response = asyncio.ensure_future(wire.message())
    while not response.done():
        await wire.send(b"x")
        await asyncio.sleep(0.05)
    wire.abort()
    assert response.result().status == 408
    assert response.result()["Connection"] == "close"
    assert stage.count_requests("exportToPst", "POST") == 0
    assert (await stage.kickoff(stage.export)).status == 202


async def test_3_5_the_fields_of_unfinished_exports_share_a_memory_limit(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§3.5: whichever caller sends them; an export that ends releases its memory."""
    monkeypatch.setattr("proxy.parts.exports._HELD_FIELDS", 100_000)
    stage = await make_stage(EXPORTS__MAX_RUNNING="1", EXPORTS__CANCEL_HOLD="0s")
    stage.fault(hold=True)
    status = await stage.begun(stage.export, X_Long="a" * 60_000)
    response = await stage.kickoff(stage.export, X_Long="a" * 60_000)
    assert (response.status, response["Retry-After"]) == (503, "30")
    assert response.json()["type"] == "urn:vb365-async:problem:capacity-exhausted"
    assert (await stage.kickoff(stage.export)).status == 202, "a small head still fits"
    assert (await stage.ask("POST", status + "/cancel")).status == 202
    await stage.finished(status)
    async with asyncio.timeout(20):  # something else may still have the run in memory
        while (await stage.kickoff(stage.export, X_Long="a" * 60_000)).status != 202:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_3_5_rescued_exports_share_the_memory_for_fields(
    make_rescue: MakeRescue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§3.5, §14: there is one limit for the fields of both; a request beyond it is relayed."""
    monkeypatch.setattr("proxy.parts.exports._HELD_FIELDS", 300_000)
    slow = Slow()
    stage = await make_rescue(slow)
    long = f"X-Long: {'a' * 60_000}"
    rescued = await stage.send(fields=(long,))
    await slow.requested.wait()
    beyond = await Peer.to(stage.running.url)
    stage.peers.append(beyond)
    await beyond.send(post("other", fields=("Prefer: respond-async", *[long] * 4)))
    assert (await beyond.message()).status == 503
    slow.finish()
    assert (await rescued.message()).status == 200


async def test_3_5_credentials_that_vb365_is_asked_about_count(
    make_rescue: MakeRescue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§3.5, §14: after the response to a rescued export, too."""
    monkeypatch.setattr("proxy.parts.exports._HELD_FIELDS", 300_000)
    confirmed = asyncio.Event()

    async def check(_: Message) -> None:
        await confirmed.wait()

    async def rescued(number: int) -> bool:
        token = f"e30.eyJpc3MiOiJpIiwic3ViIjoicyJ9.{number}{'a' * 50_000}"
        with capture_logs() as logs:
            assert (await stage.export(token, target=f"{EXPORT}?{number}")).status == 401
        return not any(line["event"] == "export not rescued" for line in logs)

    stage = await make_rescue(rejected, UPSTREAM__CHECK_TIMEOUT="5m", EXPORTS__GRACE="50ms")
    stage.upstream.answer = check
    assert await rescued(1)
    await asyncio.sleep(0.3)  # nothing else has the run in memory then
    assert not await rescued(2)
    confirmed.set()
    async with asyncio.timeout(20):
        while not await rescued(3):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def rejected(peer: Peer, _: Message) -> None:
    """VB365 does not accept the token."""
    await peer.send(raw("401 Unauthorized", body=b"{}"))


async def test_3_1_the_body_of_a_refused_kickoff_is_released_at_once(
    make_stage: MakeStage,
) -> None:
    """Not when the garbage collector finds it: strangers cause any number of refusals."""
    limits = {"EXPORTS__MAX_RUNNING": "1", "EXPORTS__MAX_QUEUED": "4"}
    stage = await make_stage(EXPORTS__PREFLIGHT="false", **limits)
    stage.fault(hold=True)
    await stage.begun(stage.export)
    statuses: list[int] = []
    gc.collect()
    gc.disable()
    try:
        for number in range(6):
            fields = {"Authorization": f"Bearer {number}", "Prefer": "respond-async"}
            statuses.append((await stage.ask("POST", stage.export, fields, b"{}")).status)
        kept = [each for each in gc.get_objects() if isinstance(each, RequestBody)]
    finally:
        gc.enable()
        stage.simulator.release()
    assert statuses == [202, *[503] * 5]
    assert not kept


async def test_3_1_the_body_of_an_accepted_kickoff_is_not_kept_while_its_client_waits(
    make_stage: MakeStage,
) -> None:
    """It is stored, and its memory does not count any more."""
    stage = await make_stage(EXPORTS__MAX_RUNNING="1")
    stage.fault(hold=True, count=1)
    await stage.begun(stage.export)
    more = {"Content_Length": "2", "Prefer": "respond-async, wait=45"}
    clients = [await part_of_a_kickoff(stage, b"{}", **more) for _ in range(3)]
    async with asyncio.timeout(20):
        while True:
            jobs = (await stage.get("/v8/_async/exports")).json()["results"]
            if len(jobs) == 4:
                break
            await asyncio.sleep(0.01)

    def kept() -> bool:
        return any(isinstance(each, RequestBody) for each in gc.get_objects())

    try:
        await eventually(lambda: not kept())
    finally:
        for client in clients:
            client.abort()
        stage.simulator.release()


#: The second claims an identity, about which VB365 is asked.
@pytest.mark.parametrize("token", ["t", "e30.eyJpc3MiOiJpIiwic3ViIjoicyJ9.c2ln"])
async def test_3_1_the_body_of_a_rescued_export_is_not_kept_during_its_response(
    make_rescue: MakeRescue, token: str
) -> None:
    """Its client may take hours to read it, and VB365 a while to confirm who that is."""
    slow, confirmed = Slow(), asyncio.Event()

    async def check(_: Message) -> None:
        await confirmed.wait()

    stage = await make_rescue(slow, UPSTREAM__CHECK_TIMEOUT="5m")
    stage.upstream.answer = check
    client = await stage.send(token)
    await slow.requested.wait()
    slow.head.set()
    await client.head()
    try:
        await eventually(lambda: not any(isinstance(each, Call) for each in gc.get_objects()))
    finally:
        confirmed.set()
        slow.finish()


def alive(kind: type) -> list[object]:
    return [each for each in gc.get_objects() if type(each) is kind]


@pytest.mark.parametrize("end", ["left", "no response"])
async def test_3_1_what_a_rescued_export_has_in_memory_is_released_at_once(
    make_rescue: MakeRescue, end: str
) -> None:
    """If its client leaves before the response, or VB365 ends the connection without one: not when
    the garbage collector finds it.
    """
    slow = Slow()

    async def cut(peer: Peer, message: Message) -> None:
        """Close the connection."""

    stage = await make_rescue(slow if end == "left" else cut)
    gc.collect()
    earlier = [*alive(Run), *alive(Call)]  # of another test in this process

    def released(kind: type) -> bool:
        return all(any(each is known for known in earlier) for each in alive(kind))

    gc.disable()
    try:
        if end == "left":
            await stage.leave()
        else:
            assert (await stage.export()).status == 502
            await eventually(lambda: released(Run))
        await eventually(lambda: released(Call))
    finally:
        gc.enable()
        slow.finish()


async def test_12_memory_that_clients_no_longer_use_is_collected(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that left a request in a reference cycle would keep its head and body otherwise."""

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    monkeypatch.setattr("proxy.parts.garbage._AMOUNT", 100 << 10)
    monkeypatch.setattr("proxy.parts.garbage._PAUSE", 0.05)
    stage = await make_stage()
    gc.disable()
    try:
        kept = weakref.ref(Cycle())
        assert (await stage.kickoff(stage.export, body=b"x" * (60 << 10))).status == 202
        await asyncio.sleep(0.5)
        assert kept() is not None
        assert (await stage.kickoff(stage.export, body=b"x" * (60 << 10))).status == 202
        await eventually(lambda: kept() is None)
    finally:
        gc.enable()


async def test_16_what_strangers_send_to_the_admin_listener_is_collected(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiohttp leaves what it has read of a malformed request in reference cycles."""
    monkeypatch.setattr("proxy.parts.garbage._AMOUNT", 1 << 20)
    monkeypatch.setattr("proxy.parts.garbage._PAUSE", 0.05)
    gc.collect()
    gc.disable()
    try:
        running = await app.start(settings_of("http://127.0.0.1:1", tmp_path, {}), clock)
        earlier = {id(each) for each in alive(web.RequestHandler)}
        for _ in range(4):
            client = await Peer.to(running.admin_url)
            with contextlib.suppress(ConnectionError):
                await client.send(b"GET / HTTP/1.1\r\n" + b"no field\r\n" * 100_000)
                await client.closed()
            client.abort()
        await eventually(lambda: earlier.issuperset(map(id, alive(web.RequestHandler))))
        await running.stop()
    finally:
        gc.enable()


async def test_3_1_the_body_of_a_relayed_export_counts_until_vb365_has_taken_it(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export that is not rescued, here because of its Range, is passed through with the body
    that was gathered.
    """
    size, requested, read = 12 << 20, asyncio.Event(), asyncio.Event()
    memory, heads = Budget(size), Budget(64 << 20)
    budgets = iter((memory, Budget(size), Budget(size), heads))
    monkeypatch.setattr("proxy.parts.memory.Budget", lambda _: next(budgets))

    async def script(peer: Peer) -> None:
        await peer.head()
        requested.set()
        await read.wait()
        await peer.exactly(size)
        await peer.closed()

    async with Origin(script).running() as origin:
        more = {"EXPORTS__RESCUE_SYNC": "true", "EXPORTS__BODY_MEMORY": "12MiB"}
        running = await app.start(settings_of(origin.url, tmp_path, more), clock)
        fields = {"Authorization": "Bearer t", "Range": "bytes=0-1"}
        client = await Peer.to(running.url)
        try:
            await client.send(request_bytes("POST", EXPORT, fields, b"x" * size, "h"))
            await requested.wait()
            assert memory.taken == size
            read.set()
            await eventually(lambda: memory.taken == 0)
        finally:
            client.abort()
            await running.stop()

"""docs/upstream.md §7: faults on demand, each as a client sees it."""

from __future__ import annotations

import asyncio
import gzip
import time
from typing import Any

import aiohttp
import pytest

from proxy.simulator import Fault, Kind, Simulator, make
from proxy.simulator.faults import Faults
from tests.unit.simulator.conftest import Client, Reply, post, raw

SIZE = 300_000
PST = make(Kind.PST, SIZE)


@pytest.fixture
def path(alice: Client) -> str:
    """An export of 300,000 bytes."""
    alice.sim.fault(path="exportToPst", size=SIZE)
    return alice.sim.export_paths(alice.sim.open_session())[1]


async def read_until_failure(client: Client, path: str, **options: Any) -> bytes:
    """Return the bytes of a body that arrive before it fails."""
    got = b""
    async with client.request("POST", path, **options) as response:
        try:
            async for chunk in response.content.iter_any():
                got += chunk
        except aiohttp.ClientPayloadError:
            return got
    pytest.fail("the body is complete")


# Which requests are affected


def test_faults_are_selected_by_path_method_skip_and_count() -> None:
    faults = Faults()
    faults.add(Fault(path="exporttopst", method="post", skip=1, count=2, status=503))
    hit = [faults.take("POST", "/v8/x/exportToPst").status for _ in range(5)]
    assert hit == [None, 503, 503, None, None]
    assert len(faults) == 0
    faults.add(Fault(method="GET", latency=1))
    assert faults.take("POST", "/").latency is None
    assert [faults.take("GET", "/").latency for _ in range(2)] == [1, 1]


def test_each_effect_comes_from_the_latest_fault_that_has_it() -> None:
    faults = Faults()
    faults.add(Fault(size=1, rate=5.0))
    faults.add(Fault(size=2, count=1))
    first, second = faults.take("GET", "/"), faults.take("GET", "/")
    assert (first.size, first.rate) == (2, 5.0)
    assert second.size == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"sizes": 1}, "unknown key 'sizes'"),
        ({"size": "1"}, "'size' must be int"),
        ({"size": True}, "'size' must be int"),
        ({"size": -1}, "'size' must not be negative"),
        ({"framing": "odd"}, "'framing' must be one of length, chunked, close"),
        ({"headers": {"A": 1}}, "'headers' must map names"),
        ({"set_cookies": [1]}, "'set_cookies' must be a list"),
        ({"hold": 1, "rate": "x"}, "'hold' must be bool or null; 'rate' must be float"),
        ([[]], "a fault is a JSON object"),
    ],
)
async def test_an_invalid_fault_is_400_with_the_reason(
    alice: Client, fault: Any, message: str
) -> None:
    reply = await alice.call("PUT", "/_control/faults", json=fault)
    assert reply.status == 400
    assert message in reply.json["message"]
    assert len(alice.sim.faults) == 0


async def test_control_adds_replaces_lists_and_clears(alice: Client) -> None:
    async def faults() -> list[dict[str, Any]]:
        return [fault | {"skip": None} for fault in (await alice.get("/_control")).json["faults"]]

    assert (await alice.post("/_control/faults", json={"latency": 0})).status == 201
    assert (await alice.post("/_control/faults", json=[{"size": 1}, {"lie": -1}])).status == 201
    assert len(await faults()) == 3
    assert (await alice.call("PUT", "/_control/faults", json=[{"size": 2}])).status == 201
    assert await faults() == [{"size": 2, "path": "", "skip": None}]
    assert (await alice.call("DELETE", "/_control/faults")).status == 200
    assert await faults() == []
    assert (await alice.post("/_control/faults", data=b"{")).status == 400
    assert (await alice.post("/_control/other")).status == 404


async def test_control_returns_requests_generations_and_deliveries(
    alice: Client, path: str
) -> None:
    await alice.post(path)
    state = (await alice.get("/_control")).json
    assert state["generations"] == {path: 1}
    assert state["deliveries"][0]["outcome"] == "complete"
    assert [one["target"] for one in state["requests"]] == [path]


async def test_control_stops_sessions_expires_tokens_and_releases(alice: Client) -> None:
    session = alice.sim.open_session()
    own = f"/v8/RestoreSessions/{session.id}"
    assert (await alice.post(f"/_control/sessions/{session.id}/stop")).status == 204
    assert (await alice.get(own)).json["state"] == "Stopped"
    assert (await alice.call("DELETE", f"/_control/sessions/{session.id}")).status == 204
    assert (await alice.get(own)).status == 404
    assert (await alice.call("DELETE", f"/_control/sessions/{session.id}")).status == 404
    alice.sim.fault(hold=True)
    held = asyncio.create_task(alice.get("/v8/ServiceInstance"))
    await alice.sim.until(lambda: alice.sim.held == 1)
    assert (await alice.post("/_control/release")).status == 204
    assert (await held).status == 200
    alice.sim.faults.clear()
    assert (await alice.post("/_control/tokens/expire?user=alice")).status == 204
    assert (await alice.get("/v8/ServiceInstance")).status == 401


# Before the response


async def test_a_status_with_a_given_body(alice: Client, path: str) -> None:
    alice.sim.fault(path=path, count=1, status=409, body="<b>no</b>", content_type="text/html")
    alice.sim.fault(path=path, count=1, headers={"X-A": "1"}, set_cookies=["a=1", "b=2"])
    reply = await alice.post(path)
    assert (reply.status, reply.body, reply.headers["Content-Type"]) == (
        409,
        b"<b>no</b>",
        "text/html",
    )
    assert (reply.headers["X-A"], reply.headers.getall("Set-Cookie")) == ("1", ["a=1", "b=2"])
    assert alice.sim.generations.total() == 0
    assert (await alice.post(path)).status == 200


async def test_missing_outlook_is_500_after_the_generation(alice: Client, path: str) -> None:
    alice.sim.fault(path=path, outlook_missing=True)
    reply = await alice.post(path)
    assert (reply.status, reply.json["errorCode"]) == (500, "HttpError")
    assert "Outlook" in reply.json["message"]
    assert alice.sim.generations[path] == 1


async def test_a_202_as_a_future_vb365_might_send_it(alice: Client, path: str) -> None:
    alice.sim.fault(path=path, accepted=True)
    reply = await alice.post(path)
    assert (reply.status, bool(reply.headers["Location"]), reply.json) == (
        202,
        True,
        {"sessionId": "1"},
    )
    assert alice.sim.deliveries[-1].outcome == "refused"


async def test_a_reset_before_the_response(alice: Client, path: str) -> None:
    alice.sim.fault(path=path, reset=True)
    with pytest.raises(ConnectionResetError):
        await raw(alice.sim, post(alice.sim, path))


async def test_a_malformed_head(alice: Client, path: str) -> None:
    alice.sim.fault(path=path, malformed="HTTP/1.1 2OO Yes\r\nA: b\r\n\r\n")
    assert await raw(alice.sim, post(alice.sim, path)) == b"HTTP/1.1 2OO Yes\r\nA: b\r\n\r\n"


@pytest.mark.parametrize("fault", [{"hang": True}, {"latency": 600.0}, {"hold": True}])
async def test_a_request_without_a_response(alice: Client, fault: dict[str, Any]) -> None:
    alice.sim.fault(method="GET", path="RestoreSessions", **fault)
    with pytest.raises(TimeoutError):
        await alice.get("/v8/RestoreSessions?limit=1", timeout=aiohttp.ClientTimeout(total=0.2))
    assert (await alice.get("/v8/ServiceInstance")).status == 200


async def test_a_token_that_expires_with_the_request(alice: Client, path: str) -> None:
    alice.sim.fault(path=path, count=1, expire_token=True)
    first, second = await alice.post(path), await alice.post(path)
    assert [(one.status, one.body) for one in (first, second)] == [(401, b"")] * 2


async def test_a_session_that_stops_during_the_generation(alice: Client, path: str) -> None:
    alice.sim.fault(path=path, stop_session=True)
    reply = await alice.post(path)
    assert (reply.status, "stopped" in reply.json["message"]) == (500, True)


@pytest.mark.parametrize("status", ["Warning", "Failed", "Cancelled"])
async def test_the_event_of_the_session_has_the_given_status(alice: Client, status: str) -> None:
    session = alice.sim.open_session()
    alice.sim.fault(event=status)
    assert (await alice.post(alice.sim.export_paths(session)[0])).status == 200
    assert session.events[0].status == status


# The body


@pytest.mark.parametrize("cut", ["reset", "close"])
@pytest.mark.parametrize("at", [0, 1, 65_540, SIZE - 1])
async def test_a_body_is_cut_after_exactly_that_many_bytes(
    alice: Client, path: str, cut: str, at: int
) -> None:
    alice.sim.fault(path=path, cut_at=at, cut=cut, count=1)
    assert await read_until_failure(alice, path) == PST.read(0, at)
    assert (alice.sim.deliveries[-1].outcome, alice.sim.deliveries[-1].sent) == ("cut", at)


async def test_a_file_can_be_downloaded_in_several_cut_responses(alice: Client, path: str) -> None:
    """Bytes are counted in each response, so the response to a Range request is cut too."""
    alice.sim.fault(path=path, cut_at=100_000, count=2)
    got = await read_until_failure(alice, path)
    got += await read_until_failure(alice, path, headers={"Range": f"bytes={len(got)}-"})
    got += (await alice.post(path, headers={"Range": f"bytes={len(got)}-"})).body
    assert got == PST.read()
    assert alice.sim.generations[path] == 1


async def test_a_stall_until_released(alice: Client, path: str) -> None:
    alice.sim.fault(path=path, stall_at=1000)
    async with alice.request("POST", path) as response:
        assert await response.content.readexactly(1000) == PST.read(0, 1000)
        await alice.sim.until(lambda: alice.sim.held == 1)
        assert alice.sim.deliveries[-1].sent == 1000
        alice.sim.release()
        assert await response.read() == PST.read(1000)


async def test_a_stall_with_a_duration(alice: Client, path: str) -> None:
    alice.sim.fault(path=path, stall_at=1, stall=0.1)
    began = time.monotonic()
    assert (await alice.post(path)).body == PST.read()
    assert time.monotonic() - began >= 0.09


async def test_a_slow_transfer(alice: Client, path: str) -> None:
    alice.sim.fault(path=path, rate=1_000_000.0)
    began = time.monotonic()
    assert (await alice.post(path)).body == PST.read()
    assert time.monotonic() - began >= 0.29


async def test_chunked_framing(alice: Client, path: str) -> None:
    alice.sim.fault(path=path, framing="chunked")
    reply = await alice.post(path)
    assert (reply.headers["Transfer-Encoding"], "Content-Length" in reply.headers) == (
        "chunked",
        False,
    )
    assert reply.body == PST.read()


async def test_a_chunked_body_without_the_last_chunk(alice: Client, path: str) -> None:
    alice.sim.fault(path=path, unterminated=True)
    assert await read_until_failure(alice, path) == PST.read()
    assert alice.sim.deliveries[-1].outcome == "cut"


async def test_a_body_that_ends_with_the_connection(alice: Client, path: str) -> None:
    alice.sim.fault(path=path, framing="close")
    reply = await alice.post(path)
    assert ("Content-Length" in reply.headers, reply.headers["Connection"]) == (False, "close")
    assert reply.body == PST.read()


@pytest.mark.parametrize("lie", [5, -5])
async def test_a_wrong_content_length(alice: Client, path: str, lie: int) -> None:
    alice.sim.fault(path=path, lie=lie)
    head, _, body = (await raw(alice.sim, post(alice.sim, path))).partition(b"\r\n\r\n")
    assert f"Content-Length: {SIZE + lie}".encode() in head
    assert body == PST.read()


async def test_a_session_that_stops_during_the_transfer(alice: Client, path: str) -> None:
    alice.sim.fault(path=path, stop_session_at=5000)
    assert await read_until_failure(alice, path) == PST.read(0, 5000)
    assert (await alice.post(path)).status == 404


async def test_a_range_is_ignored_or_gets_a_wrong_content_range(alice: Client, path: str) -> None:
    ranged = {"Range": "bytes=100-"}
    await alice.post(path)
    alice.sim.fault(path=path, count=1, ignore_range=True)
    whole = await alice.post(path, headers=ranged)
    assert (whole.status, whole.body) == (200, PST.read())
    alice.sim.fault(path=path, count=1, content_range="bytes 99-299999/300001")
    wrong = await alice.post(path, headers=ranged)
    assert (wrong.status, wrong.headers["Content-Range"]) == (206, "bytes 99-299999/300001")
    assert alice.sim.generations[path] == 1


async def test_an_etag_that_changes(alice: Client, path: str) -> None:
    replies: list[Reply] = []
    for tag in ('"one"', '"two"'):
        alice.sim.fault(path=path, count=1, etag=tag)
        replies.append(await alice.post(path))
    assert [reply.headers["ETag"] for reply in replies] == ['"one"', '"two"']
    assert "ETag" not in (await alice.post(path)).headers


async def test_a_gzip_body_and_a_given_content_disposition(alice: Client, path: str) -> None:
    alice.sim.fault(path=path, gzip=True, disposition='attachment; filename="../../x"')
    reply = await alice.post(path)
    assert reply.headers["Content-Encoding"] == "gzip"
    assert reply.headers["Content-Disposition"] == 'attachment; filename="../../x"'
    assert gzip.decompress(reply.body) == PST.read()


async def test_fields_are_replaced_and_removed(alice: Client, path: str) -> None:
    alice.sim.fault(
        path=path, headers={"content-type": "application/x-pst", "Content-Disposition": None}
    )
    reply = await alice.post(path)
    assert reply.headers.getall("Content-Type") == ["application/x-pst"]
    assert "Content-Disposition" not in reply.headers


async def test_a_file_of_another_kind(alice: Client, path: str) -> None:
    alice.sim.fault(path=path, kind="msg.zip", members=3)
    assert (await alice.post(path)).body == make(Kind.MSG_ZIP, SIZE, members=3).read()


async def test_two_simulators_share_no_state(alice: Client, path: str) -> None:
    other = Simulator()
    assert (len(other.faults), len(other.requests)) == (0, 0)
    assert other.tokens.user(alice.headers["Authorization"], {}) is None

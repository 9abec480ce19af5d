"""CONTRACT §15: the id of a request, in responses, problems and log; a trace that jobs pass on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.contract.conftest import MakePlay, MakeStage, Stage
from tests.support.at_rest import at_rest
from tests.support.log_lines import logged
from tests.support.wire import Message

MADE = re.compile("[0-9a-f]{32}")
ID = "a-Z_9.1"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
EXPORT = "/v8/RestoreSessions/s1/organization/mailboxes/m1/exportToPst"


async def test_every_response_of_the_proxy_has_the_id_of_its_request(stage: Stage) -> None:
    kickoff = await stage.kickoff(stage.export, X_Request_Id=ID)
    assert kickoff.all("X-Request-Id") == [ID]
    status = stage.path(kickoff["Location"])
    known = (await stage.finished(status))["ETag"]
    for method, target, fields in [
        ("GET", status, {}),
        ("GET", status, {"If-None-Match": known}),
        ("GET", "/v8/_async/exports", {}),
        ("GET", "/_async/openapi.json", {}),
        ("GET", status + "/result", {}),
        ("GET", status + "/result", {"Range": "bytes=0-0"}),
        ("GET", status + "/result", {"If-None-Match": "*"}),
        ("OPTIONS", status, {}),
        ("PUT", status, {}),
        ("GET", "/v8/_async/nothing", {}),
        ("DELETE", status, {}),
    ]:
        response = await stage.ask(method, target, stage.fields | fields | {"X-Request-Id": ID})
        assert response.all("X-Request-Id") == [ID], (method, target)
        if response.status >= 400:
            assert response.json()["requestId"] == ID


@pytest.mark.parametrize("given", [{}, {"X-Request-Id": "a b"}, {"X-Request-Id": "x" * 129}])
async def test_without_a_valid_id_the_proxy_makes_one(stage: Stage, given: dict[str, str]) -> None:
    response = await stage.ask("GET", "/v8/_async/nothing", stage.fields | given)
    assert MADE.fullmatch(response["X-Request-Id"])
    assert response.json()["requestId"] == response["X-Request-Id"]


async def test_pass_through_gets_no_id(make_play: MakePlay) -> None:
    """§12: neither the request nor the response; one that the client sends stays as it is."""

    async def responder(request: Message) -> bytes | None:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    play = await make_play(responder)
    response = await play.get("/v8/Jobs")
    assert response.fields == [("Content-Length", "2")]
    await play.get("/v8/Jobs", X_Request_Id="any thing")
    assert play.upstream.requests[0].all("X-Request-Id") == []
    assert play.upstream.requests[1].all("X-Request-Id") == ["any thing"]


async def test_a_problem_in_place_of_the_upstreams_response_has_the_id(make_play: MakePlay) -> None:
    async def responder(request: Message) -> bytes | None:
        return None

    play = await make_play(responder)
    response = await play.get("/v8/Jobs", X_Request_Id=ID)
    assert response.status == 502
    assert response["X-Request-Id"] == response.json()["requestId"] == ID


async def test_a_malformed_request_gets_an_id_of_the_proxy(stage: Stage) -> None:
    response = await stage.ask("GET", "/v8/x", {"Content-Length": "1, 2", "X-Request-Id": ID})
    assert response.status == 400
    assert MADE.fullmatch(response["X-Request-Id"])


async def test_the_log_of_a_call_has_its_id_and_its_client(stage: Stage) -> None:
    """With a free slot the job starts in the call. What it does later, in the background, has
    neither.
    """
    with logged() as log:
        status = stage.path((await stage.kickoff(stage.export, X_Request_Id="one"))["Location"])
        await stage.finished(status)
        await stage.get(status + "/result", X_Request_Id="two")
        await stage.ask("DELETE", status, X_Request_Id="three")
    found = {entry["event"]: entry.get("request_id") for entry in log.entries}
    del found["request"]  # each has its own
    assert found == {
        "job.accepted": "one",
        "job.started": "one",
        "job.first_byte": None,
        "job.ended": None,
        "job.delivered": "two",
        "job.deleted": "three",
    }
    assert {entry["client"] for entry in log.entries if "request_id" in entry} == {"127.0.0.1"}


async def test_behind_a_trusted_balancer_the_client_is_the_one_it_reports(
    make_stage: MakeStage,
) -> None:
    stage = await make_stage(PUBLIC__TRUSTED_PROXIES="127.0.0.1")
    with logged() as log:
        await stage.get("/v8/_async/nothing", X_Forwarded_For="10.0.0.9, 192.0.2.7")
    assert [entry["client"] for entry in log.entries] == ["192.0.2.7"] * 2
    assert sorted(log.names) == ["request", "request.refused"]


async def test_a_job_passes_the_trace_on_and_keeps_it_off_the_disk(
    make_play: MakePlay, tmp_path: Path
) -> None:
    """§9, §15: W3C `traceparent` and `tracestate` are in memory only."""

    async def responder(request: Message) -> bytes | None:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfile"

    play = await make_play(responder)
    status = await play.begun(EXPORT, traceparent=TRACE, tracestate="vendor=canary")
    await play.finished(status)
    (post,) = play.upstream.posts()
    assert (post.all("traceparent"), post.all("tracestate")) == ([TRACE], ["vendor=canary"])
    stored = b"".join(at_rest(tmp_path).values())
    assert b"m1/exportToPst" in stored
    assert TRACE[3:20].encode() not in stored
    assert b"canary" not in stored

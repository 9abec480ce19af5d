"""CONTRACT §3.7, §5: what VB365 sent instead of a file, over HTTP: within the grace period, after
it, and in messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy import app
from tests.contract.conftest import ApiClient, Clock, MakePlay, MakeStage, Play
from tests.support.commands import finished
from tests.support.local_proxy import settings_of
from tests.support.upstreams import Responder
from tests.support.wire import Message, raw

PATH = (
    "/v8/RestoreSessions/0f0c6d3e-0000-4000-8000-000000000001/organization/mailboxes/m/exportToPst"
)
OUTLOOK = "64-bit Outlook must be installed"
ANSWERED = f"Veeam Backup for Microsoft 365 answered 500: {OUTLOOK}"
JSON = ["Content-Type: application/json; charset=utf-8"]


def script_for(response: bytes) -> Responder:
    """An upstream that responds to every POST with these bytes and keeps the connection open unless
    they say otherwise.
    """

    async def script(request: Message) -> bytes:
        return response if request.method == "POST" else raw("200 OK", [], b"{}")

    return script


async def failed(play: Play) -> Message:
    over = await play.finished(await play.begun(PATH))
    assert (over.json()["status"], over.json()["phase"]) == ("Failed", "Completed")
    return over


@pytest.mark.parametrize("version", [6, 7, 8])
async def test_vb365s_message_is_in_document_result_and_log(
    make_stage: MakeStage, version: int
) -> None:
    """§5 `message`: RESTExceptionInfo of every version; §6: the 409 of /result; not retryable, for
    VB365 gave the reason.
    """
    stage = await make_stage()
    stage.fault(outlook_missing=True)
    with capture_logs() as logged:
        path = await stage.begun(stage.path_of(version=version))
        over = (await stage.finished(path)).json()
    sentence = over["error"]["upstream"]["body"]["message"]
    assert "Outlook" in sentence
    message = f"Veeam Backup for Microsoft 365 answered 500: {sentence}"
    assert over["message"] == over["error"]["message"] == message
    assert (over["error"]["code"], over["error"]["retryable"]) == ("UpstreamError", False)
    result = await stage.get(path + "/result")
    problem = result.json()
    assert (result.status, problem["type"]) == (409, "urn:vb365-async:problem:export-failed")
    assert problem["detail"] == problem["message"] == message
    assert "Retry-After" not in result
    assert message in [entry["message"] for entry in logged if entry["event"] == "job.ended"]


async def test_the_export_command_prints_vb365s_message(
    make_stage: MakeStage, tmp_path: Path
) -> None:
    """§5 "and the commands": on stderr, with exit code 1; no further attempt is recommended."""
    stage = await make_stage()
    stage.fault(outlook_missing=True)
    environment = {
        "VB365_URL": stage.url,
        "VB365_TOKEN": stage.fields["Authorization"].removeprefix("Bearer "),
    }
    line = ("export", "--path", stage.export, "--body", "{}", "--output", f"{tmp_path}/")
    done = await asyncio.to_thread(finished, *line, env=os.environ | environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        "Failed (UpstreamError): Veeam Backup for Microsoft 365 answered 500: To perform "
        "export to PST, 64-bit"
    ) in done.stderr
    assert "Another try" not in done.stderr


@pytest.mark.parametrize(
    ("status", "fields", "body", "message", "code", "retryable"),
    [
        (
            "500 E",
            JSON,
            b'{"message":"64-bit Outlook\\r\\nmust be\\u0007 installed"}',
            ANSWERED,
            "UpstreamError",
            False,
        ),
        ("500 E", ["Content-Type: text/plain"], OUTLOOK.encode(), ANSWERED, "UpstreamError", False),
        (
            "500 E",
            ["Content-Type: text/html"],
            b"<html><body>no",
            ANSWERED.partition(":")[0],
            "UpstreamError",
            True,
        ),
        ("500 E", [], b"", ANSWERED.partition(":")[0], "UpstreamError", True),
        (
            "503 E",
            JSON,
            b'{"message":"restarting"}',
            "answered 503: restarting",
            "UpstreamError",
            True,
        ),
        (
            "429 E",
            JSON,
            b'{"message":"slow down"}',
            "answered 429: slow down",
            "UpstreamRejected",
            True,
        ),
        (
            "403 E",
            JSON,
            b'{"message":"no right"}',
            "answered 403: no right",
            "UpstreamRejected",
            False,
        ),
        ("409 E", JSON, b"", "answered 409", "UpstreamRejected", False),
        ("206 P", ["Content-Range: bytes 0-0/9"], b"x", "answered 206", "UpstreamError", True),
        ("206 P", JSON, b'{"message":"no"}', "answered 206: no", "UpstreamError", True),
        ("204 N", [], b"", "answered 204", "UpstreamError", True),
        ("202 A", JSON, b'{"sessionId":"1"}', "answered 202", "UpstreamError", True),
        ("301 M", ["Location: /elsewhere"], b"", "answered 301", "UpstreamError", True),
        ("302 F", ["Location: /elsewhere"], b"", "answered 302", "UpstreamError", True),
        ("304 N", [], b"", "answered 304", "UpstreamError", True),
    ],
)
async def test_after_the_grace_period_any_response_but_200_fails_the_job(
    make_play: MakePlay,
    status: str,
    fields: list[str],
    body: bytes,
    message: str,
    code: str,
    retryable: bool,
) -> None:
    """§3.7: 4xx is UpstreamRejected, the rest UpstreamError; §4: AsyncResult is VB365's status."""
    play = await make_play(
        script_for(raw(status, fields, body, length=status[:3] not in ("204", "304")))
    )
    over = await failed(play)
    error = over.json()["error"]
    assert error["message"].endswith(message)
    assert (error["code"], error["retryable"]) == (code, retryable)
    assert over["AsyncResult"] == str(error["upstream"]["status"]) == status[:3]
    # parts of the file are kept in the file only
    assert (error["upstream"]["body"] is None) == (message == "answered 206")
    assert len(play.upstream.posts()) == 1


@pytest.mark.parametrize(
    "response",
    [
        raw("206 Partial", ["Content-Range: bytes 0-0/9", "X-Odd: 1"], b"x"),
        raw("204 None", ["X-Odd: 1"], length=False),
        raw("202 Accepted", ["Location: /v8/tasks/1", *JSON], b'{"sessionId":"1"}'),
        raw("301 Moved", ["Location: /elsewhere"], b""),
        raw("302 Found", ["Location: /elsewhere", "Content-Type: text/html"], b"<a>"),
        raw("500 Oh", JSON, b'{"message":"no"}'),
        b"HTTP/1.1 102 Processing\r\n\r\n" + raw("409 Conflict", JSON, b'{"message":"no"}'),
    ],
)
async def test_within_the_grace_period_any_response_but_200_is_relayed(
    make_play: MakePlay, response: bytes
) -> None:
    """§3.7: status, reason, fields and body are VB365's, and there is no job."""
    play = await make_play(script_for(response), EXPORTS__GRACE="10s")
    relayed = await play.kickoff(PATH)
    final = response.removeprefix(b"HTTP/1.1 102 Processing\r\n\r\n").decode()
    assert final.startswith(relayed.first + "\r\n")
    for name, value in relayed.fields:
        assert f"\r\n{name}: {value}\r\n" in final
    assert final.endswith("\r\n\r\n" + relayed.body.decode())
    assert (await play.get("/v8/_async/exports")).json()["results"] == []


NO_HTTP = [
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"\x15\x03\x01\x00\x02\x02\x46",
    b"220 mail ready\r\n\r\n",
    b"<html>hello</html>\r\n\r\n",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"HTTP/1.1 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
]


@pytest.mark.parametrize("response", NO_HTTP)
async def test_a_response_that_is_not_http_is_an_upstream_error(
    make_play: MakePlay, response: bytes
) -> None:
    """§5: UpstreamError, at once although the connection stays open; the message says so."""
    over = await failed(await make_play(script_for(response)))
    error = over.json()["error"]
    assert (error["code"], error["upstream"], over["AsyncResult"]) == ("UpstreamError", None, "502")
    assert "not valid HTTP" in error["message"] == over.json()["message"]


@pytest.mark.parametrize(
    ("grace", "wait"), [("10s", ""), ("0s", ", wait=10"), ("10s", ", wait=10")]
)
@pytest.mark.parametrize(
    ("response", "says"),
    [
        (NO_HTTP[0], "not valid HTTP"),
        (NO_HTTP[-1], "not valid HTTP"),
        (b"HTTP/1.1 102 Processing\r\nConnection: close\r\n\r\n", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-", "closed the connection"),
        (b"", "closed the connection"),
    ],
)
async def test_a_waiting_client_gets_502_without_a_valid_response(
    make_play: MakePlay, grace: str, wait: str, response: bytes, says: str
) -> None:
    """§3.7, §3.9: a reset before the head, only interim responses, or no HTTP; within the grace
    period there is no job.
    """

    async def script(request: Message) -> bytes | None:
        return (response or None) if request.method == "POST" else raw("200 OK", [], b"{}")

    play = await make_play(script, EXPORTS__GRACE=grace)
    problem = await play.kickoff(PATH, Prefer=f"respond-async{wait}")
    assert (problem.status, problem.json()["type"]) == (
        502,
        "urn:vb365-async:problem:upstream-unreachable",
    )
    assert says in problem.json()["detail"]
    jobs = (await play.get("/v8/_async/exports")).json()["results"]
    assert [job["error"]["code"] for job in jobs] == (
        [] if grace != "0s" else ["UpstreamError" if "HTTP" in says else "UpstreamUnreachable"]
    )


async def test_a_kept_response_contains_no_secret(make_play: MakePlay) -> None:
    """§5, §9: an error page that repeats the request leaves no credential and no query value in the
    document.
    """

    async def script(request: Message) -> bytes:
        if request.method != "POST":
            return raw("200 OK", [], b"{}")
        shown = " ".join([request.target, *(f"{name}: {value}" for name, value in request.fields)])
        return raw("500 E", JSON, json.dumps({"message": f"I got {shown}"}).encode())

    play = await make_play(script)
    path = await play.begun(PATH + "?x=hush-query", Cookie="sid=hush-cookie", X_Odd="hush-field")
    play.fields["Authorization"] = "Bearer hush-token"
    path = await play.begun(PATH + "?x=hush-query", Cookie="sid=hush-cookie", X_Odd="hush-field")
    over = await play.finished(path)
    assert over.json()["message"].startswith("Veeam Backup for Microsoft 365 answered 500: I got ")
    assert b"hush" not in over.body
    assert b"***" in over.body


@pytest.mark.parametrize(
    "value",
    ["Identity", "", "identity, identity", "IDENTITY,", "identity\r\nContent-Encoding: identity"],
)
async def test_identity_is_no_encoding(make_play: MakePlay, value: str) -> None:
    """RFC 9110 §8.4.1: the file is treated like one without the field; §6: the field is not sent to
    the client.
    """
    content = b"!BDN" + bytes(60)
    play = await make_play(script_for(raw("200 OK", [f"Content-Encoding: {value}"], content)))
    path = await play.begun(PATH)
    assert (await play.finished(path)).json()["status"] == "Success"
    file = await play.get(path + "/result")
    assert (file.body, "Content-Encoding" in file) == (content, False)


@pytest.mark.parametrize(
    "value", ["gzip", "identity, GZip", "\xfe", "identity\r\nContent-Encoding: br"]
)
async def test_an_encoded_file_is_an_error_that_names_the_encoding(
    make_play: MakePlay, value: str
) -> None:
    """§1 requests identity: an encoded body is not the file, and never Success."""
    play = await make_play(
        script_for(raw("200 OK", [f"Content-Encoding: {value}"], b"!BDN" + bytes(60)))
    )
    error = (await failed(play)).json()["error"]
    assert error["code"] == "UpstreamError"
    assert value.lower().rpartition(" ")[2].replace("\xfe", "\xfe") in error["message"]


@pytest.fixture
def full_server() -> Iterator[str]:
    """The URL of a server whose queue of connections is full: connecting to it never ends."""
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = held.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(("grace", "status"), [("10s", 504), ("0s", 202)])
async def test_a_connection_that_takes_too_long_is_504(
    full_server: str, tmp_path: Path, clock: Clock, grace: str, status: int
) -> None:
    """§3.7: within the grace period there is no job; after it the job fails as UpstreamTimeout (§4:
    AsyncResult 504).
    """
    given = {
        "UPSTREAM__CONNECT_TIMEOUT": "200ms",
        "EXPORTS__PREFLIGHT": "false",
        "EXPORTS__GRACE": grace,
    }
    running = await app.start(settings_of(full_server, tmp_path, given), clock)
    try:
        client = ApiClient(running, clock, {"Authorization": "Bearer t"})
        response = await client.kickoff(PATH)
        assert response.status == status
        if status == 202:
            over = await client.finished(client.path(response["Location"]))
            assert (over["AsyncResult"], over.json()["error"]["code"]) == ("504", "UpstreamTimeout")
            assert over.json()["error"]["retryable"] is True
        else:
            assert response.json()["type"] == "urn:vb365-async:problem:upstream-timeout"
    finally:
        await running.stop()

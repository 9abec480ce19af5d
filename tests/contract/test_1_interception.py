"""CONTRACT §1: which requests become jobs, and what a job's request to VB365 is."""

from __future__ import annotations

import pytest

from tests.contract.conftest import MakePlay, MakeStage, Stage
from tests.support.wire import Message, ask, raw

SESSION = "0f0c6d3e-0000-4000-8000-000000000001"
ORG = f"/v8/RestoreSessions/{SESSION}/organization"
EXPORT = f"{ORG}/mailboxes/m/exportToPst"


async def accepting(request: Message) -> bytes:
    """Accept everything and export five bytes."""
    if request.method == "POST":
        return raw("200 OK", ["Content-Type: application/octet-stream"], b"PK\x03\x04x")
    return raw("200 OK", ["Content-Type: application/json"], b"{}")


@pytest.mark.parametrize(
    ("query", "prefer", "mode"),
    [
        ("", None, "sync"),
        ("", "respond-async", "async"),
        ("", "RESPOND-ASYNC", "async"),
        ("", 'respond-async=""', "async"),
        ("", "respond-async=true", "async"),
        ("", 'respond-async="1"', "async"),
        ("", "respond-async=false", "sync"),
        ("", "respond-async=2", "sync"),
        ("", "wait=0, respond-async", "async"),
        ("", "return=minimal; foo=bar, respond-async; x=y", "async"),
        ("", ", ,respond-async ,", "async"),
        ("", "@@@, respond-async", "async"),
        ("", 'x="a, respond-async"', "sync"),
        ("", "respond-async = true", "async"),
        ("", "respond-async=false, respond-async", "sync"),
        ("?async", None, "async"),
        ("?async=", None, "async"),
        ("?async=true", None, "async"),
        ("?async=TRUE", None, "async"),
        ("?Async=1", None, "async"),
        ("?ASYNC=yes", None, "async"),
        ("?async=true", "respond-async=false", "async"),
        ("?async=true&async=1", None, "async"),
        ("?async=false", "respond-async", "sync"),
        ("?async=0", "respond-async", "sync"),
        ("?async=No", "respond-async", "sync"),
        ("?%61sync=true", None, "sync"),
        ("?async=%74rue", None, "bad"),
        ("?async=maybe", None, "bad"),
        ("?async=maybe", "respond-async", "bad"),
        ("?async=true&async=false", None, "bad"),
        ("?async=2", None, "bad"),
    ],
)
async def test_async_and_prefer_select_the_mode(
    make_play: MakePlay, query: str, prefer: str | None, mode: str
) -> None:
    """§1: the table of `async` and `Prefer`."""
    play = await make_play(accepting)
    fields = play.fields | ({} if prefer is None else {"Prefer": prefer})
    response = await play.ask("POST", EXPORT + query, fields, b"{}")
    if mode == "bad":
        assert response.status == 400
        assert response.json()["type"] == "urn:vb365-async:problem:invalid-async-parameter"
        assert response["X-VB365-Async"] == "proxy"
        assert play.upstream.requests == []
    elif mode == "sync":
        assert (response.status, response.body) == (200, b"PK\x03\x04x")
        assert response.names == {
            "content-type",
            "content-length",
        }  # no field is added, not even Vary
    else:
        assert response.status == 202


async def test_several_prefer_lines_are_combined_into_one_list(make_play: MakePlay) -> None:
    """§1: all field lines are joined with a comma; the first instance of a preference wins."""
    play = await make_play(accepting)
    lines = [
        ("Authorization", "Bearer t"),
        ("Prefer", "wait=0"),
        ("Prefer", "wait=7, respond-async"),
    ]
    response = await play.ask("POST", EXPORT, body=b"", fields=None)
    assert response.status == 200
    response = await ask(play.url, "POST", EXPORT, lines, b"")
    assert response.status == 202
    assert response["Preference-Applied"] == "respond-async, wait=0"


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ("?async=false", ""),
        ("?async=false&x=1", "?x=1"),
        ("?x=1&async=no&y=%2F+", "?x=1&y=%2F+"),
        ("?x&&async=0", "?x&"),
        ("?%61sync=true", "?%61sync=true"),
        ("?", "?"),
        ("", ""),
    ],
)
async def test_a_synchronous_export_is_relayed_without_the_async_parameter(
    make_play: MakePlay, sent: str, seen: str
) -> None:
    """§1: `async` is removed in the synchronous modes too; all other bytes stay, and Prefer goes to
    VB365.
    """
    play = await make_play(accepting)
    fields = play.fields | {"Prefer": "wait=3", "Range": "bytes=1-", "Idempotency-Key": "k"}
    await play.ask("POST", EXPORT + sent, fields, b'{"a":1,}')
    [request] = play.upstream.requests
    assert request.target == EXPORT + seen
    assert request.body == b'{"a":1,}'
    assert request["Prefer"] == "wait=3"
    assert request["Range"] == "bytes=1-"
    assert request["Idempotency-Key"] == "k"


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/v8/token?async=true"),
        ("GET", f"{EXPORT}?async=maybe"),
        ("PUT", f"{EXPORT}?async=true"),
        ("POST", f"/v8/RestoreSessions/{SESSION}/organization/mailboxes/m/restoreTo?async=true"),
        ("POST", f"/v5/RestoreSessions/{SESSION}/organization/mailboxes/m/Action?async=true"),
        ("POST", f"//v8/RestoreSessions/{SESSION}/organization/exportToPst?async=true"),
        ("POST", f"{ORG}//exportToPst?async=true"),
        ("POST", f"{ORG}/./exportToPst?async=true"),
        ("POST", f"{ORG}/../exportToPst?async=true"),
        ("POST", f"{ORG}/%2e%2E/exportToPst?async=true"),
        ("POST", f"{ORG}/.%2e/exportToPst?async=true"),
        ("POST", f"{ORG}/..%2f..%2fother/organization/exportToPst?async=true"),
        ("POST", f"{ORG}/x%5c..%5Cy/exportToPst?async=true"),
        ("POST", f"{ORG}/x\\..\\y/exportToPst?async=true"),
        ("POST", "/v8/RestoreSessions//organization/exportToPst?async=true"),
        ("POST", f"{ORG}/mailboxes/m/exportToPst/x?async=true"),
        ("POST", f"{ORG}/mailboxes/m/exporttopst%74?async=true"),
        ("POST", "/v8/Reports/GenerateMailboxProtection?async=true"),
    ],
)
async def test_other_requests_are_relayed_unchanged(
    make_play: MakePlay, method: str, target: str
) -> None:
    """§1: neither `async` nor `Prefer` has an effect on any other request."""
    play = await make_play(accepting)
    response = await play.ask(
        method, target, play.fields | {"Prefer": "respond-async"}, b"x" if method != "GET" else None
    )
    assert response.status == 200
    [request] = play.upstream.requests
    assert request.target == target
    assert request["Prefer"] == "respond-async"


@pytest.mark.parametrize(
    "path",
    [
        EXPORT,
        EXPORT + "/",
        EXPORT.lower(),
        EXPORT.upper().replace("/V8", "/v8"),
        EXPORT.replace("/v8", "/V12"),
        f"{ORG}/exportToPst",
        f"{ORG}/sites/a%2Fb+c=d:e/documents/Save",
        f"{ORG}/teams/t/posts/export",
        f"{ORG}/mailboxes/..x/items/.../save",
    ],
)
async def test_every_spelling_of_an_export_path_becomes_a_job(
    make_play: MakePlay, path: str
) -> None:
    """§1: in any case, with a trailing slash, with `%2F` inside a segment; VB365 gets the path as
    it was sent.
    """
    play = await make_play(accepting)
    status = await play.begun(path + "?x=1&async=true&y=%7E")
    await play.finished(status)
    [request] = play.upstream.posts()
    assert request.target == path + "?x=1&y=%7E"


async def test_a_query_of_async_alone_leaves_no_question_mark(make_play: MakePlay) -> None:
    """§1: `?async=true` alone leaves no `?`."""
    play = await make_play(accepting)
    await play.finished(await play.begun(EXPORT + "?async=true"))
    assert play.upstream.posts()[0].target == EXPORT


async def test_every_export_operation_of_every_version_is_intercepted(
    make_stage: MakeStage,
) -> None:
    """§1: exactly the 29 export operations of each of API v6, v7 and v8."""
    stage = await make_stage({"size": 10}, EXPORTS__MAX_RUNNING="50", EXPORTS__MAX_PER_CALLER="500")
    session = stage.simulator.sessions.get(stage.session)
    assert session is not None
    for version in (6, 7, 8):
        paths = stage.simulator.export_paths(session, version)
        assert len(paths) == 29
        for path in paths:
            response = await stage.kickoff(path)
            assert response.status == 202, path
            assert response.json()["request"]["path"] == path


async def test_the_job_sends_the_request_of_its_kick_off(make_play: MakePlay) -> None:
    """§1, the job's request: which fields are forwarded and which are not."""
    play = await make_play(accepting)
    body = b'{"contentKeyword": "\xff", trailing,}\r\n'
    fields = [
        ("Host", "vb365.example.com:4443"),
        ("authorization", "Bearer t"),
        ("COOKIE", "a=b"),
        ("Cookie", "c=d"),
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("X-XSRF-TOKEN", "t1"),
        ("x-xsrf-token", "t2"),
        ("Prefer", 'respond-async, wait=0, return="a, b"; foo'),
        ("Prefer", "handling=lenient"),
        ("Range", "bytes=5-"),
        ("If-Match", '"x"'),
        ("If-None-Match", '"x"'),
        ("If-Range", '"x"'),
        ("If-Modified-Since", "Mon, 23 Nov 2026 09:00:00 GMT"),
        ("If-Unmodified-Since", "Mon, 23 Nov 2026 09:00:00 GMT"),
        ("Idempotency-Key", "k"),
        ("Accept-Encoding", "gzip, br"),
        ("Accept", "application/octet-stream"),
        ("Accept-Language", "de"),
        ("User-Agent", "curl/8"),
        ("Connection", "keep-alive, X-Hop"),
        ("X-Hop", "1"),
        ("Keep-Alive", "timeout=5"),
        ("TE", "trailers"),
        ("Expect", "100-continue"),
    ]
    assert (
        await ask(play.url, "POST", EXPORT, [f for f in fields if f[0] != "Expect"], body)
    ).status == 202
    while not play.upstream.posts():
        await play.get("/v8/_async/exports")
    [request] = play.upstream.posts()
    assert request.body == body
    sent = [
        (name, value)
        for name, value in request.fields
        if name.lower() not in ("prefer", "accept-encoding", "content-length", "connection")
    ]
    gone = {
        "prefer",
        "range",
        "idempotency-key",
        "accept-encoding",
        "connection",
        "x-hop",
        "keep-alive",
        "te",
        "expect",
    }
    assert sent == [(n, v) for n, v in fields if n.lower() not in gone and not n.startswith("If-")]
    assert request["Prefer"] == 'return="a, b"; foo, handling=lenient'
    assert request["Accept-Encoding"] == "identity"
    assert request["Content-Length"] == str(len(body))


async def test_the_proxys_own_preferences_are_not_forwarded(make_play: MakePlay) -> None:
    """§1: `Prefer: respond-async` and `wait` are removed; nothing else is changed."""
    play = await make_play(accepting)
    await play.finished(await play.begun(EXPORT, Prefer="respond-async, wait=0"))
    request = play.upstream.posts()[0]
    assert request.names == {"host", "authorization", "accept-encoding", "content-length"}


@pytest.mark.parametrize("framing", ["chunked", "none", "empty", "odd"])
async def test_a_body_is_forwarded_as_received(make_play: MakePlay, framing: str) -> None:
    """§1: with any framing the bytes stay the same; the body is never parsed."""
    play = await make_play(accepting)
    expected = {"chunked": b"{,}hello", "none": b"", "empty": b"", "odd": bytes(range(256)) * 300}[
        framing
    ]
    more = {"Content-Type": "application/json"}
    given: bytes | None = expected
    if framing == "chunked":
        more["Transfer-Encoding"] = "chunked"
        given = b"3\r\n{,}\r\n5;x=y\r\nhello\r\n0\r\n\r\n"
    elif framing == "none":
        given = None
    fields = play.fields | {"Prefer": "respond-async"} | more
    response = await play.ask("POST", EXPORT, fields, given)
    assert response.status == 202
    await play.finished(play.path(response["Location"]))
    assert play.upstream.posts()[0].body == expected


async def test_without_preserve_host_the_host_is_that_of_the_upstream(make_play: MakePlay) -> None:
    """§12, §15 `upstream.preserve_host = false`: kick-off, preflight and access checks have VB365's
    own Host.
    """
    play = await make_play(accepting, UPSTREAM__PRESERVE_HOST="false", ACCESS__CACHE="0s")
    response = await play.kickoff(EXPORT, Host="other.example")
    await play.finished(response["Location"].removeprefix("http://other.example"))
    own = play.upstream.url.removeprefix("http://")
    assert {request["Host"] for request in play.upstream.requests} == {own}


@pytest.mark.parametrize("preserve", ["true", "false"])
async def test_12_a_job_never_sends_the_host_of_an_absolute_target(
    preserve: str, make_play: MakePlay
) -> None:
    """A kick-off's target may have the absolute form; the job's request has the origin form
    of it.
    """
    play = await make_play(accepting, UPSTREAM__PRESERVE_HOST=preserve)
    response = await play.kickoff("http://VB365.example:80" + EXPORT, Host="vb365.example")
    assert response.status == 202
    await play.finished(response["Location"].removeprefix("http://vb365.example"))
    assert [(post.target, post["Host"] == "vb365.example") for post in play.upstream.posts()] == [
        (EXPORT, preserve == "true")
    ]
    assert (await play.kickoff("http://other.example" + EXPORT, Host="vb365.example")).status == 400


async def test_reports_are_exports_if_enabled(make_stage: MakeStage) -> None:
    """§1 `exports.reports`: intercepted, without a preflight, and only the caller of the kick-off
    has access.
    """
    stage = await make_stage(EXPORTS__REPORTS="true", ACCESS__CACHE="0s")
    response = await stage.kickoff("/v8/Reports/GenerateLicenseOverview")
    assert response.status == 202
    assert response.json()["type"] == "Export"
    assert response.json()["request"]["restoreSessionId"] is None
    assert "restoreSession" not in response.json()["_links"]
    status = stage.path(response["Location"])
    await stage.until(status, lambda document: document["status"] != "Running")
    gets = {one.target for one in stage.simulator.requests if one.method == "GET"}
    asked_as_for_an_unknown_id = f"/v8/RestoreSessions/{response.json()['id']}"
    assert gets == {"/v8/RestoreSessions?limit=1", asked_as_for_an_unknown_id}
    for user in ("bob", "operator"):
        assert (await stage.ask("GET", status, stage.simulator.login(user))).status == 404
    assert (await stage.ask("GET", status, {})).status == 401


async def test_reports_are_relayed_by_default(stage: Stage) -> None:
    """§1: `exports.reports` is off by default."""
    response = await stage.kickoff("/v8/Reports/GenerateLicenseOverview")
    assert response.status == 200
    assert "Location" not in response

"""CONTRACT §5: the job document, as a RESTRestoreSessionEvent and on its own."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from tests.contract.conftest import SIZE, MakePlay, MakeStage, Stage
from tests.support.wire import Message, raw

PATH = (
    "/v8/RestoreSessions/0f0c6d3e-0000-4000-8000-000000000001/organization/mailboxes/m/exportToPst"
)
REQUIRED = {"id", "status", "message", "startTime", "order"}
ENUMS = {
    "type": {"None", "Save", "Export", "Send", "Restore", "View"},
    "status": {"Running", "Success", "Warning", "Failed", "Cancelled", "Skipped"},
}
STRINGS = {
    "itemName",
    "itemType",
    "source",
    "target",
    "id",
    "startTime",
    "duration",
    "title",
    "message",
}
NUMBERS = {"itemSizeBytes", "order"}
#: Of v8 only, where they may be null. `endTime` may be null in every version.
NULLABLE_V8 = {"organizationId", "backedUpOrganizationId", "userId", "groupId", "siteId", "teamId"}
MEMBERS = {
    *(
        "id",
        "type",
        "status",
        "phase",
        "title",
        "message",
        "order",
        "creationTime",
        "startTime",
        "endTime",
    ),
    *(
        "lastUpdateTime",
        "expirationTime",
        "eTag",
        "attempt",
        "origin",
        "joined",
        "progress",
        "request",
        "result",
        "error",
        "_links",
    ),
}
PHASES = ["Queued", "Generating", "Transferring", "Finalizing", "Completed"]


def in_phase(phase: str, document: dict[str, Any]) -> bool:
    return bool(document["phase"] == phase)


def assert_event(document: dict[str, Any]) -> None:
    """Check that it is a RESTRestoreSessionEvent: required members, types, enums, and null only
    where the schema allows it.
    """
    assert document.keys() >= REQUIRED
    assert not document.keys() & NULLABLE_V8
    for name in document.keys() & STRINGS:
        assert isinstance(document[name], str), name
    for name in document.keys() & NUMBERS:
        assert type(document[name]) is int, name
    for name, values in ENUMS.items():
        assert document[name] in values
    assert UUID(document["id"]).version == 4
    assert datetime.fromisoformat(document["startTime"]).tzinfo is not None
    assert (
        document["endTime"] is None
        or datetime.fromisoformat(document["endTime"]).tzinfo is not None
    )
    assert all(isinstance(link["href"], str) for link in document["_links"].values())


def assert_document(document: dict[str, Any]) -> None:
    assert_event(document)
    assert document.keys() - {"itemSizeBytes"} == MEMBERS
    assert (
        (document["endTime"] is None)
        == (document["status"] == "Running")
        == ("cancel" in document["_links"])
    )
    size = document["progress"]["bytesTotal"]
    assert document.get("itemSizeBytes") == size
    assert (document["progress"]["percent"] is None) == (size is None)


@pytest.mark.parametrize("version", [6, 7, 8])
@pytest.mark.parametrize(
    ("effects", "status"),
    [({}, "Success"), ({"event": "Warning"}, "Warning"), ({"status": 500}, "Failed")],
)
async def test_the_document_is_a_valid_event_in_every_version(
    stage: Stage, version: int, effects: dict[str, Any], status: str
) -> None:
    """§5: a RESTRestoreSessionEvent of v6, v7 and v8, running and ended."""
    stage.fault(hold=True, **effects)
    path = stage.path_of(version=version)
    response = await stage.kickoff(path)
    monitor = stage.path(response["Location"])
    assert monitor.startswith(f"/v{version}/_async/")
    if status != "Failed":
        await stage.simulator.until(lambda: stage.simulator.held == 1)
        stage.simulator.release()
    ended = (await stage.finished(monitor)).json()
    assert ended["status"] == status
    for document in (response.json(), ended):
        assert_document(document)
        assert document["request"] == {
            "method": "POST",
            "path": path,
            "restoreSessionId": stage.session,
            "idempotencyKey": None,
        }
        assert (
            document["_links"]["restoreSession"]["href"]
            == f"/v{version}/RestoreSessions/{stage.session}"
        )


async def test_the_phases_follow_their_order(make_stage: MakeStage) -> None:
    """§5: Queued → Generating → Transferring → Finalizing → Completed; percent never decreases;
    eTag increases.
    """
    stage = await make_stage(EXPORTS__MAX_RUNNING="1")
    stage.fault(hold=True, count=2)
    stage.fault(stall_at=SIZE // 2, skip=1, count=1)
    first = await stage.begun(stage.export)
    second = await stage.begun(stage.export)
    seen = [(await stage.get(second)).json()]
    assert seen[0]["phase"] == "Queued"
    await stage.simulator.until(lambda: stage.simulator.held == 1)
    stage.simulator.release()
    await stage.finished(first)
    for phase in ("Generating", "Transferring"):
        seen.append((await stage.until(second, partial(in_phase, phase))).json())
        await stage.simulator.until(lambda: stage.simulator.held == 1)
        stage.simulator.release()
    seen.append((await stage.finished(second)).json())
    assert [document["phase"] for document in seen] == [
        "Queued",
        "Generating",
        "Transferring",
        "Completed",
    ]
    etags = [document["eTag"] for document in seen]
    assert etags == sorted(set(etags))
    percents = [document["progress"]["percent"] for document in seen]
    assert percents[:2] == [None, None]
    assert 0 <= percents[2] <= 50
    assert percents[3] == 100
    # the generations that began at byte zero; there is none while the job is queued
    assert [document["attempt"] for document in seen] == [0, 1, 1, 1]
    for document in seen:
        assert_document(document)


async def test_a_long_poll_sees_no_phase_twice_and_no_lower_percent(make_stage: MakeStage) -> None:
    """§5: what a long poll shows only moves forward."""
    stage = await make_stage({"size": 3_000_000, "rate": 3_000_000.0})
    status = await stage.begun(stage.export)
    seen = [await stage.get(status)]
    while seen[-1].status != 200:
        response = await stage.get(status, Prefer="wait=5", If_None_Match=seen[-1]["ETag"])
        seen += [response] if response.status != 304 else []
    documents = [response.json() for response in seen]
    steps = [PHASES.index(document["phase"]) for document in documents]
    percents = [document["progress"]["percent"] or 0 for document in documents]
    received = [document["progress"]["bytesReceived"] for document in documents]
    assert (steps, percents, received) == (sorted(steps), sorted(percents), sorted(received))
    assert received[-1] == 3_000_000


async def test_unknown_values_are_null_or_left_out(stage: Stage) -> None:
    """§5: they are never invented; `result` is null until the head of VB365's 200 has arrived."""
    stage.fault(hold=True)
    status = await stage.begun(stage.export)
    await stage.simulator.until(lambda: stage.simulator.held == 1)
    document = (await stage.get(status)).json()
    assert "itemSizeBytes" not in document
    assert document["progress"] == {
        "percent": None,
        "bytesReceived": 0,
        "bytesTotal": None,
        "bytesPerSecond": None,
        "secondsRemaining": None,
    }
    nulls = {name for name, value in document.items() if value is None}
    assert nulls == {"endTime", "expirationTime", "result", "error"}


async def test_an_available_result_has_all_its_members(stage: Stage) -> None:
    """§5: state, eTag, digest and expirationTime beside VB365's own values; they equal those of the
    download.
    """
    status = await stage.done()
    document = (await stage.get(status)).json()
    assert_document(document)
    file = await stage.get(status + "/result")
    result = document["result"]
    assert result == {
        "state": "Available",
        "href": f"{stage.url}{status}/result",
        "mediaType": file["Content-Type"],
        "format": "Pst",
        "fileName": result["fileName"],
        "size": SIZE,
        "eTag": file["ETag"],
        "digest": {"sha-256": base64.b64encode(hashlib.sha256(stage.file()).digest()).decode()},
        "sha256": hashlib.sha256(stage.file()).hexdigest(),
        "expirationTime": document["expirationTime"],
    }
    assert result["fileName"] in file["Content-Disposition"]
    assert (
        document["expirationTime"]
        > document["endTime"]
        >= document["startTime"]
        >= document["creationTime"]
    )
    assert document["error"] is None
    assert (document["itemSizeBytes"], document["progress"]["bytesReceived"]) == (SIZE, SIZE)


@pytest.mark.parametrize(("end", "state"), [("DELETE", "Deleted"), ("expiry", "Expired")])
async def test_the_state_of_a_removed_result_says_why(stage: Stage, end: str, state: str) -> None:
    """§5 `result.state`: the members of an available file disappear with it; the outcome stays."""
    status = await stage.done()
    if end == "DELETE":
        assert (await stage.ask("DELETE", status + "/result")).status == 204
    else:
        stage.clock.ahead += 25 * 3600
        stage.fields = stage.simulator.login()
    document = (await stage.get(status)).json()
    assert_document(document)
    assert document["status"] == "Success"
    assert document["result"]["state"] == state
    assert not document["result"].keys() & {"eTag", "digest", "sha256", "expirationTime"}


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"!BDN", "Pst"),
        (b"PK\x03\x04", "Zip"),
        (bytes.fromhex("D0CF11E0A1B11AE1"), "Msg"),
        (b"PK\x05\x06", "Other"),
    ],
)
async def test_the_format_is_known_from_the_first_bytes(
    make_play: MakePlay, start: bytes, name: str
) -> None:
    """§5: whatever VB365's Content-Type is, which stays verbatim; before the transfer ends."""

    async def script(request: Message) -> bytes:
        head = raw(
            "200 OK",
            ["Content-Type: Text/ODD;x", f"Content-Length: {len(start) + 64}"],
            length=False,
        )
        return head + start + bytes(32) if request.method == "POST" else raw("200 OK", [], b"{}")

    play = await make_play(script)
    status = await play.begun(PATH)
    document = (
        await play.until(status, lambda document: bool((document["result"] or {}).get("format")))
    ).json()
    assert document["status"] == "Running"
    assert (document["phase"], document["result"]["state"]) == ("Transferring", "Pending")
    assert (document["result"]["format"], document["result"]["mediaType"]) == (name, "Text/ODD;x")
    assert not document["result"].keys() & {"eTag", "digest", "sha256", "expirationTime"}
    assert_document(document)


@pytest.mark.parametrize(
    ("response", "shown"),
    [
        (("application/json", b'{"message":"no","n":1}'), {"message": "no", "n": 1}),
        (("text/plain", b"plain \xc3\xa9"), "plain \u00e9"),
        (("application/json", b'{"broken":'), '{"broken":'),
        (("application/json", b'{"n":NaN}'), '{"n":NaN}'),
    ],
)
async def test_an_error_has_the_upstreams_response(
    make_play: MakePlay, response: tuple[str, bytes], shown: object
) -> None:
    """§5 `error`: code, message, retryable, and VB365's status, type and body, parsed if it is
    JSON.
    """
    media_type, content = response

    async def script(request: Message) -> bytes:
        refused = raw("400 Bad", [f"Content-Type: {media_type}"], content)
        return refused if request.method == "POST" else raw("200 OK", [], b"{}")

    play = await make_play(script)
    document = (await play.finished(await play.begun(PATH))).json()
    assert_document(document)
    assert (document["status"], document["phase"], document["result"]) == (
        "Failed",
        "Completed",
        None,
    )
    error = document["error"]
    assert error.keys() == {"code", "message", "retryable", "upstream"}
    assert (error["code"], error["retryable"]) == ("UpstreamRejected", False)
    assert error["message"] == document["message"] != ""
    assert error["upstream"] == {
        "status": 400,
        "contentType": media_type,
        "body": shown,
        "truncated": False,
    }


async def test_a_long_error_body_is_text_and_marked_if_truncated(make_play: MakePlay) -> None:
    """§5: JSON up to 64 KiB is parsed; a longer body is text, and `truncated` says that some of it
    is missing.
    """
    content = b'{"m":"' + b"x" * 200_000 + b'"}'

    async def script(request: Message) -> bytes:
        refused = raw("500 Oops", ["Content-Type: application/json"], content)
        return refused if request.method == "POST" else raw("200 OK", [], b"{}")

    play = await make_play(script)
    error = (await play.finished(await play.begun(PATH))).json()["error"]
    assert error["code"] == "UpstreamError"
    assert isinstance(error["upstream"]["body"], str)
    assert content.decode().startswith(error["upstream"]["body"])
    assert error["upstream"]["truncated"] is (len(error["upstream"]["body"]) < len(content))


async def test_a_truncated_file_fails_the_job_as_retryable(make_stage: MakeStage) -> None:
    """§5, §10: UpstreamTruncated; no file is offered."""
    stage = await make_stage(EXPORTS__ATTEMPTS="1")
    stage.fault(cut_at=0, ignore_range=True)
    document = (await stage.finished(await stage.begun(stage.export))).json()
    assert_document(document)
    assert document["status"] == "Failed"
    assert document["error"]["retryable"] is True
    assert document["error"]["code"] == "UpstreamTruncated"
    assert (document["result"] or {"state": "Incomplete"})["state"] == "Incomplete"


async def test_a_warning_of_the_session_is_a_warning_with_its_file(stage: Stage) -> None:
    """§5 Warning: the file is complete and can be downloaded."""
    stage.fault(event="Warning")
    status = await stage.begun(stage.export)
    document = (await stage.finished(status)).json()
    assert (document["status"], document["result"]["state"]) == ("Warning", "Available")
    assert document["error"] is None
    assert (await stage.get(status + "/result")).body == stage.file()


async def test_without_watch_events_a_warning_is_not_noticed(make_stage: MakeStage) -> None:
    """§5 `exports.watch_events`."""
    stage = await make_stage(EXPORTS__WATCH_EVENTS="false")
    stage.fault(event="Warning")
    await stage.done()
    assert stage.count_requests("/events") == 0


async def test_type_and_title_are_those_of_the_operation(stage: Stage) -> None:
    """§5 `type`: Save for `save`, Export for the others."""
    for ending, kind in (("save", "Save"), ("export", "Export"), ("exportToPst", "Export")):
        document = (await stage.kickoff(stage.path_of("/" + ending))).json()
        assert (document["type"], document["title"].lower()) == (kind, ending.lower())


async def test_no_secret_appears_in_a_document(stage: Stage) -> None:
    """§5: no credential, no query value and no word of the body, however the job ends."""
    for effects in ({}, {"status": 500}):
        stage.simulator.faults.clear()
        stage.fault(**effects)
        body = b'{"password":"hush-body"}'
        response = await stage.kickoff(
            stage.export + "?x=hush-query", body=body, Cookie="c=hush-cookie", X_Other="hush-x"
        )
        text = response.body + (await stage.finished(stage.path(response["Location"]))).body
        assert b"hush" not in text
        assert stage.fields["Authorization"].removeprefix("Bearer ").encode() not in text


async def test_a_cancelled_job_stays_cancelled(stage: Stage) -> None:
    """§5: Cancelling → Completed; the terminal status never changes afterwards."""
    stage.fault(hold=True)
    status = await stage.begun(stage.export)
    response = await stage.ask("POST", status + "/cancel")
    assert (response.status, response.json()["status"], response.json()["phase"]) == (
        202,
        "Running",
        "Cancelling",
    )
    ended = (await stage.finished(status)).json()
    assert_document(ended)
    assert (ended["status"], ended["phase"], ended["result"]) == ("Cancelled", "Completed", None)
    stage.simulator.release()
    assert (await stage.ask("POST", status + "/cancel")).json() == ended

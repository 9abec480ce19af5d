"""CONTRACT §6: the file, its conditions and its ranges, over HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import AsyncGenerator
from email import message_from_bytes
from email.utils import formatdate, parsedate_to_datetime
from typing import Any

import pytest

from proxy.api import download
from proxy.core.job import Job
from proxy.ports import StoreUnavailable
from proxy.stores.disk_jobs.store import DiskJobs
from proxy.stores.file_artifacts.reader import FileReader
from tests.contract.conftest import SIZE, MakePlay, MakeStage, Stage
from tests.support.wire import Message, Peer, raw, request_bytes


@pytest.fixture
async def result(stage: Stage) -> str:
    return await stage.done() + "/result"


async def test_a_download_has_all_fields_of_the_contract(stage: Stage, result: str) -> None:
    """§6: and never Content-Encoding."""
    response = await stage.get(result, Accept_Encoding="gzip, br")
    digest = base64.b64encode(hashlib.sha256(stage.file()).digest()).decode()
    assert response.first == "HTTP/1.1 200 OK"
    assert response.body == stage.file()
    assert response["Content-Type"] == "application/octet-stream"
    assert response["Content-Length"] == str(SIZE)
    assert response["Accept-Ranges"] == "bytes"
    assert response["ETag"].startswith('"')
    assert parsedate_to_datetime(response["Last-Modified"]) <= parsedate_to_datetime(
        response["Date"]
    )
    assert response["Content-Disposition"].startswith('attachment; filename="')
    assert "; filename*=UTF-8''" in response["Content-Disposition"]
    assert response["Repr-Digest"] == f"sha-256=:{digest}:"
    assert response["Cache-Control"] == "private, no-cache, no-transform"
    assert response["X-Accel-Buffering"] == "no"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert parsedate_to_datetime(response["Sunset"]) > parsedate_to_datetime(response["Date"])
    assert not response.names & {"content-encoding", "x-vb365-async", "transfer-encoding", "vary"}


async def test_6_a_download_without_memory_for_its_head_leaves_no_open_file(
    stage: Stage, result: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, close = 0, FileReader.close

    async def counted(reader: FileReader) -> None:
        nonlocal closed
        closed += 1
        await close(reader)

    def short_of_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(FileReader, "close", counted)
    with monkeypatch.context() as short:
        short.setattr(download, "_file_headers", short_of_memory)
        assert (await stage.get(result)).status == 500
    assert closed == 1
    assert (await stage.get(result)).body == stage.file()


async def test_18_a_record_of_a_second_ago_refuses_no_file(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§18: another replica has already shown the end of the export to the caller."""
    stage.fault(hold=True)
    result = await stage.begun(stage.export) + "/result"
    await stage.held()
    recent, older = DiskJobs.recent, dict[str, Job | None]()

    async def read_before(jobs: DiskJobs, id: str, *, fresh: bool = False) -> Job | None:
        if id not in older:
            older[id] = await recent(jobs, id, fresh=fresh)
        return older[id]

    monkeypatch.setattr(DiskJobs, "recent", read_before)
    assert (await stage.get(result)).status == 409
    assert (await stage.ask("DELETE", result)).status == 409
    stage.simulator.release()
    assert (await stage.get(result, Prefer="wait=30")).status == 200
    response = await stage.get(result)
    assert (response.status, response.body) == (200, stage.file())
    assert (await stage.ask("DELETE", result)).status == 204


async def test_the_upstreams_names_are_kept_and_made_safe(make_play: MakePlay) -> None:
    """§6: Content-Type is verbatim; RFC 6266 `filename` and `filename*`."""

    async def script(request: Message) -> bytes | None:
        head = [
            "Content-Type: text/HTML; Charset=x",
            "Content-Disposition: attachment; filename*=UTF-8''..%2F%C3%BC%0A%22.html",
        ]
        return raw("200 OK", head, b"<p>")

    play = await make_play(script)
    status = await play.begun("/v8/RestoreSessions/1/organization/teams/t/posts/export")
    await play.finished(status)
    response = await play.get(status + "/result")
    assert response["Content-Type"] == "text/HTML; Charset=x"
    assert (
        response["Content-Disposition"]
        == "attachment; filename=\"u_.html\"; filename*=UTF-8''%C3%BC_.html"
    )


async def test_the_etag_survives_a_restart(make_stage: MakeStage) -> None:
    """§6: it is strong and never changes."""
    stage = await make_stage()
    result = await stage.done() + "/result"
    etag = (await stage.get(result))["ETag"]
    await stage.running.stop()
    from proxy import app

    stage.running = await app.start(stage.running.settings, stage.clock)
    try:
        assert (await stage.get(result))["ETag"] == etag
    finally:
        await stage.running.stop()


async def test_preconditions_apply_in_the_order_of_rfc_9110(stage: Stage, result: str) -> None:
    """§6: If-Match / If-Unmodified-Since 412; If-None-Match / If-Modified-Since 304."""
    got = await stage.get(result)
    etag, modified = got["ETag"], got["Last-Modified"]
    past = formatdate(parsedate_to_datetime(modified).timestamp() - 10, usegmt=True)
    table: list[tuple[dict[str, str], int]] = [
        ({"If-Match": etag}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": f'"x", {etag}'}, 200),
        ({"If-Match": '"x"'}, 412),
        ({"If-Match": "W/" + etag}, 412),
        ({"If-Match": etag, "If-Unmodified-Since": past}, 200),
        ({"If-Unmodified-Since": past}, 412),
        ({"If-Unmodified-Since": modified}, 200),
        ({"If-Unmodified-Since": "yesterday"}, 200),
        ({"If-None-Match": etag}, 304),
        ({"If-None-Match": "W/" + etag}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"x"'}, 200),
        ({"If-None-Match": '"x"', "If-Modified-Since": modified}, 200),
        ({"If-Modified-Since": modified}, 304),
        ({"If-Modified-Since": past}, 200),
        ({"If-Match": '"x"', "If-None-Match": etag}, 412),
        ({"If-Match": '"x"', "Range": "bytes=0-0"}, 412),
        ({"If-None-Match": etag, "Range": "bytes=0-0"}, 304),
    ]
    for given, status in table:
        for method in ("GET", "HEAD"):
            response = await stage.ask(method, result, stage.fields | given)
            assert response.status == status, given
            if status == 304:
                assert (response["ETag"], response.body) == (etag, b"")
                assert response["Cache-Control"] == "private, no-cache, no-transform"
                assert "Content-Length" not in response
            elif status == 412 and method == "GET":
                assert response.json()["type"] == "urn:vb365-async:problem:precondition-failed"


@pytest.mark.parametrize(
    ("value", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        ("BYTES=5-9", 5, 10),
        ("bytes=199990-", 199990, SIZE),
        ("bytes=-5", SIZE - 5, SIZE),
        ("bytes=-999999999", 0, SIZE),
        ("bytes=199999-999999999999999999999", SIZE - 1, SIZE),
        ("bytes=0-4, 5-9", 0, 10),
        ("bytes=5-9,2-7", 2, 10),
        ("bytes=0-1, 900000-", 0, 2),
    ],
)
async def test_a_satisfiable_range_is_206(
    stage: Stage, result: str, value: str, start: int, stop: int
) -> None:
    """§6: `a-b`, `a-`, `-n`; overlaps are coalesced; 206 with Content-Range; HEAD with a Range is
    200.
    """
    response = await stage.get(result, Range=value)
    assert response.first == "HTTP/1.1 206 Partial Content"
    assert response["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert response["Content-Length"] == str(stop - start)
    assert response.body == stage.file()[start:stop]
    assert response["Content-Type"] == "application/octet-stream"
    assert "Repr-Digest" in response
    head = await stage.ask("HEAD", result, Range=value)
    assert (head.status, head["Content-Length"], "Content-Range" in head) == (200, str(SIZE), False)


@pytest.mark.parametrize(
    "value",
    ["items=0-1", "bytes", "bytes=", "bytes=a-b", "bytes=5-2", "bytes=-", "0-1", "bytes=1-2;x"],
)
async def test_an_unknown_unit_or_malformed_range_is_ignored(
    stage: Stage, result: str, value: str
) -> None:
    """§6: 200 with the whole file."""
    response = await stage.get(result, Range=value)
    assert (response.status, len(response.body)) == (200, SIZE)


@pytest.mark.parametrize(
    "value",
    [
        f"bytes={SIZE}-",
        "bytes=-0",
        "bytes=900000-900001,800000-",
        ",".join(["bytes=0-0", *(f"{n}-{n}" for n in range(2, 18, 2))]),
    ],
)
async def test_an_unsatisfiable_range_is_416(stage: Stage, result: str, value: str) -> None:
    """§6: with `Content-Range: bytes */size`; so are more than 8 parts."""
    response = await stage.get(result, Range=value)
    assert response.status == 416
    assert response["Content-Range"] == f"bytes */{SIZE}"
    assert response.json()["type"] == "urn:vb365-async:problem:range-not-satisfiable"
    assert response.json()["errorCode"] == "HttpError"


async def test_several_ranges_are_multipart(stage: Stage, result: str) -> None:
    """§6: multipart/byteranges, 8 parts at most."""
    wanted = [(n * 1000, n * 1000 + 10) for n in range(7, -1, -1)]
    response = await stage.get(
        result, Range="bytes=" + ",".join(f"{start}-{stop - 1}" for start, stop in wanted)
    )
    assert response.status == 206
    assert response["Content-Type"].startswith("multipart/byteranges; boundary=")
    assert "Content-Range" not in response
    assert response["Content-Length"] == str(len(response.body))
    whole = message_from_bytes(
        f"Content-Type: {response['Content-Type']}\r\n\r\n".encode() + response.body
    )
    parts = whole.get_payload()
    assert len(parts) == 8
    for part, (start, stop) in zip(parts, wanted, strict=True):
        assert not isinstance(part, str)
        assert part["Content-Type"] == "application/octet-stream"
        assert part["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
        assert stage.file()[start:stop] in response.body


async def test_if_range_compares_strongly(stage: Stage, result: str) -> None:
    """§6: if it differs, is weak or has another date, the Range is ignored."""
    got = await stage.get(result)
    etag, modified = got["ETag"], got["Last-Modified"]
    later = formatdate(parsedate_to_datetime(modified).timestamp() + 10, usegmt=True)
    for value, status in (
        (etag, 206),
        (modified, 206),
        ("W/" + etag, 200),
        ('"x"', 200),
        (later, 200),
        ("x", 200),
    ):
        assert (await stage.get(result, Range="bytes=0-0", If_Range=value)).status == status, value


async def test_a_result_that_is_not_ready_is_409(stage: Stage) -> None:
    """§6: `result-not-ready` with Retry-After, for HEAD too; with `Prefer: wait=N` the response
    waits for the file.
    """
    stage.fault(hold=True)
    result = await stage.begun(stage.export) + "/result"
    for method in ("GET", "HEAD"):
        response = await stage.ask(method, result)
        assert response.status == 409
        assert int(response["Retry-After"]) >= 1
    assert (await stage.get(result)).json()["type"] == "urn:vb365-async:problem:result-not-ready"
    assert (await stage.get(result)).json()["errorCode"] == "OperationConflict"
    waiting = asyncio.create_task(stage.get(result, Prefer="wait=40"))
    await asyncio.wait([waiting], timeout=0.1)
    assert not waiting.done()
    await stage.held()
    stage.simulator.release()
    response = await asyncio.wait_for(waiting, 20)
    assert (response.status, response.body) == (200, stage.file())


async def test_wait_ends_in_409(make_stage: MakeStage) -> None:
    """§6: after `exports.max_wait` at most."""
    stage = await make_stage(EXPORTS__MAX_WAIT="100ms")
    stage.fault(hold=True)
    result = await stage.begun(stage.export) + "/result"
    assert (await stage.get(result, Prefer="wait=900")).status == 409


async def test_the_result_of_a_failed_or_cancelled_job_is_409(stage: Stage) -> None:
    """§6: `export-failed`, `export-cancelled`, without Retry-After."""
    stage.fault(outlook_missing=True, count=1)
    status = await stage.begun(stage.export)
    await stage.finished(status)
    failed = await stage.get(status + "/result")
    assert (failed.status, failed.json()["type"]) == (409, "urn:vb365-async:problem:export-failed")
    stage.fault(hold=True)
    status = await stage.begun(stage.export)
    await stage.ask("POST", status + "/cancel")
    await stage.finished(status)
    cancelled = await stage.get(status + "/result")
    assert (cancelled.status, cancelled.json()["type"]) == (
        409,
        "urn:vb365-async:problem:export-cancelled",
    )
    assert "Retry-After" not in failed
    assert "Retry-After" not in cancelled


async def test_an_empty_file_can_be_downloaded(make_play: MakePlay) -> None:
    """§6: it has no bytes, and no range of it can be satisfied."""

    async def script(request: Message) -> bytes | None:
        return raw("200 OK")

    play = await make_play(script)
    status = await play.begun("/v8/RestoreSessions/1/organization/save")
    assert (await play.finished(status)).json()["status"] == "Success"
    response = await play.get(status + "/result")
    assert (response.status, response["Content-Length"], response.body) == (200, "0", b"")
    assert (await play.get(status + "/result", Range="bytes=0-")).status == 416


@pytest.mark.parametrize("end", ["delete", "release", "expire"])
async def test_a_running_download_completes(make_stage: MakeStage, end: str) -> None:
    """§6: even if the file expires or is deleted meanwhile."""
    size = 30_000_000
    stage = await make_stage({"size": size})
    status = await stage.done()
    wire = await Peer.to(stage.url)
    await wire.send(request_bytes("GET", status + "/result", stage.fields, None, "h"))
    begun = await wire.reader.readexactly(1000)
    if end == "expire":
        stage.clock.ahead += 86400 + 1
        assert (await stage.get(status + "/result")).status == 410
    else:
        assert (
            await stage.ask("DELETE", status + ("" if end == "delete" else "/result"))
        ).status == 204
    head, _, body = begun.partition(b"\r\n\r\n")
    assert b"\r\nContent-Length: 30000000" in head
    digest = hashlib.sha256(body)
    left = size - len(body)
    while left:
        data = await asyncio.wait_for(wire.reader.read(min(left, 1 << 20)), 20)
        assert data, f"{left} bytes are missing"
        digest.update(data)
        left -= len(data)
    assert digest.digest() == hashlib.sha256(stage.file()).digest()
    wire.abort()


@pytest.mark.parametrize("sent", [0, 1])
@pytest.mark.parametrize("ranges", [{}, {"Range": "bytes=0-387"}], ids=["whole", "range"])
async def test_a_store_that_fails_within_a_download_breaks_the_connection(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, ranges: dict[str, str], sent: int
) -> None:
    """§6, §10: the error is no part of the file, and what is shorter than announced looks so."""
    status = await stage.done()
    read = FileReader.chunks

    async def chunks(reader: FileReader, start: int, stop: int) -> AsyncGenerator[Any, None]:
        pieces = read(reader, start, stop)
        for _ in range(sent):
            yield (await anext(pieces))[:100]
        await pieces.aclose()
        raise StoreUnavailable("the disk fails")

    monkeypatch.setattr(FileReader, "chunks", chunks)
    peer = await Peer.to(stage.url)
    await peer.send(request_bytes("GET", status + "/result", stage.fields | ranges, None, "h"))
    head = await peer.head()
    assert head.startswith(b"HTTP/1.1 206" if ranges else b"HTTP/1.1 200")
    body = b""
    with contextlib.suppress(ConnectionError):
        while data := await asyncio.wait_for(peer.reader.read(1 << 16), 20):
            body += data
    assert body == stage.file()[: 100 * sent]
    monkeypatch.undo()
    assert (await stage.get(status + "/result")).body == stage.file()

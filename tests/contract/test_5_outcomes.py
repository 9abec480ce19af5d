"""CONTRACT §5, §11: outcomes in the job document."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import jsonschema
import pytest

from proxy.ports import StoreUnavailable
from tests.contract.conftest import SIZE, MakeStage, Stage

EVENT = json.loads((Path(__file__).parents[1] / "data/restore_session_event.json").read_text())


async def test_a_warning_of_the_sessions_event_is_the_jobs_status(make_stage: MakeStage) -> None:
    """§5 Warning: the file is complete and can be downloaded; `exports.watch_events` controls the
    look at the events.
    """
    for watch, status in (("true", "Warning"), ("false", "Success")):
        stage = await make_stage(EXPORTS__WATCH_EVENTS=watch, data=watch)
        stage.fault(event="Warning")
        path = await stage.begun(stage.export)
        over = await stage.finished(path)
        assert (over.json()["status"], over["AsyncResult"]) == (status, "200")
        assert over.json()["error"] is None
        assert (await stage.get(path + "/result")).body == stage.file()


async def test_events_of_other_exports_have_no_effect(stage: Stage) -> None:
    """§5: one that failed a moment ago, in the same session and of the same type."""
    stage.fault(outlook_missing=True, count=1)
    await stage.finished(await stage.begun(stage.export))
    assert (await stage.finished(await stage.begun(stage.export))).json()["status"] == "Success"


async def test_a_chunked_file_has_no_size_before_its_end(stage: Stage) -> None:
    """§5: unknown numbers are left out or null; the last chunk proves that the file is complete."""
    stage.fault(framing="chunked", stall_at=SIZE // 2)
    path = await stage.begun(stage.export)
    shown = (
        await stage.until(
            path, lambda document: document["result"] and document["result"]["format"]
        )
    ).json()
    assert "itemSizeBytes" not in shown
    assert (
        shown["result"]["size"],
        shown["progress"]["percent"],
        shown["progress"]["bytesTotal"],
    ) == (
        None,
        None,
        None,
    )
    stage.simulator.release()
    over = (await stage.finished(path)).json()
    assert (over["status"], over["itemSizeBytes"], over["progress"]["percent"]) == (
        "Success",
        SIZE,
        100,
    )


@pytest.mark.parametrize("lie", [5, -5])
async def test_a_body_shorter_than_its_length_is_never_success(
    make_stage: MakeStage, lie: int
) -> None:
    """§10: a body shorter than its Content-Length; a longer one ends where VB365 said it does."""
    stage = await make_stage(EXPORTS__ATTEMPTS="1")
    stage.fault(lie=lie, ignore_range=True)
    path = await stage.begun(stage.export)
    over = (await stage.finished(path)).json()
    if lie > 0:
        assert (over["status"], over["error"]["code"]) == ("Failed", "UpstreamTruncated")
        assert (await stage.get(path + "/result")).status == 409
    else:
        assert over["itemSizeBytes"] == SIZE + lie


@pytest.mark.parametrize("version", [6, 7, 8])
async def test_documents_of_every_version_are_valid_events(stage: Stage, version: int) -> None:
    """§5: a RESTRestoreSessionEvent, whatever the outcome of the job; so are the entries of the
    list.
    """
    export = stage.path_of(version=version)
    for fault in ({"hold": True}, {"outlook_missing": True}, {}):
        stage.simulator.faults.clear()
        if fault:
            stage.fault(**fault)
        response = await stage.kickoff(export)
        path = stage.path(response["Location"])
        if "hold" in fault:
            await stage.held()
            await stage.ask("POST", path + "/cancel")
        for shown in (response.json(), (await stage.finished(path)).json()):
            jsonschema.validate(shown, EVENT, format_checker=jsonschema.FormatChecker())
    page = (await stage.get(f"/v{version}/_async/exports")).json()
    assert [job["status"] for job in page["results"]] == ["Success", "Failed", "Cancelled"]


async def test_a_store_that_fails_is_503(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """§11 store-unavailable: for the kick-off and for every resource, with Retry-After."""
    status = await stage.done()

    async def broken(*_: object, **__: object) -> None:
        raise StoreUnavailable("the disk is gone")

    async def broken_parts(*_: object, **__: object) -> AsyncIterator[None]:
        await broken()
        yield

    for name in ("get", "add"):
        monkeypatch.setattr(f"proxy.stores.disk_jobs.store.DiskJobs.{name}", broken)
    monkeypatch.setattr("proxy.stores.disk_jobs.store.DiskJobs.newest", broken_parts)
    monkeypatch.setattr("proxy.stores.disk_jobs.store.DiskJobs.in_memory", lambda *_: None)
    for response in (
        await stage.kickoff(stage.export),
        await stage.get(status),
        await stage.get("/v8/_async/exports"),
    ):
        assert response.status == 503
        assert response.json()["type"] == "urn:vb365-async:problem:store-unavailable"
        assert "Retry-After" in response
        assert "disk" not in response.json()["detail"]
    assert stage.count_requests("exportToPst", "POST") == 1
    monkeypatch.undo()

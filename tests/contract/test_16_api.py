"""CONTRACT §16 `/api`: the state of the proxy, rows, and queries."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from proxy import __version__
from tests.contract.conftest import MakePlay, MakeStage, Stage
from tests.support.log_lines import logged
from tests.support.wire import Message, ask, raw

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


async def get(stage: Any, path: str, **fields: str) -> Message:
    return await ask(stage.running.admin_url, "GET", path, fields)


async def rows(stage: Any, query: str = "") -> list[Any]:
    response = await get(stage, f"/api/jobs{query}")
    assert response.status == 200, response
    return list(response.json()["results"])


async def delivered(stage: Any, id: str, count: int = 1) -> Any:
    """The row of the job once so many downloads are recorded."""
    async with asyncio.timeout(20):
        while True:
            row = (await get(stage, f"/api/jobs/{id}")).json()
            if row["delivered"]["count"] >= count:
                return row
            await asyncio.sleep(0.02)


def id_of(status: str) -> str:
    return status.rpartition("/")[2]


# status


async def test_the_status_has_the_figures_of_the_whole_proxy(make_stage: MakeStage) -> None:
    stage = await make_stage(EXPORTS__MAX_RUNNING="1", STORAGE__MAX_BYTES="1GiB")
    stage.fault(hold=True)
    running = await stage.begun(stage.export)
    await stage.begun(stage.path_of("items/save"))
    response = await get(stage, "/api/status")
    assert response.status == 200
    assert response["Content-Type"].startswith("application/json")
    assert response["Cache-Control"] == "no-store"
    status = response.json()
    assert status["version"] == __version__
    assert TIME.fullmatch(status["startedAt"])
    assert status["upstream"]["url"] == stage.simulator.url
    assert status["upstream"]["reachable"] is True
    assert status["upstream"]["reason"] is None
    assert status["jobs"] == {
        "running": 1,
        "queued": 1,
        "suspended": 0,
        "maxRunning": 1,
        "maxQueued": 1000,
    }
    storage = status["storage"]
    assert (storage["limitBytes"], storage["minFreeBytes"]) == (1 << 30, 1 << 20)
    assert storage["usedBytes"] == storage["promisedBytes"] == 0
    assert storage["freeBytes"] > 0
    assert status["replicas"] == []
    assert {name: check["ok"] for name, check in status["checks"].items()} == dict.fromkeys(
        ("upstream", "jobs", "artifacts", "space"), True
    )
    stage.simulator.release()
    await stage.finished(running)


async def test_the_status_says_why_vb365_is_not_reachable(make_stage: MakeStage) -> None:
    stage = await make_stage()
    assert (await get(stage, "/api/status")).json()["upstream"]["reachable"] is True
    await stage.simulator.stop()
    stage.clock.ahead += 5  # the last check is not valid any more
    upstream = (await get(stage, "/api/status")).json()["upstream"]
    assert upstream["reachable"] is False
    assert "no connection to 127.0.0.1" in upstream["reason"]
    assert TIME.fullmatch(upstream["since"])


async def test_the_status_and_the_metrics_have_the_same_storage(make_stage: MakeStage) -> None:
    stage = await make_stage()
    await stage.done()
    storage = (await get(stage, "/api/status")).json()["storage"]
    metrics = (await get(stage, "/metrics")).body.decode()
    for kind in ("used", "limit"):
        value = re.search(rf'storage_bytes{{kind="{kind}"}} (\S+)', metrics)
        assert value is not None
        known = storage[f"{kind}Bytes"]
        # other processes use the disk too
        assert float(value[1]) == pytest.approx(known, rel=0 if kind == "used" else 0.2)
    assert storage["usedBytes"] == len(stage.file())


# rows


async def test_a_row_is_the_job_document_with_what_an_operator_sees(stage: Stage) -> None:
    """§5 without `_links`, plus the members of §16; the same in the list and by its id."""
    status = await stage.done()
    await stage.get(status + "/result")
    job = id_of(status)
    row = await delivered(stage, job)
    document = (await stage.get(status)).json()
    del document["_links"]
    for each in (row, document):
        each["result"].pop("href")
    assert {name: row[name] for name in document} == document
    more = {name: row[name] for name in row if name not in document}
    assert set(more) == {"owner", "client", "replica", "delivered", "timeline"}
    assert re.fullmatch("[0-9a-f]{12}", more["owner"])
    assert (more["client"], more["replica"]) == ("127.0.0.1", None)
    assert (document["origin"], document["joined"]) == ("Async", 0)
    assert [each["event"] for each in more["timeline"]][:7] == [
        *("accepted", "queued", "claimed", "requested", "firstByte", "formatKnown", "finished")
    ]
    assert all(TIME.fullmatch(each["at"]) for each in more["timeline"])
    assert all(set(each) == {"at", "event", "detail"} for each in more["timeline"])
    (listed,) = await rows(stage)
    listed["result"].pop("href")
    assert listed == row


async def test_rows_have_no_credential_query_or_body(make_stage: MakeStage) -> None:
    stage = await make_stage()
    status = await stage.begun(f"{stage.export}?secret=canary1", body=b'{"x":"canary2"}')
    await stage.finished(status)
    found = (await get(stage, f"/api/jobs/{id_of(status)}")).body.decode()
    token = stage.fields["Authorization"].split()[1]
    for secret in ("canary1", "canary2", token):
        assert secret not in found


async def test_the_time_line_and_the_row_survive_a_restart(make_stage: MakeStage) -> None:
    stage = await make_stage()
    status = await stage.done()
    before = (await get(stage, f"/api/jobs/{id_of(status)}")).json()
    await stage.running.stop()
    again = await make_stage()
    assert (await get(again, f"/api/jobs/{id_of(status)}")).json() == before


async def test_a_job_that_does_not_exist_or_is_deleted_is_404(stage: Stage) -> None:
    status = await stage.done()
    await stage.ask("DELETE", status)
    for path, name in (
        (f"/api/jobs/{id_of(status)}", "job-deleted"),
        ("/api/jobs/5f0c6d3e-0000-4000-8000-000000000000", "job-not-found"),
        ("/api/jobs/nothing", "job-not-found"),
    ):
        response = await get(stage, path, **{"X-Request-Id": "abc"})
        assert response.status == 404
        assert response["Content-Type"] == "application/problem+json"
        assert response["X-Request-Id"] == "abc"
        problem = response.json()
        assert problem["type"] == f"urn:vb365-async:problem:{name}"
        assert (problem["status"], problem["requestId"], problem["instance"]) == (404, "abc", path)
        assert problem["detail"] == problem["message"]
    assert (await get(stage, "/api/jobs")).json()["total"] == 0


async def test_a_job_is_listed_as_soon_as_its_202_is_there(make_stage: MakeStage) -> None:
    stage = await make_stage()
    stage.fault(hold=True)
    for count in range(1, 6):
        status = await stage.begun(stage.export)
        found = (await get(stage, "/api/jobs?limit=1")).json()
        assert (found["total"], found["results"][0]["id"]) == (count, id_of(status))
        assert found["results"][0]["phase"] in ("Queued", "Generating")
    stage.simulator.release()


async def test_an_expired_file_is_shown_as_expired_without_a_sweeper(stage: Stage) -> None:
    """And a record that is over is not shown, as for its caller (§7)."""
    status = await stage.done()
    (row,) = await rows(stage)
    assert row["result"]["state"] == "Available"
    stage.clock.ahead += 24 * 3600
    (row,) = await rows(stage)
    assert (row["result"]["state"], row["status"]) == ("Expired", "Success")
    assert row["timeline"][-1]["event"] == "expired"
    stage.clock.ahead += 7 * 24 * 3600
    assert await rows(stage) == []
    assert (await get(stage, f"/api/jobs/{id_of(status)}")).status == 404


# queries


async def test_pages_filters_and_searches(make_stage: MakeStage) -> None:
    stage = await make_stage(EXPORTS__MAX_RUNNING="3")
    first = await stage.done()
    await stage.get(first + "/result")
    await delivered(stage, id_of(first))
    second = await stage.begun(stage.path_of("items/save"))
    await stage.finished(second)
    stage.fault(outlook_missing=True)
    third = await stage.begun(stage.export)
    await stage.finished(third)
    ids = [id_of(third), id_of(second), id_of(first)]
    session = stage.session.upper()
    for query, expected in (
        ("", ids),
        ("?offset=1", ids[1:]),
        ("?limit=2", ids[:2]),
        ("?offset=1&limit=1", ids[1:2]),
        ("?limit=0", []),
        ("?status=Failed", ids[:1]),
        ("?status=failed,success", ids),
        ("?status=failed&status=warning", ids[:1]),
        ("?phase=completed", ids),
        ("?phase=Queued", []),
        ("?delivered=true", ids[2:]),
        ("?delivered=false", ids[1:2]),
        (f"?q={ids[1]}", ids[1:2]),
        ("?q=SAVE", ids[1:2]),
        ("?q=outlook", ids[:1]),
        (f"?q={session}", ids),
        ("?q=exporttopst%20outlook", ids[:1]),
        ("?q=nothing-like-it", []),
        ("?sort=created", ids[::-1]),
        ("?sort=-creationTime", ids),
        ("?sort=status&status=Failed,Success&limit=1", ids[:1]),
        ("?sort=-size&limit=2&status=Success", ids[2:0:-1]),
    ):
        response = await get(stage, f"/api/jobs{query}")
        assert response.status == 200, (query, response)
        found = response.json()
        if "sort=-size" not in query:
            assert [row["id"] for row in found["results"]] == expected, query
    page = (await get(stage, "/api/jobs?offset=1&limit=1")).json()
    assert (page["offset"], page["limit"], page["total"]) == (1, 1, 3)
    assert set(page) == {"offset", "limit", "total", "results"}
    sizes = [row["itemSizeBytes"] for row in await rows(stage, "?sort=-size&status=Success")]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("query", "parts"),
    [
        ("offset=-1", ("offset", "-1", "from 0")),
        ("offset=x", ("offset", "'x'")),
        ("limit=1e3", ("limit", "1e3")),
        ("status=Running%20,Lost", ("status", "'Lost'", "Success")),
        ("phase=Forgotten", ("phase", "Forgotten", "Queued")),
        ("delivered=maybe", ("delivered", "maybe", "true or false")),
        ("sort=colour", ("sort", "colour", "creationTime")),
        ("sort=created&sort=ended", ("sort", "ended", "once")),
        ("q=" + "a" * 201, ("q", "201", "200")),
        ("q=" + "+".join("a" * 17), ("q", "17 words", "16")),
        ("state=Failed", ("state", "status")),
    ],
)
async def test_a_bad_parameter_is_named_with_its_value_and_the_fix(
    stage: Stage, query: str, parts: tuple[str, ...]
) -> None:
    response = await get(stage, f"/api/jobs?{query}")
    assert response.status == 400
    assert response.json()["type"] == "urn:vb365-async:problem:bad-request"
    for part in parts:
        assert part in response.json()["detail"]


async def test_a_large_limit_is_clamped(stage: Stage) -> None:
    assert (await get(stage, "/api/jobs?limit=5000")).json()["limit"] == 1000


async def test_unknown_paths_and_methods_are_problems(stage: Stage) -> None:
    response = await get(stage, "/api/nothing")
    assert (response.status, response.json()["type"]) == (404, "about:blank")
    response = await ask(stage.running.admin_url, "PUT", "/api/status", {"X-VB365-Admin": "1"})
    assert (response.status, response["Allow"]) == (405, "GET, HEAD")
    assert response.json()["type"] == "urn:vb365-async:problem:method-not-allowed"
    head = await ask(stage.running.admin_url, "HEAD", "/api/jobs")
    assert (head.status, head.body) == (200, b"")


async def test_a_failure_of_the_proxy_is_a_problem_that_tells_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(row: object, job: object) -> bytes:
        raise ValueError("secret")

    status = await stage.done()
    monkeypatch.setattr("proxy.admin.rows.Rows.encoded", fail)
    with logged() as log:
        response = await get(stage, f"/api/jobs/{id_of(status)}")
    assert (response.status, response.json()["type"]) == (500, "about:blank")
    assert response.json()["requestId"] == response["X-Request-Id"]
    assert b"secret" not in response.body
    assert log.named("admin request failed")


async def test_a_job_that_vb365_refuses_at_once_leaves_no_row(make_play: MakePlay) -> None:
    """§3.7: it is dropped."""

    async def script(request: Message) -> bytes:
        return raw("404 Not Found", body=b"{}")

    play = await make_play(script, EXPORTS__GRACE="10s", EXPORTS__PREFLIGHT="false")
    path = "/v8/RestoreSessions/s/organization/mailboxes/m/exportToPst"
    assert (await play.kickoff(path)).status == 404
    assert json.loads((await get(play, "/api/jobs")).body)["total"] == 0

"""docs/upstream.md §2, §4, §5: versions, errors, pages, links, sessions, events."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime

import pytest

from proxy.simulator.sessions import timestamp
from tests.unit.simulator.conftest import Client, Connect, Start

ORGANIZATION = "/v8/Organizations"


@pytest.mark.parametrize("version", ["v5", "v6", "v7", "v8", "V8"])
async def test_a_served_version_requires_credentials(
    sim: object, alice: Client, connect: Connect, version: str
) -> None:
    anonymous = await connect(alice.sim, None)
    assert (await anonymous.get(f"/{version}/ServiceInstance")).status == 401
    assert (await alice.get(f"/{version}/ServiceInstance")).json["version"]


@pytest.mark.parametrize(
    "target", ["/v4/ServiceInstance", "/v9/ServiceInstance", "/v8/Nothing", "/", "/nothing?a=b"]
)
async def test_an_unknown_path_is_404(alice: Client, target: str) -> None:
    reply = await alice.get(target)
    assert (reply.status, bool(reply.json["message"])) == (404, True)


async def test_a_wrong_method_is_404(alice: Client) -> None:
    assert (await alice.call("PUT", "/v8/ServiceInstance")).status == 404


async def test_health_needs_no_credentials_and_exists_in_v8_only(
    alice: Client, connect: Connect
) -> None:
    anonymous = await connect(alice.sim, None)
    assert (await anonymous.get("/v8/Health")).json["status"] == "Healthy"
    assert (await anonymous.get("/v7/Health")).status == 404


async def test_errors_have_the_members_of_their_version(alice: Client) -> None:
    """docs/upstream.md §4; the only errorCode of v7 does not apply to these errors."""
    bodies = [(await alice.get(f"/v{version}/RestoreSessions/x")).json for version in (6, 7, 8)]
    assert [set(body) for body in bodies] == [
        {"message"},
        {"message"},
        {"message", "errorCode", "stackTrace"},
    ]
    assert bodies[2]["errorCode"] == "ResourceNotFound"


async def test_pages_follow_offset_and_limit_and_are_linked(start: Start, connect: Connect) -> None:
    alice = await connect(await start(objects=75))
    path = f"/v8/RestoreSessions/{alice.sim.open_session().id}/organization/mailboxes"
    first = (await alice.get(path)).json
    assert (first["offset"], first["limit"], len(first["results"])) == (0, 30, 30)
    seen, link = [], f"{path}?limit=40"
    for expected in (40, 35):
        page = (await alice.get(link)).json
        assert len(page["results"]) == expected
        seen += [item["id"] for item in page["results"]]
        link = page["_links"].get("next", {}).get("href")
    assert link is None
    assert len(set(seen)) == 75
    assert (
        (await alice.get(f"{path}?offset=70&limit=3"))
        .json["_links"]["prev"]["href"]
        .endswith("offset=67&limit=3")
    )


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "offset=1.5", "limit=10001", "LIMIT="])
async def test_an_invalid_page_parameter_is_400(alice: Client, query: str) -> None:
    reply = await alice.get(f"/v8/RestoreSessions?{query}")
    assert (reply.status, reply.json["errorCode"]) == (400, "ParameterValidationFailure")


@pytest.mark.parametrize(("version", "absolute"), [(5, True), (6, False), (7, False), (8, False)])
async def test_links_are_relative_from_v6_on(alice: Client, version: int, absolute: bool) -> None:
    alice.sim.open_session()
    page = (await alice.get(f"/v{version}/RestoreSessions")).json
    links = [page["_links"]["self"]["href"], page["results"][0]["_links"]["self"]["href"]]
    assert [link.startswith(alice.sim.url + f"/v{version}/") for link in links] == [
        absolute,
        absolute,
    ]
    assert all(absolute or link.startswith(f"/v{version}/") for link in links)


async def test_every_link_of_every_object_can_be_followed(alice: Client) -> None:
    """From the organization of the session down to single objects."""
    todo, seen = [f"/v8/RestoreSessions/{alice.sim.open_session().id}/organization"], 0
    while todo:
        document = (await alice.get(todo.pop())).json
        seen += 1
        for one in document.get("results", []):
            assert (await alice.get(one["_links"]["self"]["href"])).json["_links"] == one["_links"]
        todo += [
            link["href"]
            for name, link in document["_links"].items()
            if name not in ("self", "prev", "next")
        ]
    assert seen == 1 + 4  # the organization and its collections


async def test_tenants_see_their_own_organization_and_operators_all(
    alice: Client, connect: Connect
) -> None:
    names = {
        user: [
            one["name"]
            for one in (await (await connect(alice.sim, user)).get(ORGANIZATION)).json["results"]
        ]
        for user in ("alice", "carol", "operator")
    }
    assert names["alice"] == ["contoso.onmicrosoft.com"]
    assert names["carol"] == ["fabrikam.onmicrosoft.com"]
    assert names["operator"] == names["alice"] + names["carol"]
    foreign = (await (await connect(alice.sim, "carol")).get(ORGANIZATION)).json["results"][0]["id"]
    assert (await alice.get(f"{ORGANIZATION}/{foreign}")).status == 404
    assert (await alice.get("/v8/Organization")).json["name"] == names["alice"][0]


@pytest.mark.parametrize(
    ("version", "started", "stopped"), [(6, 200, 200), (7, 200, 200), (8, 201, 204)]
)
async def test_a_session_is_started_listed_and_stopped(
    alice: Client, version: int, started: int, stopped: int
) -> None:
    page = (await alice.get(f"/v{version}/Organizations")).json
    organization = (page["results"] if version == 8 else page)[0]  # a page from v8 on
    reply = await alice.post(
        organization["_links"]["explore"]["href"], json={"type": "veod", "dateTime": None}
    )
    assert (reply.status, reply.json["type"], reply.json["state"]) == (started, "Veod", "Working")
    assert ("eTag" in reply.json) == (version == 8)
    own = f"/v{version}/RestoreSessions/{reply.json['id']}"
    assert (await alice.get(f"/v{version}/RestoreSessions?limit=1")).json["results"][0][
        "id"
    ] == reply.json["id"]
    assert (await alice.post(f"{own}/Stop")).status == stopped
    assert (await alice.get(own)).json["state"] == "Stopped"
    assert (await alice.get(f"{own}/organization/mailboxes")).status == 404
    assert (await alice.post(f"{own}/organization/exportToPst")).status == 404


async def test_tenants_start_a_session_for_their_own_organization(alice: Client) -> None:
    assert (await alice.post("/v8/Organization/Explore", json={})).json["type"] == "Vex"
    assert (await alice.post("/v8/Organization/explore", json={"type": "Vxx"})).status == 400


@pytest.mark.parametrize("status", [403, 404])
async def test_the_session_of_another_user_is_refused(
    start: Start, connect: Connect, status: int
) -> None:
    sim = await start(foreign_session=status)
    bob, operator = await connect(sim, "bob"), await connect(sim, "operator")
    own = f"/v8/RestoreSessions/{sim.open_session('alice').id}"
    for target in ("", "/Events", "/organization/mailboxes"):
        assert (await bob.get(own + target)).status == status
    assert (await bob.post(f"{own}/organization/exportToPst")).status == status
    assert (await bob.get("/v8/RestoreSessions")).json["results"] == []
    assert (await operator.get(own)).status == 200


async def test_an_idle_session_stops(start: Start, connect: Connect) -> None:
    clock = [1000.0]
    alice = await connect(await start(now=lambda: clock[0], session_idle=60.0))
    own = f"/v8/RestoreSessions/{alice.sim.open_session().id}"
    clock[0] += 60
    assert (await alice.get(own)).json["state"] == "Working"
    clock[0] += 61
    assert (await alice.get(own)).json["state"] == "Stopped"


async def test_a_removed_session_is_404(alice: Client) -> None:
    session = alice.sim.open_session()
    alice.sim.sessions.remove(session.id)
    assert (await alice.get(f"/v8/RestoreSessions/{session.id}")).status == 404


def test_times_have_seven_fractional_digits_and_the_utc_offset_of_the_server() -> None:
    """docs/upstream.md §2."""
    text = timestamp(1_795_000_000.1234567, 120)
    assert re.fullmatch(r"2026-11-1\dT\d\d:\d\d:\d\d\.\d{7}\+02:00", text)
    assert abs(datetime.fromisoformat(text).timestamp() - 1_795_000_000.1234567) < 1e-5


@pytest.mark.parametrize("version", [6, 7, 8])
async def test_the_event_of_an_export_is_running_and_then_has_its_final_status(
    alice: Client, version: int
) -> None:
    session = alice.sim.open_session()
    path = alice.sim.export_paths(session, version)[0]
    alice.sim.fault(path="exportToPst", hold=True)
    export = asyncio.create_task(alice.post(path))
    await alice.sim.until(lambda: alice.sim.held == 1)
    events = f"/v{version}/RestoreSessions/{session.id}/Events"
    running = (await alice.get(events)).json["results"][0]
    assert (running["type"], running["status"], running["endTime"]) == ("Export", "Running", None)
    assert re.search(r"\.\d{7}[+-]\d\d:\d\d$", running["startTime"])
    assert ("organizationId" in running) == (version == 8)
    alice.sim.release()
    await export
    done = (await alice.get(f"{events}?offset=0&limit=1")).json["results"][0]
    assert (done["status"], done["id"]) == ("Success", running["id"])
    assert (await alice.get(done["_links"]["self"]["href"])).json["id"] == done["id"]
    assert (await alice.get(f"{events}/{session.id}")).status == 404


async def test_a_save_adds_a_save_event(alice: Client) -> None:
    session = alice.sim.open_session()
    await alice.post(
        next(path for path in alice.sim.export_paths(session) if path.endswith("/Save"))
    )
    assert session.events[0].type == "Save"


async def test_statistics_exist_in_v8_only(alice: Client) -> None:
    session = alice.sim.open_session()
    alice.sim.fault(event="Warning")
    await alice.post(alice.sim.export_paths(session)[0])
    own = f"/RestoreSessions/{session.id}/Statistics"
    assert (await alice.get(f"/v7{own}")).status == 404
    statistics = (await alice.get(f"/v8{own}")).json
    assert (statistics["totalItemsCount"], len(statistics["warnings"])) == (1, 1)


async def test_the_event_feed_is_a_long_poll(alice: Client) -> None:
    """docs/upstream.md §2: GET /v8/Events?timeoutSeconds=N waits up to N seconds for a change."""
    empty = (await alice.get("/v8/Events?from=latest")).json
    assert empty["results"] == []
    poll = asyncio.create_task(
        alice.get(f"/v8/Events?from={empty['nextChangeToken']}&timeoutSeconds=20")
    )
    await alice.sim.until(lambda: "timeoutSeconds" in alice.sim.requests[-1].target)
    assert not poll.done()
    alice.sim.open_session("bob")
    session = alice.sim.open_session("alice")
    feed = (await poll).json
    assert [one["id"] for one in feed["results"]] == [session.id]
    assert (await alice.get("/v8/Events?from=old")).json["errorCode"] == "OutdatedChangeToken"
    assert (await alice.get("/v7/Events?from=latest")).status == 404


async def test_head_is_get_without_a_body(alice: Client) -> None:
    reply = await alice.call("HEAD", "/v8/ServiceInstance")
    assert (reply.status, reply.body) == (200, b"")
    assert int(reply.headers["Content-Length"]) > 0

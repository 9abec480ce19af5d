"""docs/upstream.md §6: the client veeam-365 works with the simulator as with VB365."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from veeam_365.client import VeeamClient
from veeam_365.discovery import detect_api_version
from veeam_365.exceptions import VeeamAuthenticationError, VeeamSessionError

from proxy.simulator import Simulator

VERSIONS = ("v6", "v7", "v8")


@pytest.fixture(params=VERSIONS)
async def vc(request: pytest.FixtureRequest, sim: Simulator) -> AsyncIterator[Any]:
    """A client for each API version, logged in."""
    async with VeeamClient(sim.url, "alice", "secret-a", request.param, timeout=20) as client:
        await client.connect()
        yield client


async def call(vc: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """Return the parsed model; fail if it is an error."""
    parsed = await vc.call(vc.api(name), *args, **kwargs)
    assert type(parsed).__name__ != "RESTExceptionInfo", parsed
    return parsed


def model(vc: Any, name: str, **fields: Any) -> Any:
    module = importlib.import_module(f"{vc.package}.models")
    return getattr(module, name)(**fields)


async def open_session(vc: Any, sim: Simulator) -> UUID:
    """Start a restore session through the client and return its id."""
    session = await call(
        vc, "restore_session.restore_session_explore_action", body=model(vc, "RESTExploreOptions")
    )
    assert session.id == UUID(next(iter(sim.sessions.list(sim.settings.user("alice")))).id)
    return UUID(str(session.id))


async def test_the_newest_version_is_detected(sim: Simulator) -> None:
    assert await detect_api_version(sim.url) == "v8"


async def test_a_wrong_password_is_an_authentication_error(sim: Simulator) -> None:
    async with VeeamClient(sim.url, "alice", "wrong", "v8", timeout=20) as client:
        with pytest.raises(VeeamAuthenticationError, match="password is incorrect"):
            await client.connect()


async def test_a_rejected_token_ends_the_session_and_the_next_call_logs_in(sim: Simulator) -> None:
    async with VeeamClient(sim.url, "alice", "secret-a", "v8", timeout=20) as client:
        await client.connect()
        sim.tokens.expire()
        with pytest.raises(VeeamSessionError):
            await client.call(client.api("service_instance.service_instance_get"))
        assert (await client.call(client.api("service_instance.service_instance_get"))).version


async def test_organizations_are_listed(vc: Any) -> None:
    page = await call(vc, "organization.organization_get")
    listed = page.results if hasattr(page, "results") else page
    assert [one.name for one in listed] == ["contoso.onmicrosoft.com"]


async def test_sessions_and_events_are_listed(vc: Any, sim: Simulator) -> None:
    own = await open_session(vc, sim)
    sessions = await call(vc, "restore_session.restore_session_get_page", limit=1)
    assert sessions.results[0].id == own
    await call(vc, "restore_session.restore_session_get_by_restore_session_id", own)
    session = sim.sessions.get(str(own))
    assert session is not None
    sim.sessions.begin(session, "Export", "exportToPst", "x")
    events = await call(vc, "restore_session_event.restore_session_event_get", own)
    assert [(one.type_.value, one.status.value) for one in events.results] == [
        ("Export", "Running")
    ]


async def test_the_parents_of_exports_can_be_listed(vc: Any, sim: Simulator) -> None:
    """Every page parses into the models of the client."""
    own = await open_session(vc, sim)

    async def first(name: str, *parents: Any) -> Any:
        one = (await call(vc, name, own, *parents)).results[0]
        return getattr(one, "post_id", None) or one.id

    mailbox = await first("exchange_mailbox.exchange_mailbox_get")
    await first("exchange_folder.exchange_folder_get", mailbox)
    await first("exchange_item.exchange_item_get", mailbox)
    drive = await first("one_drive.one_drive_get")
    await first("one_drive_document.one_drive_document_get", drive)
    await first("one_drive_folder.one_drive_folder_get", drive)
    site = await first("share_point_site.share_point_site_get")
    await first("share_point_document.share_point_document_get", site)
    await first("share_point_folder.share_point_folder_get", site)
    await first("share_point_library.share_point_library_get", site)
    item = await first("share_point_item.share_point_item_get", site)
    await first("share_point_attachment.share_point_attachment_get", site, item)
    team = await first("teams_team.teams_team_get")
    channel = await first("teams_channel.teams_channel_get", team)
    for name in ("teams_file.teams_file_get_page", "teams_post.teams_post_get_page"):
        assert (await call(vc, name, own, team, channel_id=channel)).results


async def test_a_session_is_stopped(vc: Any, sim: Simulator) -> None:
    own = await open_session(vc, sim)
    await vc.call(vc.api("restore_session.restore_session_stop_action"), own)
    session = sim.sessions.get(str(own))
    assert session is not None
    assert not session.working


async def test_errors_parse_into_the_model_of_the_client(vc: Any) -> None:
    missing = UUID(int=0)
    parsed = await vc.call(
        vc.api("restore_session.restore_session_get_by_restore_session_id"), missing
    )
    assert (type(parsed).__name__, bool(parsed.message)) == ("RESTExceptionInfo", True)


async def test_feed_health_and_statistics_of_v8(sim: Simulator) -> None:
    async with VeeamClient(sim.url, "alice", "secret-a", "v8", timeout=20) as client:
        await client.connect()
        own = await open_session(client, sim)
        assert (await call(client, "health.health_get")).status.value == "Healthy"
        assert (await call(client, "events.events_get", from_="0")).results[0].id == str(own)
        assert (
            await call(client, "restore_session.restore_session_get_restore_statistics", own)
        ).items == []

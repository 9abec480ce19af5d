"""The commands that list what is in VB365, against the simulator (CONTRACT §15)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.client import output
from tests.unit.client.conftest import Stack, commanded

USER = {"VB365_USERNAME": "operator", "VB365_PASSWORD": "secret-o"}


@pytest.fixture
def listed(stack: Stack) -> Any:
    """Run a command as an operator, who sees all organizations."""

    def _listed(*line: str) -> str:
        result = commanded(*line, **USER, VB365_URL=stack.url)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    return _listed


def test_organizations_are_lines_of_tab_separated_values(listed: Any) -> None:
    """In a pipe, without a heading and whole."""
    lines = [line.split("\t") for line in listed("organizations").splitlines()]
    assert [line[0] for line in lines] == ["contoso.onmicrosoft.com", "fabrikam.onmicrosoft.com"]
    assert all(len(line) == 3 for line in lines)
    found = json.loads(listed("organizations", "--filter", "FABRI", "--json"))
    assert [each["name"] for each in found] == ["fabrikam.onmicrosoft.com"]


def test_fields_choose_members_of_the_json(listed: Any) -> None:
    """In their order; a member that is not there is null, or empty."""
    line = ("organizations", "--filter", "fabri", "--fields", "name, _links.self,id.x,isBackedup")
    [found] = json.loads(listed(*line, "--json"))
    assert list(found) == ["name", "_links.self", "id.x", "isBackedup"]
    assert found["name"] == "fabrikam.onmicrosoft.com"
    assert found["_links.self"]["href"].startswith("/v8/Organizations/")
    cells = listed(*line).rstrip("\n").split("\t")
    assert (cells[0], json.loads(cells[1])) == (found["name"], found["_links.self"])
    assert (found["id.x"], cells[2]) == (None, "")
    assert (found["isBackedup"], cells[3]) == (True, "true")


@pytest.mark.parametrize("api", ["v6", "v7", "v8"])
def test_every_api_version_is_understood(listed: Any, api: str) -> None:
    """Before v8, the organizations are an array without pages."""
    assert len(listed("organizations", "--api", api).splitlines()) == 2
    line = ("mailboxes", "--api", api, "--organization", "fabrikam.onmicrosoft.com")
    assert "bob\tbob@fabrikam.com\t\t" in listed(*line)


@pytest.mark.parametrize(
    ("plural", "first"),
    [
        ("mailboxes", "alice\talice@contoso.com\t\t"),
        ("onedrives", "user1\thttps://contoso-my.sharepoint.com/personal/user1\t\t"),
        ("sites", "Site 1\thttps://contoso.sharepoint.com/sites/site1\t\t"),
        ("teams", "Team 1\t\t\t"),
    ],
)
def test_objects_are_listed_from_a_session_of_their_type(
    stack: Stack, listed: Any, plural: str, first: str
) -> None:
    """It is stopped at the end. One that is given is used instead."""
    lines = listed(plural, "--organization", "contoso.onmicrosoft.com").splitlines()
    assert (len(lines), lines[0].startswith(first)) == (4, True)
    sessions = [line.split("\t") for line in listed("sessions").splitlines()]
    assert {line[2] for line in sessions} == {"Stopped"}


def test_a_session_is_listed_used_and_stopped(stack: Stack, listed: Any) -> None:
    session = stack.simulator.open_session("operator")
    assert f"{session.id}\tVex\tWorking\t" in listed("sessions", "list")
    lines = listed("mailboxes", "--session", session.id, "--filter", "bob@").splitlines()
    assert [line.split("\t")[1] for line in lines] == ["bob@contoso.com"]
    assert listed("sessions", "stop", session.id) == ""
    assert not session.working


def test_all_pages_are_read(stack: Stack, listed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.client.vb365._PAGE", 3)
    session = stack.simulator.open_session("operator")
    assert len(listed("mailboxes", "--session", session.id).splitlines()) == 4
    stack.simulator.sessions.stop(session)


def test_a_terminal_shows_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """With names, and no row is cut or has control characters."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    shown = output.listing(("name", "id"), [("日本", "1"), ("a\x1b[2J", "x" * 300)])
    assert shown.splitlines() == [
        "NAME      ID",
        "日本      1",
        "a\\x1b[2J  " + "x" * 300,
    ]

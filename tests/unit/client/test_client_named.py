"""`export mailbox|onedrive|site|team`: from a name to a verified file, against the simulator."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from proxy.client.errors import CommandError
from proxy.client.objects import MAILBOX, TEAM, entry, pick
from proxy.client.vb365 import segment
from proxy.simulator import Kind, expected_sha256
from tests.support.commands import started
from tests.unit.client.conftest import SIZE, Stack, commanded

LOGIN = {"VB365_PASSWORD": "secret-a"}


@pytest.fixture
def alice(stack: Stack, here: Path) -> Iterator[Stack]:
    """She is logged in, and nothing is asked of VB365 before the test."""
    result = commanded("login", stack.url, "--username", "alice", **LOGIN)
    assert result.exit_code == 0, result.stderr
    stack.simulator.requests.clear()
    yield stack
    assert not [
        each
        for each in stack.simulator.sessions.list(stack.simulator.settings.users[0])
        if each.working
    ]


def explored(stack: Stack) -> list[dict[str, str]]:
    return [
        json.loads(each.body)
        for each in stack.simulator.requests
        if each.target.endswith("/explore")
    ]


def test_a_mailbox_is_exported_by_its_address(alice: Stack, here: Path) -> None:
    """The session is opened with the type of the object and stopped at the end; the file holds what
    VB365 sent.
    """
    result = commanded("export", "mailbox", "Bob@contoso.com", "--at", "2026-11-01T00:00Z")
    assert result.exit_code == 0, result.stderr
    file = here / result.stdout.strip()
    assert file.suffix == ".pst"
    assert sha256(file.read_bytes()).hexdigest() == expected_sha256(SIZE, Kind.PST)
    (options,) = explored(alice)
    assert (options["type"], options["dateTime"]) == ("Vex", "2026-11-01T00:00:00Z")
    for line in ("Opening a restore session: Exchange", "SHA-256 verified", "session is stopped"):
        assert line in result.stderr


@pytest.mark.parametrize(
    ("line", "type", "path", "body", "suffix"),
    [
        (
            ("mailbox", "bob", "--folder", "Folder 2"),
            "Vex",
            r"mailboxes/[^/]+/folders/[^/]+/exportToPst",
            "{}",
            ".pst",
        ),
        (
            ("mailbox", "bob", "--max-size", "1"),
            "Vex",
            r"mailboxes/[^/]+/exportToPst",
            '{"enablePstSizeLimit": true, "pstSizeLimitBytes": 1073741824}',
            ".pst",
        ),
        (("onedrive", "user2"), "Veod", r"OneDrives/[^/]+/save", "", ".zip"),
        (
            ("site", "Site 1", "--library", "library 2"),
            "Vesp",
            r"Sites/[^/]+/Libraries/[^/]+/save",
            "",
            ".zip",
        ),
        (
            ("team", "Team 1", "--channel", "Channel 2"),
            "Vet",
            r"teams/[^/]+/files/save",
            "channelId",
            ".zip",
        ),
        (
            ("team", "Team 1", "--channel", "Channel 2", "--posts"),
            "Vet",
            r"teams/[^/]+/posts/export",
            "channelId",
            ".html",
        ),
    ],
)
def test_each_kind_has_its_type_of_session_and_its_export(
    alice: Stack, here: Path, line: tuple[str, ...], type: str, path: str, body: str, suffix: str
) -> None:
    result = commanded("export", *line)
    assert result.exit_code == 0, result.stderr
    assert Path(result.stdout.strip()).suffix == suffix
    assert explored(alice)[0]["type"] == type
    (export,) = [each for each in alice.simulator.requests if re.search(f"{path}$", each.target)]
    assert body in export.body.decode()
    assert export.method == "POST"


_CHANNEL = ("--channel", "Channel 2")
_POSTS = ("--item", "Post 1", "--item", "post 3")


@pytest.mark.parametrize(
    ("line", "path", "body", "suffix"),
    [
        (
            ("mailbox", "bob", "--item", "Mail 1", "--item", "mail 3", "--max-size", "1"),
            r"mailboxes/[^/]+/items/exportToPst",
            {"items": ["id", "id"], "enablePstSizeLimit": True, "pstSizeLimitBytes": 1 << 30},
            ".pst",
        ),
        (
            ("mailbox", "bob", "--item", "Mail 1", "--item", "Mail 2", "--msg"),
            r"mailboxes/[^/]+/items/Save",
            {"items": ["id", "id"]},
            ".zip",
        ),
        (
            ("mailbox", "bob", "--folder", "Folder 1", "--item", "Mail 2", "--msg"),
            r"mailboxes/[^/]+/items/[^/]+/save",
            None,
            ".msg",
        ),
        (
            ("onedrive", "user2", "--item", "Document 1.txt"),
            r"OneDrives/[^/]+/Documents/[^/]+/save",
            {"asZip": False},
            ".txt",
        ),
        (
            ("onedrive", "user2", "--folder", "Folder 3"),
            r"OneDrives/[^/]+/Folders/[^/]+/save",
            None,
            ".zip",
        ),
        (
            ("site", "Site 1", "--item", "Document 1.txt", "--item", "Document 2.txt"),
            r"Sites/[^/]+/Documents/save",
            {"documents": ["id", "id"]},
            ".zip",
        ),
        (
            ("site", "Site 1", "--folder", "Folder 2"),
            r"Sites/[^/]+/Folders/[^/]+/save",
            None,
            ".zip",
        ),
        (
            ("team", "Team 1", "--channel", "Channel 2", "--item", "File 4.txt"),
            r"teams/[^/]+/files/save",
            {"files": ["id"]},
            ".zip",
        ),
        (
            ("team", "Team 1", *_CHANNEL, "--posts", "--item", "Post 1"),
            r"teams/[^/]+/posts/\d+/export",
            None,
            ".html",
        ),
        (
            ("team", "Team 1", *_CHANNEL, "--posts", "--item", "Post 2", "--msg"),
            r"teams/[^/]+/posts/\d+/save",
            None,
            ".msg",
        ),
        (
            ("team", "Team 1", *_CHANNEL, "--posts", *_POSTS),
            r"teams/[^/]+/posts/export",
            {"channelId": "id", "posts": ["id", "id"]},
            ".html",
        ),
        (
            ("team", "Team 1", *_CHANNEL, "--posts", *_POSTS, "--msg"),
            r"teams/[^/]+/posts/save",
            {"channelId": "id", "posts": ["id", "id"]},
            ".zip",
        ),
    ],
)
def test_items_and_folders_are_exported_by_their_names(
    alice: Stack,
    here: Path,
    line: tuple[str, ...],
    path: str,
    body: dict[str, Any] | None,
    suffix: str,
) -> None:
    """The body names objects that VB365 has, as it needs them."""
    result = commanded("export", *line)
    assert result.exit_code == 0, result.stderr
    assert Path(result.stdout.strip()).suffix == suffix
    (export,) = [each for each in alice.simulator.requests if re.search(f"{path}$", each.target)]
    sent = json.loads(export.body) if export.body else None
    if sent is not None:
        for name in sent.keys() & {"items", "documents", "files", "posts"}:
            assert not [each for each in sent[name] if "_links" in each]
            sent[name] = ["id" for each in sent[name] if each.get("id") or each["postId"]]
        sent |= {"channelId": "id"} if sent.get("channelId") else {}
    assert sent == body


def test_items_are_looked_for_in_the_folder_or_channel(alice: Stack, here: Path) -> None:
    for line in (
        ("mailbox", "bob", "--folder", "Folder 1", "--item", "Mail 2"),
        ("onedrive", "user2", "--folder", "Folder 1", "--item", "Document 2.txt"),
        ("team", "Team 1", "--channel", "Channel 2", "--item", "File 4.txt"),
    ):
        assert commanded("export", *line).exit_code == 0
    asked = [each for each in alice.paths("GET") if re.search("/(items|Documents|files)[?]", each)]
    assert [bool(re.search("&(parentId|channelId)=[^&]+$", each)) for each in asked] == [True] * 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            ("mailbox", "bob", "--msg"),
            "--msg needs --item, and --keyword excludes it",
        ),
        (("site", "x", "--library", "y", "--item", "z"), "--library is not for --folder or"),
        (("team", "x", "--posts", "--msg"), "--msg is for --posts and --item"),
        (("team", "x", "--item", "z", "--msg"), "--msg is for --posts and --item"),
        (("site",), "Name what to export, or use --from FILE"),
    ],
)
def test_options_that_exclude_each_other(alice: Stack, line: tuple[str, ...], message: str) -> None:
    result = commanded("export", *line)
    assert (result.exit_code, message in result.stderr, alice.paths()) == (2, True, [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("mailbox", "bob", "--item", "Mail 9"), "There is no item 'Mail 9' among the 4 items"),
        (("mailbox", "dave@contoso.com"), "There is no mailbox 'dave@contoso.com' among the 4"),
        (("mailbox", "bob@contosso.com"), "Similar:\n  bob <bob@contoso.com> "),
        (("site", "Site 1"), "There are 4 libraries. Name one with --library:\n  Library 1"),
        (("site", "Site 1", "--library", "x"), "There is no library 'x' among the 4 libraries"),
        (("mailbox", "bob", "--organization", "fabrikam"), "There is no organization 'fabrikam'"),
        (("mailbox", "bob", "--at", "yesterday"), "--at: 'yesterday' is not a time such as"),
        (("mailbox", "bob", "--no-download"), "use it with --session or --wait"),
        (("mailbox", "bob", "--at", "2026-11-01", "--session", "x"), "--at is of a new"),
    ],
)
def test_what_cannot_be_found_is_named_with_the_candidates(
    alice: Stack, line: tuple[str, ...], message: str
) -> None:
    """Nothing is exported."""
    result = commanded("export", *line)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert not [target for target in alice.paths() if "exportToPst" in target]


def test_an_operator_names_the_organization(alice: Stack, here: Path) -> None:
    """The error lists them; the profile can hold one."""
    login = ("login", alice.url, "--username", "operator", "--profile", "op")
    secret = {"VB365_PASSWORD": "secret-o"}
    assert commanded(*login, **secret).exit_code == 0
    export = ("export", "mailbox", "carol@fabrikam.com", "--profile", "op")
    result = commanded(*export)
    assert (result.exit_code, "fabrikam.onmicrosoft.com" in result.stderr) == (2, True)
    assert commanded(*export, "--organization", "fabrikam.onmicrosoft.com").exit_code == 0
    assert commanded(*login, "--organization", "fabrikam.onmicrosoft.com", **secret).exit_code == 0
    assert commanded(*export).exit_code == 0


def test_a_session_that_is_given_is_used_and_stays_open(alice: Stack, here: Path) -> None:
    session = alice.simulator.open_session("alice")
    result = commanded("export", "mailbox", "bob@contoso.com", "--session", session.id)
    assert result.exit_code == 0, result.stderr
    assert explored(alice) == []
    assert session.working
    alice.simulator.sessions.stop(session)


def test_after_a_failed_export_the_session_is_stopped(alice: Stack) -> None:
    alice.simulator.fault(path="exportToPst", count=1, outlook_missing=True)
    result = commanded("export", "mailbox", "bob@contoso.com")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "The restore session is stopped." in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_is_cancelled_and_its_session_stopped(
    alice: Stack, number: signal.Signals
) -> None:
    """VB365 cannot go on without the session that the command had opened."""
    alice.simulator.fault(path="exportToPst", count=1, hold=True)
    with started("export", "mailbox", "bob@contoso.com", env=dict(os.environ)) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any("202 Accepted" in line for line in lines)
        process.send_signal(number)
        rest = "".join(lines)
        assert process.wait(20) == 128 + number
    alice.simulator.release()
    assert "The export is being cancelled." in rest
    assert "The restore session is stopped." in rest


def test_a_session_that_cannot_be_stopped_is_named(alice: Stack, here: Path) -> None:
    alice.simulator.fault(path="/Stop", count=1, status=500)
    result = commanded("export", "mailbox", "bob@contoso.com")
    assert result.exit_code == 0
    (session,) = re.findall("vb365-async-proxy sessions stop ([0-9a-f-]{36})", result.stderr)
    found = alice.simulator.sessions.get(session)
    assert found is not None
    alice.simulator.sessions.stop(found)


@pytest.mark.parametrize("id", ["x; rm -rf ~", "../../Jobs", "", "a\x1b[2J"])
def test_a_hostile_id_of_a_session_ends_the_command(alice: Stack, id: str) -> None:
    body = json.dumps({"id": id})
    alice.simulator.fault(path="/explore", count=1, status=201, body=body)
    result = commanded("export", "mailbox", "bob@contoso.com")
    assert result.exit_code == 1
    assert "is not the id of a restore session" in result.stderr
    assert "\x1b" not in result.stderr


def test_text_of_vb365_cannot_control_the_terminal(alice: Stack) -> None:
    """The names of candidates are what the users of a tenant chose."""
    names = [
        {"id": "1", "name": "bob\x1b]0;x\x07", "email": "\u202e" + "b" * 5000},
        {"id": "2", "name": "bob"},
    ]
    body = json.dumps({"results": names})
    alice.simulator.fault(path="mailboxes", count=1, status=200, body=body)
    result = commanded("export", "mailbox", "bo")
    assert result.exit_code == 2
    assert not set("\x1b\x07\u202e") & set(result.output)
    assert len(result.stderr) < 1000


def test_an_object_of_another_folder_cannot_be_named_by_an_id() -> None:
    """An id is one segment of the path."""
    assert segment("a/../b?c#d") == "a%2F..%2Fb%3Fc%23d"
    for each in ("", ".", ".."):
        with pytest.raises(CommandError):
            segment(each)


def test_an_address_goes_before_a_name_and_a_mailbox_before_its_archive() -> None:
    def found(*documents: dict[str, Any], name: str) -> str:
        return pick(MAILBOX, [entry(MAILBOX, each) for each in documents], name, "x").id

    mail: dict[str, Any] = {"id": "1", "name": "Carol", "email": "c@x"}
    archive = {"id": "2", "name": "Carol", "email": "c@x", "isArchive": True}
    assert found(mail, archive, name="C@X") == "1"
    assert found(mail, archive, name="2") == "2"
    assert found(mail, {"id": "3", "name": "c@x", "email": "d@x"}, name="c@x") == "1"
    with pytest.raises(
        CommandError, match=r"(?s)2 mailboxes in x match 'carol'.*\n  Carol <c@x> 1\n"
    ):
        found(mail, {"id": "4", "name": "Carol", "email": "e@x"}, name="carol")


@pytest.mark.parametrize("document", [None, {}, {"id": None}, {"id": []}, "x"])
def test_an_object_without_an_id_is_an_error(document: object) -> None:
    with pytest.raises(CommandError, match="VB365 sent a team without an id"):
        entry(TEAM, document)

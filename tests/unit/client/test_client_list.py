"""`export mailbox --from list.csv`: many exports, against the simulator (CONTRACT §15)."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any
from unittest.mock import AsyncMock

import pytest

from proxy.client.batch import State, filled, read_rows
from proxy.client.errors import CommandError, ErrorResponse, Unreachable
from proxy.client.objects import MAILBOX
from proxy.client.proxy import Proxy
from proxy.simulator import Kind, expected_sha256
from tests.support.commands import started
from tests.unit.client.conftest import SIZE, Stack, commanded

AT = "2026-11-01T00:00"
LINE = ("export", "mailbox", "--from", "list.csv", "--at", AT)
CONTINUED = (*LINE, "--state", "state.json", "--parallel", "2")


@pytest.fixture
def alice(stack: Stack, here: Path) -> Iterator[Stack]:
    """She is logged in, and no restore session is open before or after the test."""
    login = ("login", stack.url, "--username", "alice")
    assert commanded(*login, VB365_PASSWORD="secret-a").exit_code == 0
    (here / "list.csv").write_text(
        "department,mailbox\nx,alice@contoso.com\ny,bob@contoso.com\nz,carol\n", encoding="utf-8"
    )
    stack.simulator.requests.clear()
    yield stack
    user = stack.simulator.settings.users[0]
    assert not [each for each in stack.simulator.sessions.list(user) if each.working]


def generated(stack: Stack) -> int:
    return len([target for target in stack.paths() if target.endswith("/exportToPst")])


def is_whole(path: Path) -> bool:
    return sha256(path.read_bytes()).hexdigest() == expected_sha256(SIZE, Kind.PST)


def test_all_mailboxes_of_a_list_are_exported_from_one_session(alice: Stack, here: Path) -> None:
    """With a line for each and a total on stderr, and a row for each on stdout."""
    result = commanded(*LINE, "--output", "out/{number}-{mailbox}-{date}.pst", "--parallel", "2")
    assert result.exit_code == 0, result.stderr
    names = ["alice@contoso.com", "bob@contoso.com", "carol"]
    files = [f"out/{n}-{name}-2026-11-01.pst" for n, name in enumerate(names, 1)]
    expected = [f"{name}\tSuccess\t{file}" for name, file in zip(names, files, strict=True)]
    assert result.stdout.splitlines() == expected
    assert all(is_whole(here / file) for file in files)
    assert len([target for target in alice.paths() if target.endswith("/explore")]) == 1
    assert "[3/3] " in result.stderr
    assert "3 exports: 3 Success\n" in result.stderr


@pytest.mark.parametrize(
    ("kind", "options", "names", "suffix"),
    [
        ("site", ("--library", "Library 2"), ("Site 1", "Site 3"), "zip"),
        ("team", ("--channel", "Channel 1", "--posts"), ("Team 2", "Team 4"), "html"),
    ],
)
def test_sites_and_teams_of_a_list(
    alice: Stack,
    here: Path,
    kind: str,
    options: tuple[str, ...],
    names: tuple[str, ...],
    suffix: str,
) -> None:
    """The library or channel is looked up in each of them."""
    (here / "list.csv").write_text(f"{kind}\n" + "\n".join(names), encoding="utf-8")
    line = ("export", kind, "--from", "list.csv", "--at", AT, *options)
    result = commanded(*line, "--state", "s", "--parallel", "1")
    assert result.exit_code == 0, result.stderr
    files = [f"{name}-2026-11-01.{suffix}" for name in names]
    rows = [f"{name}\tSuccess\t{file}" for name, file in zip(names, files, strict=True)]
    assert result.stdout.splitlines() == rows
    assert all((here / file).stat().st_size == SIZE for file in files)
    other = commanded(*line[:6], options[0], "Other", "--state", "s")
    assert (other.exit_code, "--state: s is of other exports" in other.stderr) == (2, True)


def test_a_failure_fails_its_row_only(alice: Stack, here: Path) -> None:
    (here / "list.csv").write_text("bob@contoso.com\ndave@contoso.com\n", encoding="utf-8")
    result = commanded(*LINE, "--output", "out")
    assert result.exit_code == 5
    first, second = result.stdout.splitlines()
    assert first == "bob@contoso.com\tSuccess\tout/bob@contoso.com-2026-11-01.pst"
    assert second.startswith("dave@contoso.com\tFailed\tThere is no mailbox 'dave@contoso.com'")
    assert "2 exports: 1 Success, 1 Failed\n" in result.stderr


def test_a_later_run_exports_what_is_missing(alice: Stack, here: Path) -> None:
    """What VB365 refused is tried again; what is there is not exported again."""
    alice.simulator.fault(path="exportToPst", count=1, outlook_missing=True)
    line = (*LINE, "--state", "state.json", "--parallel", "1")
    result = commanded(*line)
    assert (result.exit_code, "Outlook" in result.stdout) == (5, True)
    assert generated(alice) == 3
    result = commanded(*line)
    assert (result.exit_code, result.stdout.count("\tSuccess\t"), generated(alice)) == (0, 3, 4)
    alice.simulator.requests.clear()
    assert (commanded(*line).exit_code, alice.paths()) == (0, [])
    (here / "bob@contoso.com-2026-11-01.pst").unlink()
    assert (commanded(*line).exit_code, generated(alice)) == (0, 1)


def test_an_interrupted_list_continues_with_its_jobs(alice: Stack, here: Path) -> None:
    """With --state, Ctrl-C leaves the exports and their session, and the next run gets the files:
    nothing is generated twice.
    """
    interrupted(alice, here)
    alice.simulator.release()
    result = commanded(*CONTINUED)
    assert (result.exit_code, generated(alice)) == (0, 3)
    assert len([target for target in alice.paths() if target.endswith("/explore")]) == 1
    assert all(is_whole(Path(row.split("\t")[2])) for row in result.stdout.splitlines())


@pytest.mark.parametrize(
    "error", [Unreachable("no route"), ErrorResponse("busy", 503), ErrorResponse("who", 401)]
)
def test_a_job_that_cannot_be_asked_about_is_not_exported_again(
    alice: Stack, here: Path, monkeypatch: pytest.MonkeyPatch, error: CommandError
) -> None:
    """It goes on meanwhile, and its session is kept for it."""
    interrupted(alice, here)
    with monkeypatch.context() as patched:
        patched.setattr(Proxy, "job", AsyncMock(side_effect=error))
        result = commanded(*CONTINUED)
    assert (result.exit_code, result.stdout.count(f"\tFailed\t{error}")) == (5, 3)
    alice.simulator.release()
    result = commanded(*CONTINUED)
    assert (result.exit_code, generated(alice)) == (0, 3)
    assert len([target for target in alice.paths() if target.endswith("/explore")]) == 1


def test_a_job_that_is_gone_is_exported_again(alice: Stack, here: Path) -> None:
    interrupted(alice, here)
    state = json.loads((here / "state.json").read_text(encoding="utf-8"))
    job = state["rows"]["alice@contoso.com"]["job"]
    state["rows"]["alice@contoso.com"]["job"] = job[:-8] + "0" * 8
    (here / "state.json").write_text(json.dumps(state), encoding="utf-8")
    alice.simulator.release()
    result = commanded(*CONTINUED)
    assert (result.exit_code, generated(alice)) == (0, 4)


def test_a_kick_off_without_a_response_is_repeated_with_its_key(
    alice: Stack, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response was lost, or the command was killed before it noted the job: it is joined."""
    session = alice.simulator.open_session("alice")
    line = ("export", "mailbox", "--from", "list.csv", "--session", session.id, "--state", "s")
    kick_off = Proxy.kick_off

    async def lose_the_response(*arguments: Any, **options: Any) -> Any:
        await kick_off(*arguments, **options)
        raise Unreachable("lost")

    with monkeypatch.context() as patched:
        patched.setattr(Proxy, "kick_off", lose_the_response)
        assert commanded(*line).stdout.count("\tFailed\tlost") == 3
    assert (commanded(*line).exit_code, generated(alice)) == (0, 3)
    alice.simulator.sessions.stop(session)


def test_a_state_is_of_one_run_at_a_time(alice: Stack, here: Path) -> None:
    """Another would export everything that the first has not noted as started."""
    with closing(State(Path("state.json"), "other")):
        result = commanded(*CONTINUED)
        assert (result.exit_code, alice.paths()) == (2, [])
        assert "--state: state.json is in use: another command uses it" in result.stderr
    assert commanded(*CONTINUED).exit_code == 0


def interrupted(alice: Stack, here: Path) -> None:
    """Start a list, and interrupt it while its first two exports are generated."""
    alice.simulator.fault(path="exportToPst", count=2, hold=True)
    with started(*CONTINUED, env=dict(os.environ)) as process:
        assert process.stderr is not None
        process.stderr.readline()
        while started_jobs(here) != 2:
            still_running(process)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(20) == 130
    assert "Run the same command again" in rest


def still_running(process: Popen[str]) -> None:
    """Look again after a moment, unless the command has ended."""
    with pytest.raises(TimeoutExpired):
        process.wait(0.02)


def started_jobs(here: Path) -> int:
    try:
        rows = json.loads((here / "state.json").read_text(encoding="utf-8"))["rows"]
    except FileNotFoundError:
        return 0
    return len([row for row in rows.values() if row.get("job")])


def test_an_interrupted_list_without_state_is_cancelled(alice: Stack, here: Path) -> None:
    alice.simulator.fault(path="exportToPst", count=3, hold=True)
    with started(*LINE, env=dict(os.environ)) as process:
        assert process.stderr is not None
        process.stderr.readline()
        while generated(alice) < 3:
            still_running(process)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == 130
    alice.simulator.release()
    assert "The restore session is stopped." in rest


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (("--output", "{user}.pst"), "bob", "--output: {user} is unknown; the placeholders are"),
        (("--output", "{date}.pst"), "a\nb", "a and b would both be written to 2026-11-01.pst"),
        ((), "# nobody\n\n", "--from: list.csv names no mailboxes"),
        (("--folder", "Inbox"), "bob", "--from is not for --folder"),
        (("--no-download",), "bob", "--from is not for --folder or --no-download"),
        (("bob",), "bob", "Name what to export, or use --from FILE, and not both"),
        (("--state", "list.csv"), "bob", "--state: list.csv is not a file of this command"),
        (("--state", "list.csv"), "[" * 5000, "--state: list.csv is not a file of this command"),
    ],
)
def test_a_wrong_list_is_reported_before_anything_is_sent(
    alice: Stack, here: Path, line: tuple[str, ...], text: str, message: str
) -> None:
    (here / "list.csv").write_text(text, encoding="utf-8")
    result = commanded(*LINE, *line)
    assert (result.exit_code, alice.paths()) == (2, [])
    assert message in result.stderr


def test_the_state_of_other_exports_is_not_used(here: Path) -> None:
    """With another time or organization, what is done there is not done here."""
    for _ in range(2):
        with closing(State(here / "s", "mailbox 2026")) as state:
            state.write()
    with pytest.raises(CommandError, match=r"is of other exports \(mailbox 2026\)"):
        State(here / "s", "mailbox 2027")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../etc/passwd", "_.._etc_passwd"),
        ("a\\..\\b", "a_.._b"),
        ("..", "_"),
        ("con", "_con"),
        ("x\x1b[2J\u202e", "x_[2J_"),
        ("{date}", "{date}"),
    ],
)
def test_a_value_of_a_placeholder_is_a_part_of_a_name(name: str, expected: str) -> None:
    assert filled("out/{mailbox}.pst", {"mailbox": name}) == f"out/{expected}.pst"


def test_a_list_has_a_heading_or_not(here: Path) -> None:
    """Spaces, comments, a byte order mark and repetitions do not matter."""
    for text in ("\ufeffMailbox;x\n", "a@x\n# c\n\n b@x ,2\na@x\n", "Name,Mailbox\nA,a@x\nB,b@x\n"):
        (here / "l").write_text(text, encoding="utf-8")
        rows = read_rows(here / "l", MAILBOX, None, "{mailbox}", {})
        assert [row.name for row in rows] in (["a@x", "b@x"], ["Mailbox;x"])

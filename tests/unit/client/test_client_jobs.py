"""The commands `jobs`, invalid command lines, Ctrl-C and the display (CONTRACT §15)."""

from __future__ import annotations

import io
import json
import os
import signal
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
from rich.console import Console

from proxy.client.display import Bar, Display, display
from proxy.client.errors import CommandError
from proxy.client.job import Job
from proxy.client.proxy import links_at, links_of
from tests.support.commands import PYTHON, started
from tests.unit.client.conftest import serving
from tests.unit.client.fake_proxy import (
    EXPORT,
    ID,
    STATUS,
    SUCCESS,
    FakeProxy,
    document,
    transferring,
)


def test_jobs_are_listed_shown_cancelled_and_deleted(run: Any, fake: FakeProxy) -> None:
    """§2, §7."""
    listed = run("jobs", "list", "--status", "Success", "--session", "s/1")
    assert ID in listed.stdout
    assert (
        fake.seen[-1][1]
        == "/v8/_async/exports?offset=0&limit=30&status=Success&restoreSessionId=s%2F1"
    )
    assert json.loads(run("jobs", "list", "--json").stdout)["results"][0]["id"] == ID
    assert json.loads(run("jobs", "show", ID).stdout)["phase"] == "Generating"
    line = ("--fields", "id,progress.bytesTotal")
    page = json.loads(run("jobs", "list", "--json", *line).stdout)
    assert [list(each) for each in page["results"]] == [["id", "progress.bytesTotal"]]
    assert run("jobs", "show", ID, "--fields", "type,id").stdout == f"Export\t{ID}\n"
    chosen = run("jobs", "show", ID, "--fields", "type", "--json").stdout
    assert json.loads(chosen) == {"type": "Export"}
    assert json.loads(run("jobs", "cancel", ID).stdout)["phase"] == "Cancelling"
    assert run("jobs", "delete", ID, "--file-only").exit_code == 0
    assert run("jobs", "delete", f"{fake.url}{STATUS}", VB365_URL=None).exit_code == 0
    assert [(method, target) for method, target, _, _ in fake.seen[-3:]] == [
        ("POST", f"{STATUS}/cancel"),
        ("DELETE", f"{STATUS}/result"),
        ("DELETE", STATUS),
    ]


@pytest.mark.parametrize(
    ("line", "env", "message"),
    [
        (("jobs", "list"), {"VB365_URL": None}, "No address"),
        (("jobs", "list"), {"VB365_TOKEN": None}, "No credentials"),
        (("jobs", "list"), {"VB365_URL": "vb365.example.com"}, "--url must be a URL"),
        (("jobs", "list", "--token-file", "none"), {}, "none cannot be read"),
        (("jobs", "list", "--ca-file", "none"), {}, "none is not a file of PEM certificates"),
        (("export", "--path", "v8/x"), {}, "--path must be"),
        (("export", "--path", "/v8/ü x"), {}, "--path must be"),
    ],
)
def test_an_invalid_command_line_is_reported_before_anything_is_sent(
    run: Any, fake: FakeProxy, line: tuple[str, ...], env: dict[str, str | None], message: str
) -> None:
    result = run(*line, **env)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    assert fake.seen == []


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_secret_files_of_windows_programs_are_read(
    run: Any, fake: FakeProxy, here: Path, mark: bytes
) -> None:
    """UTF-8 in any locale, with or without Notepad's byte order mark."""
    (here / "token").write_bytes(mark + b"good\r\n")
    assert run("jobs", "show", ID, "--token-file", "token").exit_code == 0
    (here / "password").write_bytes(mark + b"pa&ss\r\n")
    assert (
        run("jobs", "show", ID, "--password-file", "password", VB365_USERNAME="jane").exit_code == 0
    )


@pytest.mark.parametrize("option", ["--token-file", "--password-file"])
def test_a_secret_file_in_utf_16_is_reported(
    run: Any, fake: FakeProxy, here: Path, option: str
) -> None:
    """Windows PowerShell's `>` writes it."""
    (here / "secret").write_text("good", encoding="utf-16")
    result = run(
        "jobs",
        "show",
        ID,
        option,
        "secret",
        VB365_USERNAME="jane" if "password" in option else None,
    )
    assert (result.exit_code, result.stderr) == (2, "secret is UTF-16: save it as UTF-8\n")
    assert fake.seen == []


def test_certificates_are_verified_by_default(run: Any, here: Path) -> None:
    """An untrusted one is reported with a hint; --ca-file trusts it; --insecure accepts any."""
    authority, tls = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path("ca.pem")
    with serving(tls) as fake:
        result = run("jobs", "show", ID, VB365_URL=fake.url)
        assert (result.exit_code, "see --ca-file and --insecure" in result.stderr) == (2, True)
        assert run("jobs", "show", ID, "--ca-file", "ca.pem", VB365_URL=fake.url).exit_code == 0
        result = run("jobs", "show", ID, "--insecure", VB365_URL=fake.url)
        assert (result.exit_code, "WARNING" in result.stderr) == (0, True)


def test_a_missing_body_file_is_reported_before_anything_is_sent(run: Any, fake: FakeProxy) -> None:
    result = run("export", "--path", EXPORT, "--body", "nowhere.json")
    assert (result.exit_code, "nowhere.json" in result.stderr, fake.seen) == (2, True, [])


def test_a_body_in_utf_16_is_reported(run: Any, fake: FakeProxy, here: Path) -> None:
    """RFC 8259 §8.1: JSON is UTF-8; Windows PowerShell's `>` writes UTF-16."""
    (here / "body.json").write_text("{}", encoding="utf-16")
    result = run("export", "--path", EXPORT, "--body", "body.json")
    assert (result.exit_code, result.stderr) == (
        2,
        "--body: body.json is UTF-16: save it as UTF-8\n",
    )
    assert fake.seen == []


@pytest.mark.skipif(
    sys.platform == "win32", reason="no SIGINT for a child process: Ctrl-C is not tested on Windows"
)
@pytest.mark.parametrize("cancel", [False, True])
def test_ctrl_c_cancels_the_export_only_with_cancel_on_interrupt(
    fake: FakeProxy, here: Path, cancel: bool
) -> None:
    """§15: exit code 130, and the command that fetches the file later."""
    fake.story = [document("Running", "Generating")]
    line = ("export", "--path", EXPORT, *(["--cancel-on-interrupt"] if cancel else []))
    environment = os.environ | {"VB365_URL": fake.url, "VB365_TOKEN": "good"}
    program = (*PYTHON, "-c", "from proxy.client import client_app; client_app()")
    with started(*line, program=program, env=environment) as client:
        assert client.stderr is not None
        output = ""
        while "Generating" not in output and (more := client.stderr.readline()):
            output += more
        client.send_signal(signal.SIGINT)
        output += client.stderr.read()
        assert client.wait(30) == 130, output
    assert ("The export is being cancelled." in output) == cancel
    assert (f"vb365-async-proxy jobs fetch {fake.url}{STATUS}" in output) == (not cancel)
    assert bool(fake.calls(f"POST {STATUS}/cancel")) == cancel


@pytest.mark.parametrize("prefix", [ID[:4], ID[:8].upper(), ID[:30]])
def test_a_job_is_named_by_the_beginning_of_its_id(run: Any, fake: FakeProxy, prefix: str) -> None:
    assert json.loads(run("jobs", "show", prefix).stdout)["id"] == ID


def test_the_beginning_of_several_ids_is_an_error_that_names_them(
    run: Any, fake: FakeProxy
) -> None:
    others = [f"5f0c{number}d3e-0000-4000-8000-000000000001" for number in (7, 8)]
    fake.listed = [*fake.listed, *(SUCCESS | {"id": other} for other in others)]
    result = run("jobs", "rm", "5f0c")
    assert (result.exit_code, fake.calls("DELETE")) == (2, [])
    assert all(f"  {other}\n" in result.stderr for other in (ID, *others))
    result = run("jobs", "rm", "ffff")
    assert (result.exit_code, "None of your jobs begins with ffff" in result.stderr) == (2, True)


def test_a_watch_ends_with_the_job(run: Any, fake: FakeProxy) -> None:
    """Its exit code is that of the outcome with --exit-status."""
    ended = document("Cancelled", "Completed", message="by its caller")
    fake.story = [document("Running", "Generating"), ended]
    result = run("jobs", "watch", ID, "--exit-status")
    assert (result.exit_code, result.stdout) == (4, "Cancelled\n")
    assert "Generating" in result.stderr
    result = run("jobs", "watch", ID, "--json")
    assert (result.exit_code, json.loads(result.stdout)["status"]) == (0, "Cancelled")


def test_a_poll_waits_for_a_change(run: Any, fake: FakeProxy) -> None:
    """CONTRACT §4: the proxy responds when the ETag is no longer the given one."""
    assert run("jobs", "watch", ID).exit_code == 0
    polls = [fields.get("Prefer") for fields, _ in fake.calls(f"GET {STATUS}")]
    assert polls == [None, *["wait=20"] * (len(polls) - 1)]


def test_progress_as_json_is_a_document_per_line(run: Any, fake: FakeProxy, here: Path) -> None:
    """Messages, job, download and error; stdout has the result only."""
    result = run("export", EXPORT, "--progress", "json")
    events = [json.loads(line) for line in result.stderr.splitlines()]
    assert {each["event"] for each in events} == {"message", "job", "download"}
    assert events[-2]["bytesReceived"] == events[-2]["bytesTotal"]
    assert result.stdout == "Jane Roe.pst\n"
    result = run("jobs", "show", ID, "--progress", "json", VB365_TOKEN="bad")
    assert json.loads(result.stderr) == {
        "event": "error",
        "text": "The server responded with 401: the credentials are not accepted",
        "exitCode": 1,
    }


@pytest.mark.parametrize(
    "line",
    [
        ("export", "mailbox", "bob", "--msg"),
        ("export", "mailbox"),
        ("export", "site", "s", "--folder", "f", "--library", "l"),
        ("export", "team", "t", "--item", "i", "--msg"),
        ("export", "url", "nothing"),
        ("mailboxes", "--at", "soon"),
        ("login", "--profile", "a/b"),
        ("logout",),
    ],
)
def test_an_error_of_the_command_line_is_a_document_too(run: Any, line: tuple[str, ...]) -> None:
    result = run(*line, "--progress", "json")
    error = json.loads(result.stderr)
    assert (error["event"], error["exitCode"], result.exit_code) == ("error", 2, 2)


def test_progress_can_be_turned_off(run: Any, fake: FakeProxy, here: Path) -> None:
    result = run("export", EXPORT, VB365_PROGRESS="none")
    assert (result.exit_code, result.stderr) == (0, "")


def test_the_bar_moves_between_polls() -> None:
    """With the last known rate, up to a second before the end, and the times are labelled."""
    now = [0.0]
    console = Console(force_terminal=True, width=120, file=io.StringIO())
    bar = Bar(console, clock=lambda: now[0])
    bar.exporting(Job(transferring(0)))
    task = bar._progress.tasks[0]
    total = transferring(0)["progress"]["bytesTotal"]
    frames = []
    for now[0] in (0.0, 0.001, 100.0):
        list(bar._progress.get_renderables())
        frames.append(task.completed)
    assert frames[0] == 0
    assert 0 < frames[1] < total
    assert frames[2] == max(0, total - 2**20)


def test_a_job_is_named_by_id_or_url() -> None:
    """§2: any version, no version, a prefix, a renamed segment."""
    assert links_of(ID.upper(), "v8", "_async").status == STATUS
    assert (
        links_at(f"https://h/pre/fix/v6/_exports/exports/{ID}").status
        == f"/v6/_exports/exports/{ID}"
    )
    renamed = f"/v6/_exports/exports/{ID}"
    assert links_at(f"https://h/pre/fix{renamed}").status == renamed
    assert links_at(f"/_async/exports/{ID}").status == f"/_async/exports/{ID}"
    with pytest.raises(CommandError, match="not the URL of an export job"):
        links_at("https://h/v8/RestoreSessions/x")


def test_plain_lines_are_printed_at_new_phases_and_every_ten_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    shown = Display(Console(), clock=lambda: now[0])
    for now[0] in (0.0, 1.0, 2.0, 11.0, 12.0):
        shown.exporting(Job(document("Running", "Generating")))
    for now[0] in (13.0, 14.0, 24.0):
        shown.downloading(int(now[0]) * 2**20, 100 * 2**20)
    assert capsys.readouterr().out.splitlines() == [
        "Generating",
        "Generating  0:11",
        "Downloading  13.0 MiB of 100.0 MiB, 13 %",
        "Downloading  0:11  24.0 MiB of 100.0 MiB, 24 %, 1.0 MiB/s, 1:16 left",
    ]


def test_a_terminal_shows_a_progress_bar() -> None:
    console = Console(force_terminal=True, width=120, record=True, file=io.StringIO())
    with display(console) as shown:
        assert isinstance(shown, Bar)
        shown.exporting(Job(document("Running", "Generating")))
        shown.exporting(Job(transferring(2**19)))
        shown.say("a line that stays")
    text = console.export_text()
    assert "a line that stays" in text
    assert "512.0 KiB of 1.0 MiB, 49 %, 1.0 MiB/s, 0:01 left" in text

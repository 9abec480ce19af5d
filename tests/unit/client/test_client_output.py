"""Output with old code pages, closed pipes and hostile text (CONTRACT §15)."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from subprocess import PIPE, CompletedProcess
from typing import Any

import pytest
from rich.console import Console

from proxy.client.display import Bar, Display
from proxy.client.job import Job
from proxy.core.text import visible
from tests.support.commands import finished
from tests.unit.client.fake_proxy import EXPORT, FILE, ID, STORY, SUCCESS, FakeProxy, document

NAME = "Zoë 日本.pst"


def command(
    fake: FakeProxy, *line: str, encoding: str = "utf-8", **options: Any
) -> CompletedProcess[bytes]:
    """The result of a command with this encoding of its output."""
    environment = {**os.environ, "VB365_URL": fake.url, "VB365_TOKEN": "good"}
    environment |= {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    how: dict[str, Any] = {"capture_output": False, "stdout": PIPE, "stderr": PIPE, "text": False}
    done: CompletedProcess[Any] = finished(*line, env=environment, **how | options)
    return done


def named(name: str) -> dict[str, Any]:
    success = document("Success", "Completed")
    success["result"]["fileName"] = name
    return success


@pytest.mark.parametrize("encoding", ["cp1252", "cp437"])
def test_an_export_succeeds_with_any_encoding_of_stdout(
    fake: FakeProxy, here: Path, encoding: str
) -> None:
    """The file keeps its name; the line on stdout is escaped where necessary."""
    fake.story = [named(NAME)]
    done = command(fake, "export", "--path", EXPORT, encoding=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [NAME.encode(encoding, "backslashreplace")]
    assert (here / NAME).read_bytes() == FILE


@pytest.mark.parametrize(
    "line", [("jobs", "show", ID), ("jobs", "list"), ("jobs", "list", "--json")]
)
def test_job_commands_succeed_with_any_encoding_of_stdout(
    fake: FakeProxy, line: tuple[str, ...]
) -> None:
    """JSON stays valid."""
    SUCCESS["result"]["fileName"], before = NAME, SUCCESS["result"]["fileName"]
    fake.story = [SUCCESS]
    try:
        done = command(fake, *line, encoding="cp1252")
    finally:
        SUCCESS["result"]["fileName"] = before
    assert done.returncode == 0, done.stderr
    if line == ("jobs", "list"):
        assert NAME.encode("cp1252", "backslashreplace") in done.stdout
    else:
        assert NAME in str(json.loads(done.stdout))


@pytest.mark.skipif(
    sys.platform == "win32",
    reason="descriptors of a POSIX shell: closed ones are not tested on Windows",
)
@pytest.mark.parametrize(
    "line", [("export", "--path", EXPORT), ("jobs", "list"), ("jobs", "show", ID)]
)
def test_a_closed_stdout_does_not_change_the_exit_code(
    fake: FakeProxy, here: Path, line: tuple[str, ...]
) -> None:
    """As with `| head`, which exits early."""
    fake.retry_after = "1"
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = command(fake, *line, stdout=writing)
    finally:
        os.close(writing)
    assert done.returncode == 0, done.stderr
    assert b"Broken pipe" not in done.stderr
    assert b"Exception" not in done.stderr


@pytest.mark.skipif(
    sys.platform == "win32",
    reason="descriptors of a POSIX shell: closed ones are not tested on Windows",
)
def test_a_closed_stderr_does_not_end_an_export(fake: FakeProxy, here: Path) -> None:
    """As with `2>&1 >file | head -1`: rich would redirect stdout and exit 1."""
    fake.retry_after = "1"
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = command(fake, "export", "--path", EXPORT, stderr=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stdout) == (0, b"Jane Roe.pst\n")


def test_control_characters_of_a_server_do_not_reach_the_terminal(
    run: Any, fake: FakeProxy, here: Path
) -> None:
    """The name of a mailbox and VB365's messages are untrusted text."""
    hostile = "a\x1b[2J\x9b31m\u202eb"
    error = {"code": "UpstreamError", "message": hostile, "retryable": False}
    for story, line in (
        ([*STORY[:1], document("Failed", "Completed", error=error)], ("export", "--path", EXPORT)),
        ([document("Running", "Generating", message=hostile)], ("jobs", "show", ID)),
    ):
        fake.story = story
        result = run(*line)
        assert "a" in result.output
        assert not set("\x1b\x9b\u202e") & set(result.output)


def test_a_line_that_stays_keeps_its_line_feeds(capsys: pytest.CaptureFixture[str]) -> None:
    Display(Console()).say("> GET /\n< 200 \x9bOK")
    assert capsys.readouterr().out == "> GET /\n< 200 \\x9bOK\n"


@pytest.mark.parametrize("phase", ["a\x1b]0;b\x07", "[/x]", "[red]"])
def test_a_phase_cannot_control_the_progress_bar(phase: str) -> None:
    """On a terminal a phase is shown as it is: neither an escape sequence nor markup."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, width=120)
    with Bar(console) as bar:
        bar.exporting(Job(document("Running", phase)))
    assert "\x1b]" not in screen.getvalue()
    assert visible(phase) in screen.getvalue()

"""With `--progress json`, what is wrong with the command line is a line of JSON on stderr too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from proxy.cli.main import app

JOB = "11111111-2222-4333-8444-555555555555"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VB365_CONFIG_DIR", str(tmp_path))
    monkeypatch.delenv("VB365_PROGRESS", raising=False)


def invoke(*line: str, stdin: str | None = None, **env: str) -> Result:
    return CliRunner().invoke(app, line, input=stdin, env=env, prog_name="vb365-async-proxy")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("export mailbox bob --progress json --bogus", "No such option: --bogus"),
        ("export --progress=json mailbox bob --bogus", "No such option: --bogus"),
        ("export mailbox --parallel many --progress json", "Invalid value for '--parallel'"),
        ("jobs show --progress json", "Missing argument 'JOB'"),
        ("jobs show --progress json a b", "unexpected extra argument(s) (b)"),
        ("jobs show a --progress json --token t", "other users can read the command line"),
        ("jobs sohw a --progress json", "No such command 'sohw'"),
        ("exprot url --progress json", "No such command 'exprot'"),
        ("jobs show --progress plain --progress json", "Missing argument 'JOB'"),
        ("login --progress json --url", "requires an argument"),
    ],
)
def test_an_error_of_the_parser_is_a_document(line: str, text: str) -> None:
    result = invoke(*line.split())
    error = json.loads(result.stderr)
    assert text in error.pop("text")
    assert error == {"event": "error", "exitCode": 2}
    assert (result.exit_code, result.stdout) == (2, "")


def test_the_variable_is_that_of_the_commands_that_have_progress() -> None:
    result = invoke("jobs", "show", VB365_PROGRESS="json")
    assert json.loads(result.stderr)["event"] == "error"
    assert invoke("serve", "--bogus", VB365_PROGRESS="json").stderr.startswith("Usage:")


@pytest.mark.parametrize(
    "line",
    [
        "jobs show",
        "jobs show --progress json --progress plain",
        "jobs show -- --progress json",
    ],
)
def test_otherwise_it_is_text(line: str) -> None:
    result = invoke(*line.split())
    assert result.stderr.startswith("Usage:")
    assert (result.exit_code, result.stdout) == (2, "")


def test_a_prompt_that_ends_is_a_document() -> None:
    """A password that is asked for, and nobody enters."""
    line = ("login", "--url", "http://127.0.0.1:9", "--username", "u", "--progress", "json")
    result = invoke(*line, stdin="")
    assert json.loads(result.stderr.splitlines()[-1])["exitCode"] == result.exit_code == 1


def test_help_and_version_are_as_without_it() -> None:
    for line in (("jobs", "show", "--progress", "json", "--help"), ("--version",)):
        result = invoke(*line)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout

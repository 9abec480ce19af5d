"""The client's commands as part of the command line. They are loaded when one of them is used, so
that --help of the whole stays fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import takewhile, zip_longest
from typing import Any

import typer
import typer.core
import typer.main

_EXPORT, _BROWSE = "Export", "Browse VB365"
#: Name, panel of --help, and the first line of the command's own help.
COMMANDS = (
    ("login", _EXPORT, "Log in and keep the tokens in a profile."),
    ("logout", _EXPORT, "Revoke the tokens of a profile and delete it."),
    ("export", _EXPORT, "Start an export, follow it, download the file and verify it."),
    ("jobs", _EXPORT, "List, show, watch, cancel, delete and fetch export jobs."),
    ("organizations", _BROWSE, "List the organizations that you may see."),
    ("sessions", _BROWSE, "List and stop restore sessions."),
    ("mailboxes", _BROWSE, "List the mailboxes in a backup."),
    ("onedrives", _BROWSE, "List the OneDrives in a backup."),
    ("sites", _BROWSE, "List the sites in a backup."),
    ("teams", _BROWSE, "List the teams in a backup."),
)
_NAMES = frozenset(name for name, _, _ in COMMANDS)
#: A command of `proxy.cli` that has the options of a client too.
_DOCTOR = ("doctor", "Run a proxy", "Find what prevents the proxy from working.")
#: What is wrong with a command line. typer has no public name for it.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class WithClient(typer.core.TyperGroup):
    """A command line whose commands of `COMMANDS` are those of `proxy.client`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name, the command and the arguments; load the client for its commands."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in _NAMES:
            from proxy.client import client_app

            client = typer.main.get_command(client_app)
            command = client.commands[name]  # type: ignore[attr-defined]  # a group has them
        elif name == _DOCTOR[0]:
            from proxy.cli.doctor import doctor_app

            command = typer.main.get_command(doctor_app)
        return name, command, rest

    def main(self, *args: Any, **how: Any) -> Any:
        """Run the command line. Where progress is JSON, what is wrong with the line is, too."""
        words = args[0] if args else how.get("args")
        if not _reports_json(sys.argv[1:] if words is None else words):
            return super().main(*args, **how)
        try:
            code = super().main(*args, **how | {"standalone_mode": False})
        except _UsageError as wrong:
            code = _report(wrong.format_message(), 2)  # type: ignore[attr-defined]
        except typer.Abort:
            code = _report("Aborted.", 1)
        raise SystemExit(code or 0)


def _reports_json(words: Sequence[str]) -> bool:
    """Whether the last `--progress` of the command line, or else the variable of the commands that
    have this option, is `json`.
    """
    has_progress = words[0] in {*_NAMES, _DOCTOR[0]} if words else False
    mode = os.environ.get("VB365_PROGRESS") if has_progress else None
    options = list(takewhile(lambda word: word != "--", words))
    for word, following in zip_longest(options, options[1:]):
        if word == "--progress":
            mode = following
        elif word.startswith("--progress="):
            mode = word.partition("=")[2]
    return mode == "json"


def _report(text: str, code: int) -> int:
    """Write the error as a line of JSON, and return the exit code."""
    from proxy.client.display import Mode, display
    from proxy.client.output import Stderr

    display(Stderr(), Mode.JSON).fail(text, code)
    return code


def add_client_commands(app: typer.Typer) -> None:
    """Add what --help of the whole shows about the client's commands."""
    for name, panel, text in (*COMMANDS, _DOCTOR):
        app.command(name, help=text, rich_help_panel=panel)(_loaded_when_used)


def _loaded_when_used() -> None:
    """Never called: `WithClient` replaces the command."""

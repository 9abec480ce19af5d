"""The client's commands as part of the command line. They are loaded when one of them is used, so
that --help of the whole stays fast.
"""

from __future__ import annotations

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


def add_client_commands(app: typer.Typer) -> None:
    """Add what --help of the whole shows about the client's commands."""
    for name, panel, text in (*COMMANDS, _DOCTOR):
        app.command(name, help=text, rich_help_panel=panel)(_loaded_when_used)


def _loaded_when_used() -> None:
    """Never called: `WithClient` replaces the command."""

"""What the commands write: the result to stdout, everything else to stderr. Neither an encoding
that lacks a character nor a reader that has closed the pipe turns a success into a failure.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from proxy.core.text import visible

#: A closed pipe; Windows reports it as EINVAL.
_CLOSED = frozenset({errno.EPIPE, errno.EINVAL})


class Stderr(Console):
    """The console of progress and messages. Once its reader has closed the pipe it is silent."""

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def on_broken_pipe(self) -> None:
        """Go on: rich would redirect stdout to nowhere and end the process."""
        self.quiet = True


def print_result(text: str) -> None:
    """Write the result and a line feed to stdout; characters that its encoding lacks are
    escaped.
    """
    if (reconfigure := getattr(sys.stdout, "reconfigure", None)) is not None:
        reconfigure(errors="backslashreplace")
    try:
        typer.echo(text)
    except OSError as why:
        if why.errno not in _CLOSED:
            raise
        # Python flushes stdout once more at exit, which would fail again and change the exit code.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def complain(why: str) -> None:
    """Write an error to stderr, each line safe for a terminal."""
    try:
        typer.echo(on_terminal(why), err=True)
    except OSError as broken:
        if broken.errno not in _CLOSED:
            raise


def on_terminal(text: str) -> str:
    """Text of a server or of a file, each line without characters that a terminal obeys."""
    return "\n".join(map(visible, text.split("\n")))


def pretty(document: dict[str, Any]) -> str:
    """JSON for people: as it is where stdout and a terminal can show it, else in ASCII."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return json.dumps(document, indent=2)
    return text if on_terminal(text) == text else json.dumps(document, indent=2)


def laid_out(table: Table) -> str:
    """The table as text, as wide as the terminal; a pipe has no width, so it gets 240 columns."""
    console = Console()
    if not console.is_terminal:
        console.width = 240
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip("\n")

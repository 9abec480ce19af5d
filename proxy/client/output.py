"""Output of the commands: the result on stdout, everything else on stderr.

A character that the encoding lacks, or a pipe that its reader has closed, does not fail a command.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console

from proxy.core.text import visible

#: A closed pipe; Windows reports it as EINVAL.
_CLOSED = frozenset({errno.EPIPE, errno.EINVAL})


class Stderr(Console):
    """The console for progress and messages. It is silent after its pipe is closed."""

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def on_broken_pipe(self) -> None:
        """Continue. By default, rich redirects stdout to /dev/null and exits."""
        self.quiet = True


def print_result(text: str) -> None:
    """Write the result and a line feed to stdout; escape characters that its encoding lacks."""
    if (reconfigure := getattr(sys.stdout, "reconfigure", None)) is not None:
        reconfigure(errors="backslashreplace")
    try:
        typer.echo(text)
    except OSError as error:
        if error.errno not in _CLOSED:
            raise
        # Python flushes stdout once more at exit, which would fail again and change the exit code.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def print_error(message: str) -> None:
    """Write an error to stderr, without control characters."""
    try:
        typer.echo(printable(message), err=True)
    except OSError as broken:
        if broken.errno not in _CLOSED:
            raise


def printable(text: str) -> str:
    """Return text in which each line has no control characters, for a terminal."""
    return "\n".join(map(visible, text.split("\n")))


def to_json(document: Any) -> str:
    """Return indented JSON, in ASCII if stdout or a terminal cannot show its characters."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return json.dumps(document, indent=2)
    return text if printable(text) == text else json.dumps(document, indent=2)


def members(document: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return the members with these names, such as `status` or `result.size`; None for one that the
    document does not have.
    """
    found = {}
    for name in names:
        value = document
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        found[name] = value
    return found


def to_cell(value: Any) -> str:
    """Return the value of a member as text: nothing for null, JSON for what is no string."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def listing(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text: aligned below the names of the columns on a terminal, else as TSV
    without names, as gh does. No row is cut, and no value has control characters.
    """
    shown = [[visible(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        return "\n".join("\t".join(row) for row in shown)
    shown.insert(0, [name.upper() for name in columns])
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    lines = (
        "  ".join(set_cell_size(cell, width) for cell, width in zip(row, widths, strict=True))
        for row in shown
    )
    return "\n".join(line.rstrip() for line in lines)

"""Paths of files and directories (CONTRACT §15)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from proxy.config.syntax import TEXT_SCHEMA, Syntax, invalid, text


def _path(value: Any) -> Path:
    path = text(value)
    # TOML reads the \n and \t of "C:\new\temp" as a line feed and a tab.
    if any(ord(character) < 0x20 for character in path):
        hint = "write a Windows path in 'single quotes' or with forward slashes"
        raise invalid("contains a control character", hint)
    return Path(path)


def readable_file(value: Any) -> Path:
    """Return the path of a file that can be opened. Raises ValueError."""
    path = _path(value)
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        hint = "name a file that this user can read"
        raise invalid(f"cannot be read ({error.strerror})", hint) from None


def _directory(value: Any) -> Path:
    path = _path(value)
    if path.exists() and not path.is_dir():
        hint = "name a directory that only the proxy uses; it is created if it does not exist"
        raise invalid("is not a directory", hint)
    return path


FilePath = Annotated[Path, Syntax(readable_file, str, TEXT_SCHEMA)]
#: A file that the proxy creates.
NewFile = Annotated[Path, Syntax(_path, str, TEXT_SCHEMA)]
Directory = Annotated[Path, Syntax(_directory, str, TEXT_SCHEMA)]

"""Files and names that survive a loss of power. Everything here blocks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: Bytes as they are (Windows), and never through a symbolic link that somebody planted.
PLAIN = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


def write_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file for its owner's eyes only; its name is durable after `sync_directory`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | PLAIN, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        if durable:
            os.fsync(descriptor)


def sync_directory(directory: Path) -> None:
    """Make the names in the directory durable (Windows keeps that promise by itself)."""
    if sys.platform == "win32":
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

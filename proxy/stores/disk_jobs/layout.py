"""The number of the layout of a data directory, so that a version that does not know the layout
does not touch it.
"""

from __future__ import annotations

from pathlib import Path

from proxy.ports import StoreUnavailable
from proxy.stores.durable import read_small, sync_directory, write_file

#: The layout that this version writes. Version 0.1.0 wrote no number; its directories are read.
LAYOUT = 2
_NAME = "layout"


def newer_layout(directory: Path) -> tuple[str, str] | None:
    """Return what is wrong with the directory and the fix if a newer version has written it.

    Raises OSError.
    """
    path = directory / _NAME
    text = _read(path)
    if not text or (text.isdigit() and int(text) <= LAYOUT):
        return None
    problem = (
        f"a newer version has written it: {path} says {text[:20]!r}, and this version knows up to "
        f"{LAYOUT}"
    )
    fix = (
        "Install the newer version again, or set storage.dir to an empty directory, which loses "
        "the jobs."
    )
    return problem, fix


def check_layout(directory: Path) -> None:
    """Check that this version can read the directory, and write the number of its layout.

    Raises `StoreUnavailable` if a newer version has written it, and OSError.
    """
    if (found := newer_layout(directory)) is not None:
        raise StoreUnavailable(". ".join(found))
    path = directory / _NAME
    if _read(path) == str(LAYOUT):
        return
    temporary = directory / f"{_NAME}.new"
    write_file(temporary, f"{LAYOUT}\n".encode())
    temporary.replace(path)
    sync_directory(directory)


def _read(path: Path) -> str:
    """The text of the file; nothing if there is none, "?" if it is not ASCII."""
    try:
        return read_small(path).decode("ascii").strip()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        return "?"

"""The number of the layout of a data directory, so that a version that does not know the layout
does not touch it.
"""

from __future__ import annotations

from pathlib import Path

from proxy.ports import StoreUnavailable
from proxy.stores.durable import sync_directory, write_file

#: The layout that this version writes. Version 0.1.0 wrote no number; its directories are read.
LAYOUT = 2
_NAME = "layout"


def check_layout(directory: Path) -> None:
    """Check that this version can read the directory, and write the number of its layout.

    Raises `StoreUnavailable` if a newer version has written it, and OSError.
    """
    path = directory / _NAME
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        text = ""
    except UnicodeDecodeError:
        text = "?"
    if text == str(LAYOUT):
        return
    if text and not (text.isdigit() and int(text) < LAYOUT):
        raise StoreUnavailable(
            f"a newer version has written it: {path} says {text[:20]!r}, and this version knows up "
            f"to {LAYOUT}. Install the newer version again, or set storage.dir to an empty "
            "directory, which loses the jobs."
        )
    temporary = directory / f"{_NAME}.new"
    write_file(temporary, f"{LAYOUT}\n".encode())
    temporary.replace(path)
    sync_directory(directory)

"""Where the files of a data directory's jobs are: a start with another place would take all of them
for lost, and the next start with the right one would remove them. Everything here blocks.
"""

from __future__ import annotations

from pathlib import Path

from proxy.ports import StoreUnavailable
from proxy.stores.durable import sync_directory, write_file

_NAME = "artifacts-place"


def check_place(directory: Path, place: str, promised: int) -> None:
    """Check that `place`, the value of storage.artifacts, is where the `promised` finished exports
    of the directory are, and write it there for the next start.

    Raises `StoreUnavailable` if they are in another place, and OSError.
    """
    path = directory / _NAME
    known = path.read_text(encoding="utf-8").strip() if path.exists() else place
    if known != place and promised:
        raise StoreUnavailable(
            f"storage.artifacts is {place}, but the files of finished exports ({promised:,}) of "
            f"storage.dir {directory} are in {known}. Set storage.artifacts to {known} until they "
            f"have expired, or delete {path} to give them up."
        )
    if known == place and path.exists():
        return
    temporary = directory / f"{_NAME}.new"
    write_file(temporary, f"{place}\n".encode())
    temporary.replace(path)
    sync_directory(directory)

"""Where the files of a data directory's jobs are: a start with another place would take all of them
for lost, and the next start with the right one would remove them. Everything here blocks.
"""

from __future__ import annotations

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path

from proxy.ports import StoreUnavailable
from proxy.ports.artifacts import GIVEN_UP
from proxy.stores.durable import read_small, sync_directory, write_file


class FilesPlace:
    """What the directory of the jobs remembers of the artifact store: the value of
    storage.artifacts, and the id that the store keeps. All methods may raise OSError and
    `StoreUnavailable`.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.path = directory / "artifacts-place"

    def known_id(self, place: str, promised: int) -> str | None:
        """The id of the artifact store at `place`, the value of storage.artifacts; None if it is
        not known, and `GIVEN_UP`. Raises `StoreUnavailable` if the files of the `promised` exports
        are in another one.
        """
        found, store_id = self._read()
        if found in (place, None):
            return store_id
        if found == GIVEN_UP:
            return GIVEN_UP
        if promised:
            raise StoreUnavailable(
                f"storage.artifacts is {place}, but the files of exports ({promised:,}) of "
                f"storage.dir {self._directory} are in {found}. Set storage.artifacts to {found} "
                f"until they have ended and expired, or {self.give_up} to give them up."
            )
        return None

    @property
    def give_up(self) -> str:
        """How an operator gives the files up."""
        return f"run `echo {GIVEN_UP} > {self.path}`"

    def keep(self, place: str, id: str) -> None:
        """Remember them for the next start."""
        if self._read() == (place, id):
            return
        temporary = self.path.with_name(f"{self.path.name}.new")
        write_file(temporary, f"{place}\n{id}\n".encode())
        temporary.replace(self.path)
        sync_directory(self._directory)

    def _read(self) -> tuple[str | None, str | None]:
        try:
            content = read_small(self.path)
        except FileNotFoundError:
            return None, None
        # `echo` of Windows PowerShell writes UTF-16
        encoding = "utf-16" if content[:2] in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig"
        try:
            place, _, store_id = content.decode(encoding).strip().partition("\n")
        except UnicodeDecodeError as why:
            raise StoreUnavailable(f"{self.path} is damaged: delete it") from why
        return place.strip() or None, store_id or None

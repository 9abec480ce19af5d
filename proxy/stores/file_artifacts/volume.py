"""The volume of an artifact directory, recognised by an id in it. Everything here blocks."""

from __future__ import annotations

import os
import time
import uuid
from contextlib import suppress
from pathlib import Path

from proxy.ports import StoreUnavailable
from proxy.ports.artifacts import STORE_ID
from proxy.stores.durable import PLAIN, read_small, sync_directory
from proxy.stores.file_artifacts.files import disk_errors

#: Seconds that another replica has to write the id, and the pause between two looks.
_WRITING, _PAUSE = 2.0, 0.05


class Volume:
    """The volume that the directory `root` is on. Another one, or the empty place where it should
    be mounted, has another id or none.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / STORE_ID
        self._id: str | None = None

    def find(self) -> str | None:
        """The id, None without one. Raises `StoreUnavailable`."""
        with disk_errors(self._path):
            try:
                content = read_small(self._path)
            except FileNotFoundError:
                return None
        if not content:
            return None  # it is being written, or its writer was killed
        try:
            return str(uuid.UUID(content.decode("ascii").strip()))
        except ValueError as why:
            raise StoreUnavailable(f"{self._path} is damaged: delete it") from why

    def identify(self, id: str) -> str:
        """As `Identified.identify`."""
        with disk_errors(self._path):
            if self.find() is None:
                self._create(id)
            found = self._awaited()
            if found is None:
                _write(self._path, id, 0)
                sync_directory(self._path.parent)
        self._id = found or id
        return self._id

    def _create(self, id: str) -> None:
        """Write the id unless there is a file. It is whole at once, however slow the volume is."""
        draft = self._path.with_name(f"{STORE_ID}.{uuid.uuid4()}")
        try:
            _write(draft, id, os.O_EXCL)
            os.link(draft, self._path)
        except FileExistsError:
            pass
        except OSError:  # CIFS and drvfs do not support hard links
            with suppress(FileExistsError):
                _write(self._path, id, os.O_EXCL)
        finally:
            draft.unlink(missing_ok=True)
        sync_directory(self._path.parent)

    def _awaited(self) -> str | None:
        """The id once it is written, None if it is not."""
        until = time.monotonic() + _WRITING
        while (found := self.find()) is None and time.monotonic() < until:
            time.sleep(_PAUSE)
        return found

    def check(self) -> None:
        """Raise `StoreUnavailable` if this is not the volume that was identified."""
        if self._id is not None and self.find() != self._id:
            raise StoreUnavailable(
                f"{self._path.parent} is not the volume that it was at the start: mount it again"
            )


def _write(path: Path, id: str, flags: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | PLAIN | flags, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(f"{id}\n".encode())
        file.flush()
        os.fsync(descriptor)

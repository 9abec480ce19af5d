"""A 4 MiB reserve file. Dropping it frees enough space to record deletions on a full disk."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

_SIZE = 4 << 20
#: Created only if at least this much is free.
_PLENTY = 8 * _SIZE


class ReserveFile:
    """A file of 4 MiB at `path` that can be dropped. Blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def refill(self) -> None:
        """Create the file if it does not exist and there is enough space. Never raises
        `OSError`.
        """
        with suppress(OSError):
            if self._path.exists() or shutil.disk_usage(self._path.parent).free < _PLENTY:
                return
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                _allocate(descriptor)
            except OSError:
                self._path.unlink()
            finally:
                os.close(descriptor)

    def drop(self) -> bool:
        """Remove the file. Returns False if there was none."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True


def _allocate(descriptor: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, _SIZE)
    else:
        os.write(descriptor, bytes(_SIZE))

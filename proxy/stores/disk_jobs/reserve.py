"""Room that is put by while there is plenty, so that a full disk can still be told what is removed
from it.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

_SIZE = 4 << 20
#: Refilled only when so much is free that it takes nothing that anybody waits for.
_PLENTY = 8 * _SIZE


class ReserveFile:
    """A file of 4 MiB at `path` that can be dropped. Blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def refill(self) -> None:
        """Put room by, if it is not and there is plenty. Never raises `OSError`: it is only a
        precaution.
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
        """Give the room free; False when there was none."""
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

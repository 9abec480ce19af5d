"""The lock of a data directory. Two processes would each rely on their own copy of the jobs in
memory.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from proxy.ports import StoreUnavailable

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class DirectoryInUse(StoreUnavailable):
    """Another process uses the data directory."""


class DirectoryLock:
    """An exclusive lock on `directory`/lock. The system releases it when the process ends, even if
    it is killed.
    """

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(self._descriptor)
        except (BlockingIOError, PermissionError) as why:
            os.close(self._descriptor)
            raise DirectoryInUse(
                f"the data directory {directory} is in use by another process: stop it, or "
                "choose another storage.dir"
            ) from why
        except OSError:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)

"""Locks on files between commands. The system releases them when the file is closed, also of a
command that is killed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.platform == "win32":
    import msvcrt

    _IN_USE = PermissionError

    def wait_for_lock(descriptor: int) -> None:
        """Lock an open file, when no other process has locked it."""
        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)  # the lock is on the byte at the position
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _renamed(descriptor: int, path: Path) -> bool:
        return False  # Windows does not rename an open file

else:
    import fcntl

    _IN_USE = BlockingIOError

    def wait_for_lock(descriptor: int) -> None:
        """Lock an open file, when no other process has locked it."""
        fcntl.flock(descriptor, fcntl.LOCK_EX)

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _renamed(descriptor: int, path: Path) -> bool:
        try:
            return not os.path.samestat(os.fstat(descriptor), path.lstat())
        except FileNotFoundError:
            return True


def try_lock(descriptor: int, path: Path) -> bool:
    """Lock the file that was opened at `path`, if its file system has locks. Return False if
    another command has locked it, or has renamed it since it was opened.
    """
    try:
        _lock(descriptor)
        return not _renamed(descriptor, path)
    except _IN_USE:
        return False
    except OSError:  # for example, NFS without its lock service
        return True

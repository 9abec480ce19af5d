"""A file of lines that is replaced by an empty one before it grows too large. Everything blocks.

Several processes may append to it: a line is never split over two writes, and the one that renames
the file holds its lock. The others notice that the name means another file by then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path

if sys.platform == "win32":

    def lock(descriptor: int) -> None:
        """Do nothing: only one process writes to the file."""

else:
    import fcntl

    def lock(descriptor: int) -> None:
        """Lock the file against other processes until the descriptor is closed."""
        fcntl.flock(descriptor, fcntl.LOCK_EX)


#: Bytes of one write, if they are more than one line.
_BATCH = 256 << 10
#: Binary mode (Windows), and no symbolic link is followed.
_FLAGS = (
    os.O_WRONLY
    | os.O_APPEND
    | os.O_CREAT
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
)


class RotatedFile:
    """Appends to `path`. Before it exceeds `max_size` bytes it is renamed to `path.1`, that to
    `path.2`, and so on up to `keep`. Only the owner can read new files.

    `durable`: each line is on disk before the next one is written.
    """

    def __init__(self, path: Path, *, max_size: int, keep: int, durable: bool = False) -> None:
        self._path = path
        self._max_size = max_size
        self._keep = keep
        self._durable = durable
        self.batch = 0 if durable else min(_BATCH, max_size)
        self._descriptor = -1
        #: Whether the file may end with a part of a line.
        self._torn = False

    def write(self, lines: bytes) -> int:
        """Append lines, which end with a line feed. Return the number of bytes that need not be
        written again: of whole lines. Raises `OSError`; the call may be repeated.
        """
        self.open()
        if self._size() and self._size() + len(lines) > self._max_size:
            self._rotate(len(lines))
        before = b"\n" if self._torn else b""
        self._torn = True
        written = os.write(self._descriptor, before + lines) - len(before)
        whole = lines.rfind(b"\n", 0, max(0, written)) + 1
        if not whole:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        if self._durable:
            os.fsync(self._descriptor)
        self._torn = written > whole
        return whole

    def open(self) -> None:
        """Open the file, again if it was renamed or removed. Raises `OSError`."""
        if self._descriptor >= 0 and not self._is_current():
            self.close()
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, _FLAGS, 0o600)

    def close(self) -> None:
        """Close the file. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def _is_current(self) -> bool:
        mine = os.fstat(self._descriptor)
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return False
        return (mine.st_dev, mine.st_ino) == (named.st_dev, named.st_ino)

    def _rotate(self, more: int) -> None:
        lock(self._descriptor)
        if self._is_current() and self._size() + more > self._max_size:
            try:
                self._rename()
            except PermissionError as why:
                if getattr(why, "winerror", None) is None:
                    raise
                # Windows: another program has a file open. The next line tries it again.
        self.close()
        self.open()

    def _rename(self) -> None:
        # up to the first number that is free, as after a rotation that was not possible
        free = next((n for n in range(1, self._keep) if not self._numbered(n).exists()), self._keep)
        for number in range(free, 1, -1):
            with contextlib.suppress(FileNotFoundError):
                self._numbered(number - 1).replace(self._numbered(number))
        if sys.platform == "win32":
            self.close()  # an open file cannot be renamed
        self._path.replace(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

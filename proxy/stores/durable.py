"""Files and names that survive a power loss. Everything here blocks."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

#: Binary mode (Windows), and no symbolic link is followed.
PLAIN = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)

#: Bytes of the largest file that `read_small` reads.
_SMALL = 1 << 16

#: Windows: ERROR_ACCESS_DENIED and ERROR_SHARING_VIOLATION, the errors of renaming or removing a
#: file that is open, in this process or another one such as a virus scanner.
_IN_USE = frozenset({5, 32})

#: Errors of fsync(2) on a directory of vboxsf, CIFS and drvfs, which do not support it. They do not
#: mean that the disk has failed.
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF})
#: Devices whose lack of support has been logged.
_logged: set[int] = set()


def is_in_use(why: OSError) -> bool:
    """Whether Windows did not rename or remove a file because it is open. Other systems do."""
    return getattr(why, "winerror", None) in _IN_USE


def read_small(path: Path) -> bytes:
    """Return the content of a file of a few bytes that the proxy has written. Raises OSError, also
    for a pipe, which nobody may ever write to, and for a file that would fill the memory.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > _SMALL:
            raise OSError(errno.EINVAL, "not a small regular file")
        return file.read()


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def write_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file that only its owner can read; its name is durable after `sync_directory`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | PLAIN, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        if durable:
            os.fsync(descriptor)


def close(descriptor: int) -> None:
    """Close a file whose bytes are synced, or are not needed. NFS may report an error here as well:
    nothing depends on it, and the descriptor is free in any case.
    """
    try:
        os.close(descriptor)
    except OSError as why:
        if why.errno == errno.EBADF:
            raise


def sync_directory(directory: Path) -> None:
    """Make the names in the directory durable. Windows does so by itself.

    A file system that does not support it is logged once.
    """
    if sys.platform == "win32":
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as why:
        if why.errno not in _UNSUPPORTED:
            raise
        _log_once(directory, os.fstat(descriptor).st_dev, why)
    finally:
        close(descriptor)


def _log_once(directory: Path, device: int, why: OSError) -> None:
    if device not in _logged:
        _logged.add(device)
        log.warning(
            "the file system cannot sync directories: a power loss may undo the last rename",
            directory=str(directory),
            reason=why.strerror,
        )

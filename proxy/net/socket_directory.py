"""A directory for Unix sockets that only this user can enter."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Seconds after which the sockets of a new directory listen for certain.
_NEW = 60.0


@contextmanager
def socket_directory(prefix: str) -> Iterator[Path]:
    """A new directory, which is removed afterwards. Those of processes that were killed are removed
    before.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # others may remove it at the same time
            _remove_left(path)
    with tempfile.TemporaryDirectory(prefix=prefix) as made:
        yield Path(made)


def _remove_left(path: Path) -> None:
    """Remove the directory if this user has made it and nobody listens at its sockets."""
    status = path.lstat()
    # nobody else can replace it or its content then, not even in /tmp
    mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if not mine or stat.S_IMODE(status.st_mode) != 0o700 or time.time() - status.st_mtime < _NEW:
        return
    sockets = list(path.iterdir())
    if all(each.is_socket() and _is_refused(each) for each in sockets):
        for each in sockets:
            each.unlink()
        path.rmdir()


def _is_refused(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(os.fspath(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False

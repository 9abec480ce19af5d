"""The take-over of a partial file from the writer with a lower fence. Everything here blocks.

The bytes are copied, because the other writer may still have its file open: a process that was
stopped appends when it continues, and keeps its lock until then (CONTRACT §18).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from threading import Event

from proxy.ports import StorageFull
from proxy.stores.durable import PLAIN, close
from proxy.stores.file_artifacts import files, unsynced
from proxy.stores.file_artifacts.files import Places, disk_errors, fences, remove_all
from proxy.stores.file_artifacts.spool import Spool

if sys.platform == "linux":
    import fcntl

#: Bytes copied between two checks of `stop`.
_PIECE = 16 << 20
#: The request of ioctl(2) that makes one file a copy of another with shared blocks.
_FICLONE = 0x40049409


def take_over(places: Places, *, durable: bool, stop: Event) -> tuple[Spool | None, list[int]]:
    """The file that the highest lower fence has, as the partial file under this one, and the fences
    whose files were removed. None if there is none, or if `stop` was set.
    """
    with disk_errors(places.partial, storing=True):
        source = _source(places)
        if source is None:
            return None, []
        try:
            places.copy.unlink(missing_ok=True)
            _copy(source, places.copy, stop)
        finally:
            close(source)
        spool = Spool.of_copy(places, durable=durable, stop=stop)
        try:
            if not stop.is_set():
                spool.adopt()
                return spool, remove_all(places.directory, places.id, below=places.fence)
        except BaseException:
            spool.close()
            raise
        spool.close()
        places.copy.unlink(missing_ok=True)
        return None, []


def remove_copied(places: Places) -> list[int]:
    """Remove what a take-over has copied to the partial file, and left because it was interrupted.
    Return the fences whose files were removed.
    """
    with disk_errors(places.partial):
        if not places.fence or not places.partial.exists():
            return []
        return remove_all(places.directory, places.id, below=places.fence)


def _source(places: Places) -> int | None:
    """An open descriptor of the file, committed or not, that the highest lower fence has. None if
    the file under this fence is committed.
    """
    if places.file.exists():
        return None
    for fence in fences(places.directory, places.id):
        lower = Places(places.directory, places.id, fence)
        if fence < places.fence:
            # in this order, because a commit renames the first to the second
            for path in (lower.partial, lower.file):
                try:
                    return os.open(path, os.O_RDONLY | PLAIN)
                except FileNotFoundError:
                    continue
    return None


def _copy(source: int, path: Path, stop: Event) -> None:
    """Copy the file, with shared blocks or within the file server if the file system can. Bytes
    that the machine of its writer may not have synced are left out.

    Raises `StorageFull` before it takes space that is not enough: running exports need it.
    """
    left = unsynced.certain(source)
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | PLAIN, 0o600)
    try:
        if _clone(source, target):
            os.ftruncate(target, left)
            return
        _check_space(path.parent, left)
        if hasattr(os, "copy_file_range"):
            left -= _copy_in_kernel(source, target, left, stop)
        while not stop.is_set() and (piece := os.read(source, min(1 << 20, left))):
            left -= len(piece)
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(target, rest) :]
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(target)


def _check_space(directory: Path, size: int) -> None:
    free = files.free(directory)
    if size > free:
        raise StorageFull(f"{directory}: {size} bytes are to be copied and {free} are free")


def _clone(source: int, target: int) -> bool:
    """Make the target a copy with shared blocks, which needs no space, if the file system can."""
    if sys.platform == "linux":
        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError:
            return False
        return True
    return False


def _copy_in_kernel(source: int, target: int, size: int, stop: Event) -> int:
    """Copy as many of `size` bytes as possible, and return their number; whoever reads the rest
    reads on from there.
    """
    copied = 0
    try:
        while not stop.is_set() and (
            piece := os.copy_file_range(source, target, min(_PIECE, size - copied))
        ):
            copied += piece
    except OSError:
        pass  # the file system cannot; reading and writing meets a real failure again
    return copied

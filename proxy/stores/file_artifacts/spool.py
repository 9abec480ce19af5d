"""A partial file on disk: appended to, hashed and finally committed. Everything here blocks."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event

import structlog

from proxy.ports import Artifact, LengthMismatch, PartialLost, StoreUnavailable
from proxy.stores.durable import PLAIN, close, sync_directory
from proxy.stores.file_artifacts import unsynced
from proxy.stores.file_artifacts.files import (
    Places,
    disk_errors,
    make_directory,
    read_at,
    unlink_unless_in_use,
    write_sidecar,
)

if sys.platform != "win32":
    import fcntl

log = structlog.get_logger(__name__)

_PIECE = 1 << 20
#: Bytes after which a sync is due, and at which appending waits for it. This bounds the duration of
#: a commit, and of a sync of the job store on the same disk. It is also less than
#: `unsynced.UNSYNCED` by more than one append.
_SYNC_DUE, _SYNC_LIMIT = 16 << 20, 48 << 20
_FLAGS = os.O_RDWR | os.O_APPEND | PLAIN


class Spool:
    """An open partial file. One call at a time; only `sync_early` may run beside one other call.

    With `durable`, the bytes are synced by `sync_early`, in `keep` and before a commit, and the
    names after it: a commit that has returned survives a power loss.
    """

    def __init__(self, places: Places, descriptor: int, *, durable: bool) -> None:
        self._places = places
        self._descriptor = descriptor
        self._durable = durable
        self._digest = hashlib.sha256()
        self._synced = 0
        self._torn = False
        #: A sync has failed: the system may have dropped bytes that it had accepted, although the
        #: next sync succeeds.
        self._doubtful = False
        self._identity = _identity(os.fstat(descriptor))
        self.length = 0

    @classmethod
    def create(cls, places: Places, *, durable: bool) -> Spool:
        """Create an empty file. An earlier partial file of the job is removed."""
        with disk_errors(places.partial, storing=True):
            make_directory(places.directory, durable=durable)
            with suppress(FileNotFoundError):
                places.partial.unlink()
                _sync_removal(places, durable=durable)
            return cls._open(places, os.O_CREAT | os.O_EXCL, durable)

    @classmethod
    def resume(cls, places: Places, *, durable: bool, stop: Event) -> Spool | None:
        """Open the kept file and hash it, until `stop` is set. None if there is no kept file."""
        with disk_errors(places.partial):
            try:
                spool = cls._open(places, 0, durable)
            except FileNotFoundError:
                return None
            return spool.hashed(stop)

    @classmethod
    def of_copy(cls, places: Places, *, durable: bool, stop: Event) -> Spool:
        """The file `places.copy`, read for its digest until `stop` is set. It is not the partial
        file before `adopt`.
        """
        return cls._open(places, 0, durable, places.copy).hashed(stop)

    def adopt(self) -> None:
        """Make the file `places.copy` the partial file."""
        with disk_errors(self._places.partial, storing=True):
            self._sync(self.length)
            self._places.copy.replace(self._places.partial)
            if self._durable:
                sync_directory(self._places.directory)

    @classmethod
    def _open(cls, places: Places, flags: int, durable: bool, path: Path | None = None) -> Spool:
        descriptor = os.open(path or places.partial, _FLAGS | flags, 0o600)
        try:
            _claim(descriptor, places)
            if path is None:  # a copy was written just now, by this machine
                _drop_uncertain(descriptor, places)
            unsynced.begin(descriptor)
            return cls(places, descriptor, durable=durable)
        except BaseException:
            close(descriptor)
            raise

    def hashed(self, stop: Event) -> Spool:
        """Hash the bytes of the file, until `stop` is set. It is closed if that fails."""
        try:
            while not stop.is_set() and (piece := os.read(self._descriptor, _PIECE)):
                self._digest.update(piece)
                self.length += len(piece)
        except BaseException:
            self.close()
            raise
        return self

    def append_piece(self, piece: bytes | memoryview) -> None:
        """As `append`."""
        self.append((piece,))

    def append(self, chunks: Sequence[bytes | memoryview]) -> None:
        """Write and hash all chunks or none. After an exception the call may be repeated."""
        with disk_errors(self._places.partial, storing=True):
            self._drop_torn()
            self._torn = True
            digest, length = self._digest.copy(), self.length
            for chunk in chunks:
                _write_all(self._descriptor, chunk)
                digest.update(chunk)
                length += len(chunk)
            if length - self._synced >= _SYNC_LIMIT:
                self._sync(length)
            self._digest, self.length, self._torn = digest, length, False

    def _drop_torn(self) -> None:
        """Truncate what a failed `append` has left."""
        if self._torn:
            os.ftruncate(self._descriptor, self.length)
            self._torn = False

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of those appended."""
        return read_at(self._descriptor, start, stop - start)

    @property
    def sync_due(self) -> bool:
        """Whether it is time for `sync_early`."""
        return self._durable and self.length - self._synced >= _SYNC_DUE

    @property
    def synced(self) -> int:
        """The number of the first bytes that are synced for certain."""
        return 0 if self._doubtful else self._synced

    def sync_early(self) -> None:
        """Sync what is appended by now. A failure is left to the next call that needs a sync."""
        with suppress(OSError):
            self._sync(self.length)

    def _sync(self, length: int) -> None:
        """Sync the first `length` bytes, at least."""
        if self._durable:
            try:
                os.fsync(self._descriptor)
            except OSError:
                self._doubtful = True
                unsynced.doubt(self._descriptor)
                raise
        self._synced = max(self._synced, length)

    def _synced_whole(self) -> None:
        """Note that the whole file is synced, and that nothing follows."""
        if self._durable:
            unsynced.end(self._descriptor)

    def _verify(self) -> None:
        """If a sync has failed, compare the disk with what was appended. Raises `PartialLost`."""
        if not self._doubtful:
            return
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        digest = hashlib.sha256()
        for start in range(0, self.length, _PIECE):
            digest.update(self.read(start, min(start + _PIECE, self.length)))
        if digest.digest() != self.digest():
            raise PartialLost(f"{self._places.partial}: the disk lost bytes that were written")
        self._doubtful = False
        unsynced.begin(self._descriptor)

    def digest(self) -> bytes:
        """The SHA-256 of what was appended."""
        return self._digest.digest()

    def commit(self, artifact: Artifact, record_copy: bytes) -> None:
        """Make the file the job's artifact. Raises `LengthMismatch`, and `PartialLost` if the path
        names another file or none. After `StoreUnavailable` the call may be repeated.
        """
        places = self._places
        with disk_errors(places.file, storing=True):
            self._drop_torn()
            self._withdraw()
            self._reopen()
            self._check(artifact.size)
            self._sync(artifact.size)
            self._verify()
            self._synced_whole()
            # a new sidecar must never be beside a file that was committed before
            places.file.unlink(missing_ok=True)
            write_sidecar(places, artifact, record_copy, durable=self._durable)
            self._publish()
        self.close()

    def _check(self, size: int) -> None:
        if not self._is_at(self._places.partial):
            raise PartialLost(f"{self._places.partial} was removed or replaced")
        stored = os.fstat(self._descriptor).st_size
        if not stored == self.length == size:
            raise LengthMismatch(f"{self._places.partial} holds {stored} bytes, not {size}")

    def _publish(self) -> None:
        """Rename the file, which makes it visible. Undone if that cannot be made durable."""
        places = self._places
        if sys.platform == "win32":
            self.close()  # an open file cannot be renamed there
        places.partial.replace(places.file)
        if self._durable:
            try:
                sync_directory(places.directory)
            except OSError:
                places.file.replace(places.partial)
                raise

    def _withdraw(self) -> None:
        """Undo a rename that could not be undone before."""
        if self._is_at(self._places.file) and not self._places.partial.exists():
            self._places.file.replace(self._places.partial)

    def _reopen(self) -> None:
        """Open the file again if a commit that failed has closed it. Until then that may fail too,
        for as long as a virus scanner has it.
        """
        if self._descriptor < 0 and self._is_at(self._places.partial):
            self._descriptor = os.open(self._places.partial, _FLAGS)

    def _is_at(self, path: Path) -> bool:
        try:
            return _identity(path.stat(follow_symlinks=False)) == self._identity
        except FileNotFoundError:
            return False

    def keep(self) -> None:
        """Sync and close the file. Raises `PartialLost` and removes it if the disk lost a part."""
        if self._descriptor < 0:
            return
        with disk_errors(self._places.partial, storing=True):
            try:
                if self._doubtful:
                    self._drop_torn()
                    self._verify()
                self.length = os.fstat(self._descriptor).st_size
                self._sync(self.length)
                self._synced_whole()
                if self._durable:
                    sync_directory(self._places.directory)
            except PartialLost:
                self._places.partial.unlink(missing_ok=True)
                raise
            finally:
                self.close()

    def discard(self) -> None:
        """Remove the file, unless its path names another one meanwhile."""
        with disk_errors(self._places.partial):
            try:
                mine = self._is_at(self._places.partial)
            finally:
                self.close()
            if mine:
                unlink_unless_in_use(self._places.partial)
                _sync_removal(self._places, durable=self._durable)

    def close(self) -> None:
        """Close the file. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            close(descriptor)


def _sync_removal(places: Places, *, durable: bool) -> None:
    """Make it durable that the partial file is removed: after a power loss it would be resumed as
    the beginning of the file that the next attempt of the job has received.
    """
    if durable:
        sync_directory(places.directory)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _claim(descriptor: int, places: Places) -> None:
    """Lock the file, also on a shared volume. The system releases the lock of a killed process.

    Under a fence other than 0 no other process writes the file: the volume need not support locks.
    """
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as why:
        raise StoreUnavailable(f"{places.partial} is being written") from why
    except OSError:
        if not places.fence:
            raise


def _drop_uncertain(descriptor: int, places: Places) -> None:
    """Truncate what an earlier writer may not have synced before a power loss."""
    size, certain = os.fstat(descriptor).st_size, unsynced.certain(descriptor)
    if certain < size:
        log.warning(
            "bytes that may not be on the disk are requested again",
            file=places.partial.name,
            bytes=size - certain,
        )
        os.ftruncate(descriptor, certain)


def _write_all(descriptor: int, chunk: bytes | memoryview) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(descriptor, rest) :]

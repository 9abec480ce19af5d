"""The files of an artifact store on disk. Everything here blocks and runs in a thread.

In `artifacts`/<first two of the id>/ stand `<id>.partial` while the file grows; `<id>.json`, the sidecar, written and
synced before the commit; `<id>.file`, the committed file. Renaming the partial to `.file` is the commit: whatever a
crash leaves before it is still a partial, and a sidecar alone means nothing.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from proxy.ports import Artifact, LengthMismatch, StorageFull, StoreUnavailable

if sys.platform != "win32":
    import fcntl

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_NAME = re.compile(rf"({_UUID})\.(partial|file|json|json\.new)")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PIECE = 1 << 20
#: A sync now and then bounds what the commit has to wait for, and what the job store's own sync has to wait behind.
_SYNC_EVERY = 64 << 20


def checked(id: str) -> str:
    """The id, if it is a UUID in lower case: no other text ever becomes part of a path. Raises ValueError."""
    if re.fullmatch(_UUID, id) is None:
        raise ValueError(f"not a job id: {id!r}")
    return id


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Tell a disk that is full from one that fails."""
    try:
        yield
    except OSError as why:
        kind = StorageFull if why.errno in _NO_ROOM else StoreUnavailable
        raise kind(f"{path}: {why.strerror or why}") from why


@dataclass(frozen=True, slots=True)
class Places:
    """Where the files of one job stand."""

    directory: Path
    id: str

    @property
    def partial(self) -> Path:
        """The growing file."""
        return self.directory / f"{self.id}.partial"

    @property
    def file(self) -> Path:
        """The committed file."""
        return self.directory / f"{self.id}.file"

    @property
    def sidecar(self) -> Path:
        """What is known of the committed file."""
        return self.directory / f"{self.id}.json"

    @property
    def draft(self) -> Path:
        """The sidecar being written."""
        return self.directory / f"{self.id}.json.new"


class Spool:
    """A partial file in hand: appended to, hashed as it grows. One call at a time."""

    def __init__(self, places: Places, descriptor: int, *, durable: bool) -> None:
        self._places = places
        self._descriptor = descriptor
        self._durable = durable
        self._digest = hashlib.sha256()
        self._unsynced = 0
        self._identity = _identity(os.fstat(descriptor))
        self.length = 0

    @classmethod
    def create(cls, places: Places, *, durable: bool) -> Spool:
        """An empty file; an earlier one of the job is dropped."""
        with disk_errors(places.partial):
            _make_directory(places.directory, durable)
            places.partial.unlink(missing_ok=True)
            return cls._opened(places, os.O_CREAT | os.O_EXCL, durable)

    @classmethod
    def resume(cls, places: Places, *, durable: bool, stop: Event) -> Spool | None:
        """The kept file, read once more for its digest until `stop` is set; None if there is none."""
        with disk_errors(places.partial):
            try:
                spool = cls._opened(places, 0, durable)
            except FileNotFoundError:
                return None
            try:
                spool.read_again(stop)
            except BaseException:
                spool.close()
                raise
            return spool

    @classmethod
    def _opened(cls, places: Places, flags: int, durable: bool) -> Spool:
        flags |= os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(places.partial, flags, 0o600)
        try:
            _claim(descriptor, places.partial)
            return cls(places, descriptor, durable=durable)
        except BaseException:
            os.close(descriptor)
            raise

    def read_again(self, stop: Event) -> None:
        """Take the digest of what is there; cut short by `stop`."""
        while not stop.is_set() and (piece := os.read(self._descriptor, _PIECE)):
            self._digest.update(piece)
            self.length += len(piece)

    def append(self, chunks: Sequence[bytes]) -> None:
        """Write and hash."""
        with disk_errors(self._places.partial):
            for chunk in chunks:
                _write_all(self._descriptor, chunk)
                self._digest.update(chunk)
                self.length += len(chunk)
                self._unsynced += len(chunk)
            if self._unsynced >= _SYNC_EVERY:
                self._sync()

    def _sync(self) -> None:
        if self._durable:
            os.fsync(self._descriptor)
        self._unsynced = 0

    def digest(self) -> bytes:
        """SHA-256 of what was appended."""
        return self._digest.digest()

    def commit(self, artifact: Artifact, memo: bytes) -> None:
        """Make it the job's artifact. Raises `LengthMismatch`, and `StoreUnavailable` if the file is not ours to
        commit any more because the job's file was removed or begun anew.
        """
        with disk_errors(self._places.file):
            self._check(artifact.size)
            self._sync()
            self._write_sidecar(artifact, memo)
            self.close()
            self._places.partial.replace(self._places.file)
            self._sync_directory()

    def _check(self, size: int) -> None:
        stored = os.fstat(self._descriptor).st_size
        if not stored == self.length == size:
            raise LengthMismatch(f"{self._places.partial} holds {stored} bytes, not {size}")
        if not self.owns_path():
            raise StoreUnavailable(f"{self._places.partial} was removed or begun anew")

    def owns_path(self) -> bool:
        """Whether the path still leads to this very file."""
        try:
            return _identity(self._places.partial.stat()) == self._identity
        except FileNotFoundError:
            return False

    def _write_sidecar(self, artifact: Artifact, memo: bytes) -> None:
        places = self._places
        # A file committed earlier goes first: the new sidecar must never stand beside the old file.
        places.file.unlink(missing_ok=True)
        descriptor = os.open(places.draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as draft:
            draft.write(_encode(artifact, memo))
            draft.flush()
            if self._durable:
                os.fsync(descriptor)
        places.draft.replace(places.sidecar)
        self._sync_directory()

    def _sync_directory(self) -> None:
        if self._durable:
            _sync_directory(self._places.directory)

    def keep(self) -> None:
        """Make what is there durable and let go of it."""
        if self._descriptor < 0:
            return
        with disk_errors(self._places.partial):
            try:
                self._sync()
                self._sync_directory()
            finally:
                self.close()

    def discard(self) -> None:
        """Remove it, unless the path leads to another file by now."""
        if self._descriptor < 0:
            return
        with disk_errors(self._places.partial):
            mine = self.owns_path()
            self.close()
            if mine:
                self._places.partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def make_root(root: Path) -> None:
    """Make the store's directory, for its owner's eyes only."""
    with disk_errors(root):
        root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)


def free(root: Path) -> int:
    """Bytes that this process may still store on the disk of `root`."""
    with disk_errors(root):
        return shutil.disk_usage(root).free


def _make_directory(directory: Path, durable: bool) -> None:
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        return
    if durable:
        _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    """A name is durable once its directory is (Windows keeps that promise by itself)."""
    if sys.platform == "win32":
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _claim(descriptor: int, path: Path) -> None:
    """One writer at a time, on a shared volume too; the system lets go of a killed writer's claim."""
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as why:
        raise StoreUnavailable(f"{path} is being written") from why


def _write_all(descriptor: int, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _encode(artifact: Artifact, memo: bytes) -> bytes:
    facts = {
        "size": artifact.size,
        "sha256": artifact.sha256.hex(),
        "created": artifact.created,
        "memo": base64.b64encode(memo).decode(),
    }
    return json.dumps(facts).encode()


def committed(places: Places) -> tuple[Artifact, bytes] | None:
    """The committed artifact and its memo. A file that does not fit its sidecar is none: never a short one."""
    with disk_errors(places.file):
        try:
            size = places.file.stat().st_size
            facts = json.loads(places.sidecar.read_bytes())
            artifact = Artifact(places.id, facts["size"], bytes.fromhex(facts["sha256"]), facts["created"])
            memo = base64.b64decode(facts["memo"])
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None
        return (artifact, memo) if artifact.size == size else None


def opened(places: Places) -> tuple[Artifact, int] | None:
    """The committed artifact and a descriptor to read it from."""
    with disk_errors(places.file):
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        try:
            descriptor = os.open(places.file, flags)
        except FileNotFoundError:
            return None
    try:
        found = committed(places)
        if found is not None and os.fstat(descriptor).st_size == found[0].size:
            return found[0], descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def read_at(descriptor: int, start: int, count: int) -> bytes:
    """Exactly `count` bytes from `start` on. Raises `StoreUnavailable` when there are fewer."""
    pieces = []
    with disk_errors(Path("an artifact")):
        while count:
            piece = os.pread(descriptor, count, start)
            if not piece:
                raise StoreUnavailable(f"an artifact ends at byte {start}")
            pieces.append(piece)
            start += len(piece)
            count -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def remove(places: Places) -> None:
    """Remove whatever there is of the job; the file that makes it an artifact first."""
    with disk_errors(places.file):
        for path in (places.file, places.sidecar, places.draft, places.partial):
            with suppress(NotADirectoryError):
                path.unlink(missing_ok=True)


def survey(root: Path) -> dict[tuple[str, str], int]:
    """Every file of the store: (id, kind) and its bytes."""
    found: dict[tuple[str, str], int] = {}
    with disk_errors(root):
        for directory in os.scandir(root):
            if not directory.is_dir(follow_symlinks=False):
                continue
            for entry in os.scandir(directory):
                name = _NAME.fullmatch(entry.name)
                if name is not None:
                    with suppress(FileNotFoundError):
                        found[name[1], name[2]] = entry.stat(follow_symlinks=False).st_size
    return found

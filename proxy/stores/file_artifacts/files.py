"""The files of an artifact store and their names. Everything here blocks.

The directory `artifacts`/<first two characters of the id> holds `<id>.partial` while the file
grows; `<id>.json`, the sidecar, written and synced before the commit; `<id>.file`, the committed
file. Renaming the partial file to `.file` is the commit: before it, a crash leaves a partial file,
and a sidecar alone means nothing. Under a fence other than 0 the names are `<id>.<fence>.partial`
and so on; `<id>.<fence>.copy` is a file being taken over from a lower fence.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import select
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from proxy.ports import Artifact, StorageFull, StoreUnavailable
from proxy.ports.sending import Turn
from proxy.stores.durable import PLAIN, close, is_in_use, sync_directory, write_file

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_NAME = re.compile(rf"({_UUID})(?:\.([1-9][0-9]{{0,18}}))?\.(partial|file|json|json\.new|copy)")
#: The kinds of files that count as used space.
COUNTED = ("file", "partial", "copy")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: Bytes of one sendfile(2), seconds of a turn, milliseconds for which a fast client is waited for.
_PIECE, _TURN, _WAIT = 1 << 20, 0.05, 10


def checked(id: str) -> str:
    """The id, if it is a UUID in lower case: no other text ever becomes part of a path. Raises
    ValueError.
    """
    if re.fullmatch(_UUID, id) is None:
        raise ValueError(f"not a job id: {id!r}")
    return id


@contextmanager
def disk_errors(path: Path | str, *, storing: bool = False) -> Iterator[None]:
    """Translate OSError and MemoryError to `StoreUnavailable`, and if `storing`, the OSError of a
    full disk to `StorageFull`. Some file systems need space to remove a file, too.
    """
    try:
        yield
    except OSError as why:
        kind = StorageFull if storing and why.errno in _FULL else StoreUnavailable
        raise kind(f"{path}: {why.strerror or why}") from why
    except MemoryError as why:
        raise StoreUnavailable(f"{path}: there is no memory") from why


class Entry(NamedTuple):
    """One file of the store; `kind` is its suffix."""

    id: str
    fence: int
    kind: str


@dataclass(frozen=True, slots=True)
class Places:
    """The paths of the files of one job under one fence."""

    directory: Path
    id: str
    fence: int = 0

    @property
    def partial(self) -> Path:
        """The growing file."""
        return self._path("partial")

    @property
    def copy(self) -> Path:
        """The growing file while it is copied from a lower fence."""
        return self._path("copy")

    @property
    def file(self) -> Path:
        """The committed file."""
        return self._path("file")

    @property
    def sidecar(self) -> Path:
        """The facts of the committed file, and its record copy."""
        return self._path("json")

    @property
    def draft(self) -> Path:
        """The sidecar being written."""
        return self._path("json.new")

    def entry(self, kind: str) -> Entry:
        """One of the files."""
        return Entry(self.id, self.fence, kind)

    def name(self, kind: str) -> str:
        """The name of one of the files."""
        return f"{self.id}.{self.fence}.{kind}" if self.fence else f"{self.id}.{kind}"

    def _path(self, kind: str) -> Path:
        return self.directory / self.name(kind)


def make_root(root: Path) -> None:
    """Create the store's directory, accessible to its owner only."""
    with disk_errors(root):
        root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)


def make_directory(directory: Path, *, durable: bool) -> None:
    """Create the directory, which holds the files of some jobs."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        return
    if durable:
        sync_directory(directory.parent)


def write_sidecar(places: Places, artifact: Artifact, record_copy: bytes, *, durable: bool) -> None:
    """Write the sidecar, atomically."""
    facts = {
        "size": artifact.size,
        "sha256": artifact.sha256.hex(),
        "created": artifact.created,
        "memo": base64.b64encode(record_copy).decode(),
    }
    write_file(places.draft, json.dumps(facts).encode(), durable=durable)
    places.draft.replace(places.sidecar)
    if durable:
        sync_directory(places.directory)


def committed(places: Places) -> tuple[Artifact, bytes] | None:
    """The committed artifact and its record copy. None if there is none or the file does not match
    its sidecar: a short file is never served.
    """
    # paths as text: a start looks at each file, and `Path` took most of that time
    file, sidecar = (f"{places.directory}/{places.name(kind)}" for kind in ("file", "json"))
    with disk_errors(file):
        try:
            size = os.stat(file, follow_symlinks=False).st_size  # noqa: PTH116
            with open(sidecar, "rb", buffering=0) as content:  # noqa: PTH123
                facts = json.loads(content.read())
            digest, record_copy = bytes.fromhex(facts["sha256"]), base64.b64decode(facts["memo"])
            artifact = Artifact(places.id, facts["size"], digest, float(facts["created"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
    return (artifact, record_copy) if artifact.size == size and len(digest) == 32 else None


def highest_committed(directory: Path, id: str) -> tuple[Artifact, bytes] | None:
    """The artifact that was committed under the highest fence, and its record copy, or None."""
    found = (committed(Places(directory, id, fence)) for fence in fences(directory, id))
    return next((each for each in found if each is not None), None)


def opened(places: Places) -> tuple[Artifact, int] | None:
    """The committed artifact and a descriptor to read it from."""
    with disk_errors(places.file):
        try:
            descriptor = os.open(places.file, os.O_RDONLY | PLAIN)
        except FileNotFoundError:
            return None
    try:
        found = committed(places)
        with disk_errors(places.file):
            if found is not None and os.fstat(descriptor).st_size == found[0].size:
                return found[0], descriptor
    except BaseException:
        close(descriptor)
        raise
    close(descriptor)
    return None


def opened_published(places: Places, size: int) -> tuple[Artifact, int] | None:
    """The partial file, or the committed one, if it has `size` bytes, and a descriptor to read them
    from. Their digest is not known.
    """
    with disk_errors(places.partial):
        # in this order, because a commit renames the first to the second
        for path in (places.partial, places.file):
            try:
                descriptor = os.open(path, os.O_RDONLY | PLAIN)
            except FileNotFoundError:
                continue
            try:
                enough = os.fstat(descriptor).st_size >= size
            except BaseException:
                close(descriptor)
                raise
            if enough:
                return Artifact(places.id, size, b"", 0.0), descriptor
            close(descriptor)
    return None


def read_at(descriptor: int, start: int, count: int) -> bytes:
    """Exactly `count` bytes from `start` on. Raises `StoreUnavailable` if there are fewer."""
    pieces = []
    with disk_errors("an artifact"):
        while count:
            piece = _pread(descriptor, count, start)
            if not piece:
                raise StoreUnavailable(f"an artifact ends at byte {start}")
            pieces.append(piece)
            start += len(piece)
            count -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_cached(descriptor: int, start: int, count: int) -> bytearray:
    """The bytes from `start` on that the page cache holds: at most `count`, often none.

    It never waits for the disk. On systems that do not support this it returns none.
    """
    if not sys.platform.startswith("linux"):
        return bytearray()
    piece = bytearray(count)
    try:
        got = os.preadv(descriptor, [piece], start, os.RWF_NOWAIT)
    except OSError:  # EAGAIN, or EOPNOTSUPP of the file system; `read_at` reports all others
        got = 0
    del piece[got:]
    return piece


def send(descriptor: int, socket: int, start: int, stop: int, *, patient: bool) -> Turn:
    """Send the first of the bytes [start, stop) to a non-blocking socket. A turn lasts about
    `_TURN` seconds. It ends when the socket is full; a `patient` one waits up to `_WAIT`
    milliseconds for space.

    An error ends the turn too. Whoever reads the file or writes to the socket finds the cause.
    """
    poll: select.poll | None = None
    at, ends = start, time.monotonic() + _TURN
    while at < stop and time.monotonic() < ends:
        try:
            count = os.sendfile(socket, descriptor, at, min(stop - at, _PIECE))
        except BlockingIOError:
            if patient and poll is None:
                poll = select.poll()
                poll.register(socket, select.POLLOUT)
            if poll is None or not poll.poll(_WAIT):
                return Turn(at - start, full=True)
            continue
        except OSError:
            break
        if not count:  # the file is shorter
            break
        at += count
    return Turn(at - start, full=False)


def _pread(descriptor: int, count: int, start: int) -> bytes:
    if sys.platform == "win32":
        os.lseek(descriptor, start, os.SEEK_SET)
        return os.read(descriptor, count)
    return os.pread(descriptor, count, start)


def remove(places: Places) -> None:
    """Remove all files of the job under the fence.

    Windows does not remove a file that somebody reads. It stays without its sidecar, so that nobody
    opens it again, and `survey` finds it: it is removed by a later call.
    """
    with disk_errors(places.file):
        # the partial file first: a writer that renames it to commit it does so before or never
        for path in (places.partial, places.file, places.copy):
            unlink_unless_in_use(path)
        for path in (places.sidecar, places.draft):
            path.unlink(missing_ok=True)


def unlink_unless_in_use(path: Path) -> None:
    """Remove the file, if it exists and the system removes it although somebody has it open."""
    try:
        path.unlink(missing_ok=True)
    except OSError as why:
        if not is_in_use(why):
            raise


def fences(directory: Path, id: str) -> list[int]:
    """The fences under which the job has files, the greatest first."""
    with disk_errors(directory):
        try:
            names = [path.name for path in directory.iterdir()]
        except FileNotFoundError:
            return []
    found = (_NAME.fullmatch(name) for name in names if name.startswith(id))
    return sorted({int(name[2] or 0) for name in found if name is not None}, reverse=True)


def is_superseded(places: Places, *, committed: bool = False) -> bool:
    """Whether a writer with a greater fence has the file, with all that it wants of this one, or
    has `committed` it. Only replicas have fences other than 0.
    """
    found = fences(places.directory, places.id) if places.fence else []
    later = [Places(places.directory, places.id, each) for each in found if each > places.fence]
    with disk_errors(places.directory):
        if any(each.file.exists() for each in later):
            return True
        return not committed and any(each.partial.exists() for each in later)


def remove_all(directory: Path, id: str, *, below: int | None = None) -> list[int]:
    """Remove all files of the job under all fences, or those under the fences lower than `below`.
    Return the fences.
    """
    found = [fence for fence in fences(directory, id) if below is None or fence < below]
    for fence in found:
        remove(Places(directory, id, fence))
    return found


def survey(root: Path) -> dict[Entry, int]:
    """Every file of the store, and its bytes if its kind is one of `COUNTED`."""
    with disk_errors(root), os.scandir(root) as directories:
        return {
            entry: size
            for directory in directories
            if directory.is_dir(follow_symlinks=False)
            for entry, size in _files(directory.path)
        }


def _files(directory: str) -> Iterator[tuple[Entry, int]]:
    with os.scandir(directory) as files:
        for file in files:
            name = _NAME.fullmatch(file.name)
            if name is None:
                continue
            entry = Entry(name[1], int(name[2] or 0), name[3])
            try:
                size = file.stat(follow_symlinks=False).st_size if entry.kind in COUNTED else 0
            except FileNotFoundError:
                continue
            yield entry, size


def free(root: Path) -> int:
    """Bytes that this process may still store on the disk of `root`."""
    with disk_errors(root):
        return shutil.disk_usage(root).free

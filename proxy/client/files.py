"""The downloaded file: a partial file first, then its final name."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path, PurePath

from proxy.client.errors import CommandError, CorruptFile
from proxy.client.job import Job
from proxy.client.locking import try_lock

_SUFFIX = {"Pst": ".pst", "Zip": ".zip", "Msg": ".msg"}
#: Suffixes that stand for a format. Others are kept: a .docx is a ZIP file too.
_KINDS = frozenset({*_SUFFIX.values(), ".bin"})
_UNSAFE = re.compile(r'[<>:"/\\|?*]')
#: Maximum bytes of a name, so that what is appended fits into the usual limit of 255.
_MAX_NAME = 200
#: Read and append; create the file; follow no symbolic link, where the system supports that.
_FLAGS = (
    os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
)
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)")


def with_suffix(name: str, kind: str | None) -> str:
    """Return `name` with the suffix of `kind`, if it has none or that of another kind."""
    right = _SUFFIX.get(kind or "", "")
    suffix = PurePath(name).suffix.lower()
    if not right or suffix == right:
        return name
    if suffix in _KINDS:
        return PurePath(name).with_suffix(right).name
    return name if suffix else name + right


def safe_name(job: Job) -> str:
    """Return a name that is valid on every system: VB365's, else one from title and id.

    It is a single path component, whatever the server sent.
    """
    name = _component(job.file_name or "") or _component(f"{job.title}-{job.id[:8]}") or "export"
    return with_suffix(f"_{name}" if _DEVICES.match(name) else name, job.format)


def safe_component(text: str) -> str:
    """Return a part of a name that is valid on every system, with all of `text` but what a system
    forbids. It is never empty, and never another directory.
    """
    name = _component(text.replace("/", "_").replace("\\", "_")) or "_"
    return f"_{name}" if _DEVICES.match(name) else name


def _component(text: str) -> str:
    """Return the last path component of `text` without characters that a system forbids or a
    terminal interprets. "" if nothing remains.
    """
    last = _UNSAFE.sub("_", text.replace("\\", "/").rpartition("/")[2])
    printable = "".join(character if character.isprintable() else "_" for character in last)
    return printable.encode()[-_MAX_NAME:].decode(errors="ignore").strip(" .")


class Target:
    """The path of the file. A file is replaced; in a directory, a new name is used."""

    def __init__(self, output: str | None, job: Job) -> None:
        self._exact = output is not None and not _is_directory(output)
        name = (
            _named(Path(output), job)
            if output and self._exact
            else Path(output or "") / safe_name(job)
        )
        self._path = name
        # With the id, exports with the same file name are distinct, and a later run can resume.
        self.partial = self._path.with_name(f"{self._path.name}.{job.id[:8]}.part")

    def prepare(self) -> None:
        """Create the directory."""
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def accept(self) -> Path:
        """Rename the partial file atomically and return its path."""
        path = (
            self._path
            if self._exact
            else next(path for path in _alternatives(self._path) if not path.exists())
        )
        self.partial.replace(path)
        return path


def _is_directory(output: str) -> bool:
    return Path(output).is_dir() or output.endswith(("/", os.sep))


def _named(output: Path, job: Job) -> Path:
    return output if output.suffix else output.with_name(with_suffix(output.name, job.format))


def _alternatives(path: Path) -> Iterator[Path]:
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1


class PartialFile:
    """The file while it is downloaded. `offset` is the number of bytes so far.

    It is locked, since two commands that append to one file would mix their bytes. Errors of the
    disk are `CommandError`: a `TimeoutError` of NFS would count as one of the connection.
    """

    def __init__(self, path: Path) -> None:
        """Open the file; keep and hash the bytes of an earlier run. Raises `CommandError` if
        another command downloads it, and for a symbolic link, which could make it write to any
        other file.
        """
        self._path = path
        try:
            descriptor = os.open(path, _FLAGS, 0o666)
        except OSError as why:
            if path.is_symlink():
                message = f"{path} is a symbolic link. Remove it, or choose another directory"
                raise CommandError(message) from why
            raise
        # Unbuffered: a buffer would write the bytes of a failed write again later.
        self._file = FileIO(descriptor, "a+b")
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        if not try_lock(self._file.fileno(), self._path):
            raise CommandError(f"{self._path} is in use: another command downloads this file")

    def _read(self) -> None:
        self._hash = hashlib.sha256()
        self._file.seek(0)
        while chunk := self._file.read(2**20):
            self._hash.update(chunk)
        self.offset = self._file.tell()

    def write(self, chunk: bytes) -> None:
        """Append all the bytes, or none."""
        try:
            with self._writing():
                rest = memoryview(chunk)
                while rest:
                    rest = rest[self._file.write(rest) :]
        except CommandError:
            with suppress(OSError):
                self._file.truncate(self.offset)
            raise
        self._hash.update(chunk)
        self.offset += len(chunk)

    def restart(self) -> None:
        """Remove all bytes."""
        with self._writing():
            self._file.truncate(0)
        self._hash = hashlib.sha256()
        self.offset = 0

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the bytes so far."""
        return self._hash.digest()

    def sync(self) -> None:
        """Write everything to the disk, before the file gets its name. Raises `CorruptFile` if
        another program has written to the file too.
        """
        with self._writing():
            os.fsync(self._file.fileno())
            size = os.fstat(self._file.fileno()).st_size
        if size != self.offset:
            raise CorruptFile(f"{self._path} was changed by another program")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as why:
            raise CommandError(f"{self._path} cannot be written: {why.strerror or why}") from why

    def release(self) -> None:
        """Close the file before it is renamed or removed, which Windows does with no open file.
        Elsewhere it stays locked, so that no other command continues it meanwhile.
        """
        if sys.platform == "win32":
            self.close()

    def close(self) -> None:
        """Close the file and keep it."""
        self._file.close()

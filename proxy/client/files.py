"""Files on the user's disk: a partial one beside the target, and the name the whole one gets."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import BinaryIO

from proxy.client.job import Job

_SUFFIX = {"Pst": ".pst", "Zip": ".zip", "Msg": ".msg"}
#: Suffixes that only name a kind of export. Another one (.docx is a ZIP too) is VB365's own word
#: and stays.
_KINDS = frozenset({*_SUFFIX.values(), ".bin"})
_UNSAFE = re.compile(r'[<>:"/\\|?*]')
#: Bytes of a name that leave room for what is appended to it below the usual limit of 255.
_LONGEST = 200
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)")


def with_suffix(name: str, kind: str | None) -> str:
    """`name` with the suffix of the file's `kind`, where it has none or that of another kind of
    export.
    """
    right = _SUFFIX.get(kind or "", "")
    suffix = PurePath(name).suffix.lower()
    if not right or suffix == right:
        return name
    if suffix in _KINDS:
        return PurePath(name).with_suffix(right).name
    return name if suffix else name + right


def safe_name(job: Job) -> str:
    """A file name that is one on every system, from the name VB365 gave (else from the verb and the
    job's id).
    """
    given = _UNSAFE.sub("_", (job.file_name or "").replace("\\", "/").rpartition("/")[2])
    given = "".join(character if character.isprintable() else "_" for character in given)
    name = (
        given.encode()[-_LONGEST:].decode(errors="ignore").strip(" .")
        or f"{job.title}-{job.id[:8]}"
    )
    return with_suffix(f"_{name}" if _DEVICES.match(name) else name, job.format)


class Target:
    """Where the file goes. A directory gets VB365's name and never loses a file; a named file is
    replaced.
    """

    def __init__(self, output: str | None, job: Job) -> None:
        self._exact = output is not None and not _is_directory(output)
        name = (
            _named(Path(output), job)
            if output and self._exact
            else Path(output or "") / safe_name(job)
        )
        self._path = name
        # The id keeps apart two exports that VB365 gave one name, and lets a later run go on with
        # this one.
        self.partial = self._path.with_name(f"{self._path.name}.{job.id[:8]}.part")

    def prepare(self) -> None:
        """Make the directory."""
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def accept(self) -> Path:
        """Give the partial file its name, in one step; the path."""
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
    """Bytes received so far, with their SHA-256. `offset` counts them."""

    def __init__(self, path: Path) -> None:
        """Go on with what an earlier run left, if anything."""
        self._file: BinaryIO = path.open("a+b")
        self._hash = hashlib.sha256()
        self._file.seek(0)
        while chunk := self._file.read(2**20):
            self._hash.update(chunk)
        self.offset = self._file.tell()

    def write(self, chunk: bytes) -> None:
        """Append."""
        self._file.write(chunk)
        self._hash.update(chunk)
        self.offset += len(chunk)

    def restart(self) -> None:
        """Forget every byte."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.offset = 0

    @property
    def digest(self) -> bytes:
        """SHA-256 of the bytes so far."""
        return self._hash.digest()

    def sync(self) -> None:
        """To the disk: a name is only given to bytes that are there."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go; the bytes stay."""
        self._file.close()

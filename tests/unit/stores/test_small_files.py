"""The small files of a data directory: what is none does not hang a start, or fill its memory."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.ports import StoreUnavailable
from proxy.ports.artifacts import STORE_ID
from proxy.stores.disk_jobs.layout import check_layout
from proxy.stores.disk_jobs.place import FilesPlace
from proxy.stores.file_artifacts.volume import Volume
from proxy.stores.owner_key import owner_key

READERS: dict[str, Callable[[Path], object]] = {
    STORE_ID: lambda path: Volume(path.parent).find(),
    "artifacts-place": lambda path: FilesPlace(path.parent).known_id("file", 1),
    "owner.key": owner_key,
    "layout": lambda path: check_layout(path.parent),
}


def large(path: Path) -> None:
    """A file of 1 GiB that takes no space on the disk."""
    path.touch()
    os.truncate(path, 1 << 30)


@pytest.mark.skipif(
    sys.platform == "win32",
    reason="Windows has no FIFOs: what is no small file is not tested there",
)
@pytest.mark.parametrize("make", [os.mkfifo, large, Path.mkdir], ids=["pipe", "large", "directory"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_small_file_is_an_error_at_once(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    make(tmp_path / name)
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0  # noqa: PTH208
    with pytest.raises((OSError, StoreUnavailable), match=r"small regular file|directory"):
        READERS[name](tmp_path / name)
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.skipif(
    sys.platform == "win32",
    reason="Windows syncs names by itself: a new key's name is not tested there",
)
def test_a_new_owner_key_outlives_a_power_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs that it connects to their callers do. Btrfs syncs a name only with its directory."""
    path, named, sync = tmp_path / "owner.key", list[bool](), os.fsync

    def note(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            named.append(path.exists())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    owner_key(path)
    assert named == [True]
    owner_key(path)
    assert named == [True]

"""Files that are open, on a system that does not rename or remove them (Windows): a virus scanner,
an editor or a download delays the change, and nothing is lost.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.logs import rotated_file
from proxy.logs.rotated_file import RotatedFile
from proxy.ports import Partial, StoreUnavailable
from proxy.stores.file_artifacts import spool, tail
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.support.artifacts import begun, committed, note
from tests.support.windows import refusing

pytestmark = pytest.mark.usefixtures("_windows")


@pytest.fixture
def _windows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("unlink", "rename", "replace"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    for module in (rotated_file, spool):
        monkeypatch.setattr(module, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(tail, "STAYS_OPEN", False)


def partial_file(directory: Path) -> Path:
    (path,) = directory.rglob("*.partial")
    return path


async def on_disk(store: FileArtifacts) -> tuple[str, Partial]:
    """A job, and its partial file with five bytes on disk."""
    job, partial = await begun(store)
    await partial.read(0, 5)  # writes them
    return job, partial


async def test_a_file_that_is_removed_while_it_is_read_is_removed_afterwards(
    tmp_path: Path,
) -> None:
    """Nobody else can open it, and the reader reads it to its end."""
    store = await FileArtifacts.at(tmp_path)
    job = await committed(store)
    reader = await store.open(job)
    assert reader is not None
    for _ in range(2):
        await store.remove(job)
        assert await store.get(job) is None
        assert await store.open(job) is None
        assert await store.record_copy(job) is None
        assert await store.ids() == {job}  # for the sweeper
        assert await store.used() == 5
    assert b"".join([piece async for piece in reader.chunks(0, 5)]) == b"12345"
    await reader.close()
    await store.remove(job)
    assert await store.ids() == set()
    assert await store.used() == 0
    await store.close()


async def test_a_file_is_committed_while_it_is_followed(tmp_path: Path) -> None:
    store = await FileArtifacts.at(tmp_path)
    job, partial = await on_disk(store)
    follower = store.tail(job)
    assert follower is not None
    assert await follower.read(0) == b"12345"
    await partial.write(b"678")
    artifact = await partial.commit(8, note)
    assert await store.get(job) == artifact
    assert await follower.read(5) == b"678"
    assert await follower.read(8) == b""
    await follower.close()
    await store.close()


async def test_a_partial_file_that_a_scanner_has_open_is_discarded(tmp_path: Path) -> None:
    store = await FileArtifacts.at(tmp_path)
    job, partial = await on_disk(store)
    with partial_file(tmp_path).open("rb"):  # a small file
        await partial.discard()
        assert await store.ids() == {job}
    await store.remove(job)
    assert await store.ids() == set()
    await store.close()


async def test_a_commit_that_a_scanner_delays_may_be_repeated(tmp_path: Path) -> None:
    store = await FileArtifacts.at(tmp_path)
    job, partial = await on_disk(store)
    with partial_file(tmp_path).open("rb"):  # a small file
        with pytest.raises(StoreUnavailable):
            await partial.commit(5, note)
        assert await store.get(job) is None
    artifact = await partial.commit(5, note)
    assert await store.get(job) == artifact
    await store.close()


@pytest.mark.parametrize("then", ["commit", "discard", "keep"])
async def test_a_commit_whose_file_cannot_be_opened_again_may_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """A scanner that shares its file with nobody. The renaming needs it closed."""
    store = await FileArtifacts.at(tmp_path)
    job, partial = await on_disk(store)
    path = partial_file(tmp_path)

    def refuse(function: Callable[..., Any]) -> Callable[..., Any]:
        def refused(named: Any, *others: Any) -> Any:
            if Path(named) == path:
                raise PermissionError(errno.EACCES, "The file is in use")
            return function(named, *others)

        return refused

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse(Path.replace))
        patch.setattr(os, "open", refuse(os.open))
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await partial.commit(5, note)
    if then == "commit":
        artifact = await partial.commit(5, note)
        assert await store.get(job) == artifact
    elif then == "discard":
        await partial.discard()
        assert not path.exists()
    else:
        await partial.keep()
        resumed = await store.resume(job)
        assert resumed is not None
        assert resumed.offset == 5
    await store.close()


@pytest.mark.parametrize("name", ["log", "log.1", "log.2"])
def test_a_log_that_another_program_has_open_is_rotated_later(tmp_path: Path, name: str) -> None:
    """The lines are written to the same file until then, and no older file is replaced."""
    path = tmp_path / "log"
    log = RotatedFile(path, max_size=8, keep=3)
    old = {"log": b"new\n", "log.1": b"one\n", "log.2": b"two\n"}
    for each, content in old.items():
        (tmp_path / each).write_bytes(content)
    lines = b"12345\n"
    with (tmp_path / name).open("rb"):
        for _ in range(3):
            assert log.write(lines) == len(lines)
    assert path.read_bytes() == b"new\n" + lines * 3
    assert log.write(lines) == len(lines)
    log.close()
    assert path.read_bytes() == lines
    assert (tmp_path / "log.1").read_bytes() == b"new\n" + lines * 3
    kept = {each.read_bytes() for each in tmp_path.glob("log.*")}
    assert kept >= {b"one\n", b"two\n"}

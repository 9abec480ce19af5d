"""Where the files of a data directory are (CONTRACT §15 `storage.artifacts`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.ports import StoreUnavailable
from proxy.stores.disk_jobs.place import check_place


def test_another_place_is_refused_while_files_are_promised(tmp_path: Path) -> None:
    check_place(tmp_path, "file", 0)
    with pytest.raises(StoreUnavailable) as refused:
        check_place(tmp_path, "s3://a/b", 1_000)
    assert "finished exports (1,000)" in str(refused.value)
    assert f"delete {tmp_path / 'artifacts-place'} to give them up" in str(refused.value)
    check_place(tmp_path, "file", 1_000)


def test_another_place_is_noted_once_no_file_is_promised(tmp_path: Path) -> None:
    check_place(tmp_path, "file", 0)
    check_place(tmp_path, "s3://a/b", 0)
    with pytest.raises(StoreUnavailable):
        check_place(tmp_path, "file", 1)


def test_a_directory_of_an_older_version_notes_its_place(tmp_path: Path) -> None:
    check_place(tmp_path, "s3://a/b", 5)
    with pytest.raises(StoreUnavailable):
        check_place(tmp_path, "file", 5)


def test_files_can_be_given_up(tmp_path: Path) -> None:
    check_place(tmp_path, "file", 5)
    (tmp_path / "artifacts-place").unlink()
    check_place(tmp_path, "s3://a/b", 5)

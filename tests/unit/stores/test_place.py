"""Where the files of a data directory are (CONTRACT §15 `storage.artifacts`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.ports import StoreUnavailable
from proxy.ports.artifacts import GIVEN_UP
from proxy.stores.disk_jobs.place import FilesPlace


@pytest.fixture
def place(tmp_path: Path) -> FilesPlace:
    return FilesPlace(tmp_path)


def test_another_place_is_refused_while_files_are_promised(place: FilesPlace) -> None:
    place.keep("file", "one")
    with pytest.raises(StoreUnavailable) as refused:
        place.known_id("s3://a/b", 1_000)
    assert "files of exports (1,000)" in str(refused.value)
    assert f"run `echo none > {place.path}` to give them up" in str(refused.value)
    assert place.known_id("file", 1_000) == "one"


def test_another_place_has_another_id_once_no_file_is_promised(place: FilesPlace) -> None:
    place.keep("file", "one")
    assert place.known_id("s3://a/b", 0) is None
    place.keep("s3://a/b", "two")
    assert place.known_id("s3://a/b", 1) == "two"
    with pytest.raises(StoreUnavailable):
        place.known_id("file", 1)


def test_a_directory_of_an_older_version_has_no_id(place: FilesPlace) -> None:
    assert place.known_id("s3://a/b", 5) is None
    place.path.write_text("s3://a/b\n")
    assert place.known_id("s3://a/b", 5) is None


def test_files_can_be_given_up(place: FilesPlace) -> None:
    place.keep("file", "one")
    place.path.write_text("none\n")
    assert place.known_id("s3://a/b", 5) == GIVEN_UP
    place.keep("s3://a/b", "two")
    assert place.known_id("s3://a/b", 5) == "two"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_can_be_given_up_with_any_shell(place: FilesPlace, encoding: str) -> None:
    """`echo` of cmd.exe leaves a space, that of Windows PowerShell writes UTF-16."""
    place.keep("file", "one")
    place.path.write_bytes("none \r\n".encode(encoding))
    assert place.known_id("file", 5) == GIVEN_UP
    place.keep("file", "two")
    assert place.known_id("file", 5) == "two"


def test_a_damaged_note_is_named(place: FilesPlace) -> None:
    place.path.write_bytes(b"\xff\xff\xff")
    with pytest.raises(StoreUnavailable, match="artifacts-place is damaged: delete it"):
        place.known_id("file", 5)


def test_an_empty_note_is_none(place: FilesPlace) -> None:
    """The files themselves then tell whether the place is the right one."""
    place.path.write_bytes(b"\n")
    assert place.known_id("file", 5) is None

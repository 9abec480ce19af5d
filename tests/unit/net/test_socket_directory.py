"""The directory of the sockets between workers (CONTRACT §15 `--workers`)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from proxy.net import socket_directory as module
from proxy.net.listening import listen_at
from proxy.net.socket_directory import socket_directory


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "_NEW", -1.0)
    return tmp_path


def left(place: Path, *, mode: int = 0o700) -> Path:
    """What a process that was killed has left behind."""
    directory = place / "p-left"
    directory.mkdir(mode=mode)
    directory.chmod(mode)
    listen_at(directory / "http.sock").close()
    return directory


def test_what_a_killed_process_has_left_is_removed(place: Path) -> None:
    left(place)
    with socket_directory("p-") as made:
        assert list(place.iterdir()) == [made]
        assert made.stat().st_mode & 0o777 == 0o700
    assert list(place.iterdir()) == []


def test_the_directory_of_a_process_that_lives_stays(place: Path) -> None:
    with socket_directory("p-") as other, listen_at(other / "http.sock"):
        with socket_directory("p-"):
            pass
        assert (other / "http.sock").is_socket()


def test_a_new_directory_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process may be about to listen."""
    monkeypatch.setattr(module, "_NEW", 60.0)
    directory = left(place)
    with socket_directory("p-"):
        assert directory.exists()


@pytest.mark.parametrize("kind", ["mode", "link", "file", "owner"])
def test_what_somebody_else_may_have_made_stays(
    place: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = left(place, mode=0o755 if kind == "mode" else 0o700)
    if kind == "link":
        directory = directory.rename(place / "elsewhere")
        (place / "p-left").symlink_to(directory)
    elif kind == "file":
        (directory / "file").touch()
    elif kind == "owner":
        monkeypatch.setattr(os, "geteuid", lambda: directory.stat().st_uid + 1)
    with socket_directory("p-"):
        assert (directory / "http.sock").is_socket()
    assert (place / "p-left").exists()

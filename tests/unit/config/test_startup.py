"""What is checked before the proxy starts (CONTRACT §15)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.config import load, startup_problems
from tests.unit.config.values import URL


def test_workers_are_refused_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """§15: several processes need sockets that Windows does not share."""
    flags = {
        "upstream.url": URL,
        "listen.workers": "2",
        "storage.dir": str(tmp_path / "data"),
    }
    settings = load(None, flags, {})
    assert startup_problems(settings) == []
    monkeypatch.setattr("proxy.config.startup.sys.platform", "win32")
    (problem,) = startup_problems(settings)
    assert str(problem) == (
        "configuration: listen.workers = 2 is not supported on Windows\n    Leave it at 1."
    )


def test_a_lease_outlives_a_missed_heartbeat(tmp_path: Path) -> None:
    """§18: otherwise a replica would lose its jobs by one renewal that is late."""
    flags = {"upstream.url": URL, "storage.dir": str(tmp_path), "cluster.heartbeat": "20s"}
    (problem,) = startup_problems(load(None, flags, {}))
    assert problem.key == "cluster.lease"
    assert startup_problems(load(None, flags | {"cluster.lease": "40s"}, {})) == []


def test_a_directory_that_cannot_be_written_is_reported_before_anything_starts(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    below = load(None, {"upstream.url": URL, "storage.dir": str(tmp_path / "file" / "below")}, {})
    assert [problem.key for problem in startup_problems(below)] == ["storage.dir"]
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        locked = load(None, {"upstream.url": URL, "storage.dir": str(tmp_path / "new")}, {})
        assert [problem.key for problem in startup_problems(locked)] == ["storage.dir"]


@pytest.mark.skipif(
    sys.platform == "win32",
    reason="Windows has no file modes: the checks of them are not tested there",
)
@pytest.mark.parametrize(
    ("mode", "parent", "problem", "command"),
    [
        (0o700, 0o755, None, ""),
        (0o755, 0o1777, None, ""),
        (0o720, 0o755, "can be written by others (mode 0720)", "chmod 700 {}/parent/data"),
        (0o1702, 0o755, "can be written by others (mode 1702)", "chmod 700 {}/parent/data"),
        (0o700, 0o757, "can be replaced by others: {}/parent has mode 0757", "chmod o-w {}/parent"),
        (None, 0o757, "can be replaced by others: {}/parent has mode 0757", "chmod o-w {}/parent"),
        (None, 0o1777, None, ""),
    ],
)
def test_a_data_directory_that_others_can_write_is_refused_with_the_command_that_fixes_it(
    mode: int | None, parent: int, problem: str | None, command: str, tmp_path: Path
) -> None:
    directory = tmp_path / "parent" / "data"
    directory.mkdir(parents=True)
    directory.chmod(mode or 0)
    if mode is None:
        directory.rmdir()
    directory.parent.chmod(parent)
    found = startup_problems(load(None, {"upstream.url": URL, "storage.dir": str(directory)}, {}))
    if problem is None:
        assert found == []
        return
    (refused,) = found
    assert refused.key == "storage.dir"
    assert refused.problem == f"= {directory} {problem.format(tmp_path)}"
    assert refused.hint == f"Run: {command.format(tmp_path)}"
    assert (
        subprocess.run(refused.hint.removeprefix("Run: "), shell=True, check=False).returncode == 0
    )
    assert (
        startup_problems(load(None, {"upstream.url": URL, "storage.dir": str(directory)}, {})) == []
    )


@pytest.mark.skipif(
    sys.platform == "win32",
    reason="Windows has no file modes: the checks of them are not tested there",
)
def test_a_data_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of root it may be: root can write everywhere."""
    settings = load(None, {"upstream.url": URL, "storage.dir": str(tmp_path)}, {})
    me = tmp_path.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: me + 1)
    if me == 0:
        assert startup_problems(settings) == []
        os.chown(tmp_path, 12345, -1)
    (refused,) = startup_problems(settings)
    assert refused.problem == f"= {tmp_path} belongs to another user"
    assert refused.hint == f"Run: chown -R {me + 1} {tmp_path} && chmod 700 {tmp_path}"

"""The commands of docs/upgrade.md that install another version with pip, without a network."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from proxy import __version__
from tests.support.commands import ROOT

PAGE = (ROOT / "docs" / "upgrade.md").read_text(encoding="utf-8")
#: Where the page has the virtual environment.
PLACE = "/opt/vb365-async-proxy"
OLDER = "0.0.9"
#: What a wheel is built from, and the locks.
SOURCES = ("proxy", "pyproject.toml", "README.md", "LICENSE")
LOCKS = ("requirements-runtime.lock", "requirements-build.lock")

pytestmark = pytest.mark.skipif(
    sys.platform == "win32",
    reason="the commands are of a POSIX shell: no upgrade is tested on Windows",
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A virtual environment that has the packages of the tests' one, pip among them."""
    place = tmp_path / "opt"
    venv.create(place, with_pip=False)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return place


def sources(directory: Path, version: str, *more: str) -> Path:
    """A copy of the sources as another version, with more modules."""
    for name in SOURCES + LOCKS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        directory.mkdir(exist_ok=True)
        copy(ROOT / name, directory / name)
    package = directory / "proxy" / "__init__.py"
    text = package.read_text(encoding="utf-8")
    named = text.replace(f'__version__ = "{__version__}"', f'__version__ = "{version}"')
    package.write_text(named, encoding="utf-8")
    for name in more:
        (directory / "proxy" / name).touch()
    return directory


def run(place: Path, line: str, cwd: Path) -> str:
    """Run a line of the page in this environment, and return its output."""
    line = line.replace(f"{PLACE}/bin/pip", f"{place}/bin/python -m pip")
    path = os.pathsep.join((f"{place}/bin", os.environ["PATH"]))
    settings = {"PATH": path, "PIP_NO_INDEX": "1", "PIP_NO_COMPILE": "1"}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        shlex.split(line),
        cwd=cwd,
        env=kept | settings | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_upgrade_and_a_downgrade_leave_the_files_of_that_version_alone(
    place: Path, tmp_path: Path
) -> None:
    """With the lines of the page: the locked packages, then the sources."""
    lines = re.findall(rf"^ *({PLACE}/bin/pip .*)$", PAGE, re.MULTILINE)
    assert [line.split()[-1] for line in lines] == ["requirements-build.lock", "."]
    older = sources(tmp_path / "older", OLDER, "removed_since.py")
    newer = sources(tmp_path / "newer", __version__)
    for source, version in ((older, OLDER), (newer, __version__), (older, OLDER)):
        for line in lines:
            run(place, line, source)
        assert run(place, "vb365-async-proxy --version", tmp_path).split()[-1] == version
        (installed,) = place.glob("lib/python*/site-packages/proxy")
        assert (installed / "removed_since.py").exists() == (version == OLDER)
        assert len(list(installed.parent.glob("vb365_async_proxy-*.dist-info"))) == 1

"""What a release consists of: its archives are reproducible and complete, and the image has a user
of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from proxy import __version__

ROOT = Path(__file__).parents[1]
NAME = f"vb365_async_proxy-{__version__}"
#: What a working copy has beside the sources.
_IGNORED = shutil.ignore_patterns(
    ".git", ".venv", ".hypothesis", ".nox", ".*_cache", "__pycache__", ".coverage*", "build", "dist"
)


class Archives(NamedTuple):
    """The files of the two archives, by their paths."""

    wheel: Path
    sdist: Path

    def in_wheel(self) -> Mapping[str, bytes]:
        with zipfile.ZipFile(self.wheel) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def in_sdist(self) -> set[str]:
        with tarfile.open(self.sdist) as archive:
            names = [member.name for member in archive if member.isfile()]
        return {name.removeprefix(f"{NAME}/") for name in names}


def copy_closed(source: str, target: str) -> None:
    """Copy a file so that only its owner can read it, with a new time."""
    shutil.copyfile(source, target)
    Path(target).chmod(Path(source).stat().st_mode & 0o700)


def begin(source: Path, *targets: str, umask: int) -> subprocess.Popen[bytes]:
    """Build the archives of a source tree in its `dist`."""
    return subprocess.Popen(
        [sys.executable, "-m", "hatchling", "build", *targets],
        cwd=source,
        env=os.environ | {"SOURCE_DATE_EPOCH": "1767225600"},
        stdout=subprocess.DEVNULL,
        umask=umask,
    )


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> list[Archives]:
    """The archives, built in two directories, from files of different times and permissions."""
    place = tmp_path_factory.mktemp("builds")
    sources = [place / "one", place / "two" / "deeper"]
    shutil.copytree(ROOT, sources[0], ignore=_IGNORED)
    shutil.copytree(ROOT, sources[1], ignore=_IGNORED, copy_function=copy_closed)
    building = [
        begin(source, umask=umask) for source, umask in zip(sources, (0o022, 0o077), strict=True)
    ]
    assert [each.wait(100) for each in building] == [0, 0]
    found = [each / "dist" / NAME for each in sources]
    return [Archives(Path(f"{each}-py3-none-any.whl"), Path(f"{each}.tar.gz")) for each in found]


@pytest.fixture(scope="module")
def built(builds: list[Archives]) -> Archives:
    return builds[0]


def tree(*below: str) -> set[str]:
    """The files of the sources, or of some of their directories."""
    ignored = {".git", ".venv", ".hypothesis", ".nox", "__pycache__", "build", "dist"}
    found = set()
    for top in below or (".",):
        for directory, folders, files in os.walk(ROOT / top):
            folders[:] = [
                each for each in folders if each not in ignored and not each.endswith("_cache")
            ]
            paths = (Path(directory, file).relative_to(ROOT) for file in files)
            found |= {path.as_posix() for path in paths if not path.name.startswith(".coverage")}
    return found - {".git"}  # a file in a worktree


def test_two_builds_have_the_same_bytes(builds: list[Archives]) -> None:
    one, two = builds
    assert one.wheel.read_bytes() == two.wheel.read_bytes()
    assert one.sdist.read_bytes() == two.sdist.read_bytes()


def test_the_wheel_holds_the_package_and_nothing_else(built: Archives) -> None:
    """With the static files, the scripts of Redis, the licences and the marker of typed packages;
    without tests.
    """
    files = built.in_wheel()
    own = {name for name in files if not name.startswith(f"{NAME}.dist-info/")}
    assert own == tree("proxy")
    for name in ("py.typed", "admin/static/app.js", "stores/redis_jobs/lua/add.lua"):
        assert f"proxy/{name}" in own
    assert files[f"{NAME}.dist-info/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_every_library_in_the_wheel_has_its_licence(built: Archives) -> None:
    vendor = "proxy/admin/static/vendor/"
    names = {name.removeprefix(vendor) for name in built.in_wheel() if name.startswith(vendor)}
    code = {name for name in names if name.endswith((".js", ".css"))}
    assert code
    for name in code:
        assert any(each.startswith(f"{name.partition('.')[0]}.LICENSE") for each in names), name


def test_the_source_archive_is_complete(built: Archives) -> None:
    """Its tests can run, and its image can be built."""
    assert built.in_sdist() == tree() | {"PKG-INFO"}


def test_the_source_archive_builds_the_same_wheel(built: Archives, tmp_path: Path) -> None:
    with tarfile.open(built.sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # since 3.11.4
        archive.extractall(tmp_path)
    source = tmp_path / NAME
    assert begin(source, "--target", "wheel", umask=0o022).wait(100) == 0
    assert (source / "dist" / built.wheel.name).read_bytes() == built.wheel.read_bytes()


def test_the_image_has_a_user_that_debian_does_not_have() -> None:
    """By its number, so that Kubernetes knows that it is not root. `useradd` fails for a name that
    exists.
    """
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (user,) = re.findall(r"^USER (.*)$", text, re.MULTILINE)
    (command,) = re.findall(r"\buseradd (.*?) \\$", text, re.MULTILINE)
    assert f"--uid {user} --gid {user} " in command
    manifest = (ROOT / "config" / "kubernetes.yaml").read_text(encoding="utf-8")
    assert f"runAsUser: {user}\n" in manifest
    # base-passwd's users of every Debian
    users = "root daemon bin sys sync games man lp mail news uucp proxy www-data backup list nobody"
    assert command.split()[-1] not in users.split()

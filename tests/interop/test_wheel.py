"""As a new user would: from an installed wheel to the verified file of a named mailbox, in the two
commands that the documents show.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from proxy import app
from proxy.simulator import Kind, Simulator, SimulatorSettings, expected_sha256
from tests.support.local_proxy import settings_of
from tests.support.programs import ended

ROOT = Path(__file__).parents[2]
SIZE = 3_000_000


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the wheel's packages, and of its command in `bin`."""
    place = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    how = ("--no-deps", "--no-build-isolation", "--no-index")
    for line in (
        ("wheel", *how, "--wheel-dir", str(place / "dist"), str(ROOT)),
        (
            "install",
            *how,
            "--find-links",
            str(place / "dist"),
            "--target",
            str(place / "lib"),
            "vb365-async-proxy",
        ),
    ):
        subprocess.run([*pip, *line], check=True, timeout=100, cwd=place)
    return place / "lib"


def commands() -> str:
    """The two commands of docs/clients.md."""
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    section = page.partition("## The export command\n")[2]
    found = re.search(r"^```bash\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert found
    assert found[1].count("\n") == 2
    return found[1]


async def test_two_commands_of_an_installed_wheel_export_a_mailbox(
    installed: Path, tmp_path: Path
) -> None:
    simulator = Simulator(SimulatorSettings(size=SIZE, generate=0.2))
    await simulator.start()
    proxy = await app.start(settings_of(simulator.url, tmp_path / "data", {}))
    environment = {
        "PATH": os.pathsep.join([str(installed / "bin"), os.environ["PATH"]]),
        "PYTHONPATH": str(installed),
        "HOME": str(tmp_path),
        "VB365_USERNAME": "alice",
        "VB365_PASSWORD": "secret-a",
    }
    login, export = commands().splitlines()
    script = (
        f'VB365_URL="$PROXY" {login.replace("$VB365_URL", "$PROXY")}\n'
        f"unset VB365_USERNAME VB365_PASSWORD\n{export}\n"
        "python -c 'import proxy; print(proxy.__file__)'"
    )
    try:
        environment["PROXY"] = proxy.url
        done = await ended("bash", "-e", "-u", "-c", script, cwd=tmp_path, env=environment)
    finally:
        await proxy.stop()
        await simulator.stop()
    name, code = done.stdout.splitlines()
    assert Path(code).is_relative_to(installed)
    digest = sha256((tmp_path / name).read_bytes()).hexdigest()
    assert digest == expected_sha256(SIZE, Kind.PST)
    assert "SHA-256 verified" in done.stderr
    assert "The restore session is stopped." in done.stderr

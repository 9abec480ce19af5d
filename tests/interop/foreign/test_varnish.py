"""varnishtest, a second and independent HTTP implementation, as client and as upstream of the proxy
(CONTRACT §12).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.interop.foreign.servers import proxy_in_front_of

SCRIPTS = sorted((Path(__file__).parent / "varnish").glob("*.vtc"))
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def free_port() -> int:
    """A port that the upstream of a script can listen on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_12_varnishtest_agrees(script: Path, tmp_path: Path) -> None:
    program = shutil.which("varnishtest", path=PATH)
    assert program, "varnishtest is missing: as root, `make system` installs Debian's varnish"
    port = free_port()
    with proxy_in_front_of(port) as front:
        command = [program, "-t", "40", "-D", f"uport={port}", "-D", f"pport={front}", str(script)]
        environment = {**os.environ, "PATH": PATH, "TMPDIR": str(tmp_path)}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=environment, check=False
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 7

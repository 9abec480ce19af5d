"""The end of the process when a library has threads that Python must not be finalized under."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: A module that aborts the process when Python is finalized, and the command line.
SCRIPT = """
import os, sys, types

class Aborting:
    def __del__(self, abort=os.abort):
        abort()

sys.modules[sys.argv.pop(1)] = module = types.ModuleType("module")
module.aborting = Aborting()
del module
from proxy.cli.main import main
main()
"""


def run(module: str, *line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, module, *line],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "code"), [(["--version"], 0), (["config", "check", "--upstream", "x"], 2)]
)
def test_python_is_not_finalized_under_the_threads_of_obstore(line: list[str], code: int) -> None:
    """The status is that of the command, and all of its output is there."""
    done = run("obstore", *line)
    assert done.returncode == code
    assert done.stdout.startswith("vb365-async-proxy ") if code == 0 else "upstream" in done.stderr


def test_otherwise_python_is_finalized() -> None:
    """So that the test above would notice."""
    assert run("another", "--version").returncode < 0

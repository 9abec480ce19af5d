"""Commands of the proxy, each in a process of its own. `support.process` runs `serve` in async
tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PYTHON = (sys.executable,)
COMMAND = (*PYTHON, "-m", "proxy")
#: Options of `serve`: any free ports.
ANY_PORTS = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
LIMIT = 60


def finished(
    *arguments: str,
    program: tuple[str, ...] = COMMAND,
    env: Mapping[str, str] | None = None,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """The result of a command that ends by itself within a minute."""
    how = {"capture_output": True, "text": True, "timeout": LIMIT} | options
    return subprocess.run([*program, *arguments], env=_environment(env), check=check, **how)


@contextmanager
def started(
    *arguments: str,
    program: tuple[str, ...] = COMMAND,
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> Iterator[subprocess.Popen[str]]:
    """A command that runs; its stderr is a pipe. It is killed at the end if it still runs."""
    how = {"stderr": subprocess.PIPE, "text": True} | options
    with subprocess.Popen([*program, *arguments], env=_environment(env), **how) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@contextmanager
def listening(*arguments: str, **options: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A command that listens, and its URL."""
    with started(*arguments, **options) as process:
        assert process.stderr is not None
        lines = [""]
        while not lines[-1].startswith("listening on "):
            lines.append(process.stderr.readline())
            assert lines[-1], f"it exited before it listened: {''.join(lines)}"
        yield process, lines[-1].split()[-1]


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    """`env`, by default that of the tests; `proxy` can be imported from any directory. The event
    loop is that of the tests (`make asyncio`).
    """
    loop = {name: value for name, value in os.environ.items() if name == "VB365_LOOP"}
    return {**(os.environ if env is None else env), **loop, "PYTHONPATH": str(ROOT)}

"""Other programs, each run to its end. `support.commands` runs those of the proxy in tests that are
not async.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any


async def ended(
    *command: str | Path, limit: float = 100, code: int | None = 0, **options: Any
) -> CompletedProcess[str]:
    """The result of a command that must end within `limit` seconds, otherwise it is killed, and
    with this exit code, if not None.
    """
    streams = {"stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE} | options
    process = await asyncio.create_subprocess_exec(*command, **streams)
    try:
        output, errors = await asyncio.wait_for(process.communicate(), limit)
    except BaseException:
        process.kill()
        await process.communicate()
        raise
    assert process.returncode is not None
    done = CompletedProcess(command, process.returncode, output.decode(), (errors or b"").decode())
    assert code in (None, done.returncode), f"exit code {done.returncode}: {done}"
    return done


async def run(program: str, *line: str, **options: Any) -> str:
    """All output of a program that is installed beside Python, which must succeed."""
    path = Path(sys.executable).parent / program
    return (await ended(path, *line, stderr=STDOUT, **options)).stdout

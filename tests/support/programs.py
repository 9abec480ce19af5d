"""Programs that are installed beside Python."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any


async def run(program: str, *line: str, **given: Any) -> str:
    """The output of a program of the environment, which must succeed within 100 seconds."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / program,
        *line,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        **given,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 100)
    except TimeoutError:
        process.kill()
        await process.communicate()
        raise
    assert process.returncode == 0, output.decode()
    return output.decode()

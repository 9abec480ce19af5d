"""`serve` as a process of its own, that can be killed, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT = 30


class Served:
    """A running `python -m proxy serve`; `log` is all that it wrote, and whole after its end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.url = ""
        self.admin_url = ""
        self.log = b""
        self._reading = asyncio.create_task(self._read())
        self._ready = asyncio.Event()

    async def _read(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.log += line
            if ready := re.match(rb"listening on (\S+)", line):
                self.url = ready[1].decode()
            if admin := re.search(rb'admin["=: ]+(http://[0-9.:]+)', line):
                self.admin_url = admin[1].decode()
            if self.url and self.admin_url:
                self._ready.set()

    async def ready(self) -> None:
        await asyncio.wait_for(self._ready.wait(), LIMIT)

    async def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        await self._over()

    async def stop(self) -> None:
        """SIGTERM."""
        if self.process.returncode is None:
            self.process.terminate()
        await self._over()

    async def _over(self) -> None:
        await asyncio.wait_for(self.process.wait(), LIMIT)
        await asyncio.wait_for(self._reading, LIMIT)


@contextlib.asynccontextmanager
async def served(upstream: str, data: Path, **settings: str) -> AsyncIterator[Served]:
    """Start `serve`; settings as the environment has them, without the prefix."""
    environ = {
        "EXPORTS__GRACE": "0s",
        "STORAGE__MIN_FREE": "1MiB",
        "LOG__LEVEL": "debug",
    } | settings
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "proxy",
            "serve",
            "--upstream",
            upstream,
            "--listen",
            "127.0.0.1:0",
        ),
        *("--admin", "127.0.0.1:0", "--data-dir", str(data)),
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            **{f"VB365_PROXY_{name}": value for name, value in environ.items()},
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    running = Served(process)
    try:
        await running.ready()
        yield running
    finally:
        if process.returncode is None:
            await running.kill()


def at_rest(data: Path) -> dict[str, bytes]:
    """Every file below the data directory, by its path there."""
    return {
        str(file.relative_to(data)): file.read_bytes()
        for file in sorted(data.rglob("*"))
        if file.is_file()
    }

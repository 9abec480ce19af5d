"""The real command in a process of its own, to be killed, and a caller of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "STORAGE__MIN_FREE": "1KiB",
    "EXPORTS__GRACE": "200ms",
    "EXPORTS__STALL_TIMEOUT": "1s",
    "LOG__LEVEL": "warning",
}


class DidNotStart(Exception):
    """The process ended before it listened; the text is what it said."""


class Proxy:
    """`python -m proxy serve` over `directory`, in front of the upstream at `upstream`.

    `descriptors` is the limit of open files that it starts with.
    """

    def __init__(
        self, directory: Path, upstream: str, *, descriptors: int | None = None, **settings: str
    ) -> None:
        names = {f"VB365_PROXY_{name}": value for name, value in (SETTINGS | settings).items()}
        self._environment = {
            k: v for k, v in os.environ.items() if not k.startswith("VB365_PROXY_")
        } | names
        self._command = [
            "serve",
            "--upstream",
            upstream,
            "--data-dir",
            str(directory),
            "--admin",
            "127.0.0.1:0",
        ]
        limit = (
            ["/bin/sh", "-c", f'ulimit -n {descriptors} && exec "$0" "$@"'] if descriptors else []
        )
        self._command = [*limit, sys.executable, "-m", "proxy", *self._command]
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.lines: list[str] = []
        self.url = ""

    async def start(self) -> None:
        """Return when it listens. Raises `DidNotStart`."""
        self._process = await asyncio.create_subprocess_exec(
            *(*self._command, "--listen", "127.0.0.1:0"),
            env=self._environment,
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )
        ready = asyncio.Event()
        self._reading = asyncio.create_task(self._read(self._process, ready))
        async with asyncio.timeout(60):
            await ready.wait()
        if self._process.returncode is not None or not self.lines[-1].startswith("listening on "):
            await self.kill()
            raise DidNotStart("".join(self.lines[-5:]))

    async def _read(self, process: asyncio.subprocess.Process, ready: asyncio.Event) -> None:
        assert process.stderr is not None
        while line := (await process.stderr.readline()).decode():
            self.lines.append(line)
            if line.startswith("listening on "):
                self.url = line.split()[-1]
                ready.set()
        ready.set()

    async def kill(self) -> None:
        """SIGKILL."""
        await self._end("kill")

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        return await self._end("terminate")

    async def _end(self, how: str) -> int:
        process, self._process = self._process, None
        if process is None or self._reading is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            getattr(process, how)()
        async with asyncio.timeout(60):
            code = await process.wait()
            await self._reading
        return code


class Caller:
    """One caller of a proxy that may be away or restart: what cannot be had now raises
    `aiohttp.ClientError`.
    """

    def __init__(self, proxy: Proxy, http: aiohttp.ClientSession, token: Mapping[str, str]) -> None:
        self.proxy, self.http, self.token = proxy, http, dict(token)

    async def ask(self, method: str, target: str, **fields: str) -> tuple[int, Any]:
        """Status and JSON document (or bytes)."""
        url = self.proxy.url + target
        body = b"{}" if method == "POST" else None
        headers = (
            self.token
            | {"Content-Type": "application/json"}
            | {k.replace("_", "-"): v for k, v in fields.items()}
        )
        async with self.http.request(method, url, data=body, headers=headers) as response:
            if response.content_type in ("application/json", "application/problem+json"):
                return response.status, await response.json()
            return response.status, await response.read()

    async def kick_off(self, path: str) -> str:
        """The id of the job."""
        status, document = await self.ask("POST", path, Prefer="respond-async")
        assert status == 202, document
        return str(document["id"])

    async def status(self, job: str) -> tuple[int, Any]:
        return await self.ask("GET", f"/v8/_async/exports/{job}")

    async def finished(self, job: str) -> Any:
        async with asyncio.timeout(40):
            while (answer := await self.status(job))[0] == 202:  # noqa: ASYNC110  # as callers do
                await asyncio.sleep(0.1)
        assert answer[0] == 200, answer
        return answer[1]

    async def file(self, job: str) -> bytes:
        status, data = await self.ask("GET", f"/v8/_async/exports/{job}/result")
        assert status == 200, data
        return bytes(data)

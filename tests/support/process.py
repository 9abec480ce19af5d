"""`python -m proxy serve` as a process of its own, and a caller of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from tests.support.forks import COMMAND, Forked, fork

ROOT = Path(__file__).parents[2]
LIMIT = 60
SETTINGS = {
    "STORAGE__MIN_FREE": "1KiB",
    "EXPORTS__GRACE": "200ms",
    "EXPORTS__STALL_TIMEOUT": "1s",
    "LOG__LEVEL": "warning",
}


class DidNotStart(Exception):
    """The process ended before it listened; the text is the end of its output."""


class ProxyProcess:
    """`serve` over `directory`, in front of `upstream`. Settings are named without their prefix.

    `descriptors` is the limit of open files that it starts with. It is forked from a process that
    has imported the proxy.
    """

    #: Start a new Python instead: its memory is that of `serve` alone.
    fresh = False
    #: The module whose `main` a forked process runs.
    program = COMMAND

    def __init__(
        self,
        directory: Path,
        upstream: str,
        *,
        descriptors: int | None = None,
        listen: str = "127.0.0.1:0",
        admin: str = "127.0.0.1:0",
        **settings: str,
    ) -> None:
        names = {f"VB365_PROXY_{name}": value for name, value in (SETTINGS | settings).items()}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("VB365_PROXY_")}
        self._environment = inherited | names
        self._arguments = ["serve", "--upstream", upstream, "--data-dir", str(directory)]
        self._arguments += ["--listen", listen, "--admin", admin]
        self._descriptors = descriptors
        self._process: asyncio.subprocess.Process | Forked | None = None
        self._reading: asyncio.Task[None] | None = None
        #: What it wrote to stderr, over all its starts.
        self.lines: list[str] = []
        self.url = ""
        self.admin_url = ""

    @property
    def log(self) -> bytes:
        """The same as the bytes that were written."""
        return "".join(self.lines).encode(errors="surrogateescape")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """The id of the process, 0 without one."""
        return 0 if self._process is None else self._process.pid

    async def start(self) -> None:
        """Return when it listens. Raises `DidNotStart`."""
        self.url = self.admin_url = ""
        self._process = await self._started()
        ready = asyncio.Event()
        self._reading = asyncio.create_task(self._read(self._process, ready))
        async with asyncio.timeout(LIMIT):
            await ready.wait()
        if not self.url:
            await self.kill()
            raise DidNotStart("".join(self.lines[-5:]))

    async def _started(self) -> asyncio.subprocess.Process | Forked:
        if not self.fresh and sys.platform == "linux":
            return await fork(self._arguments, self._environment, self._descriptors, self.program)
        limit = f'ulimit -n {self._descriptors} && exec "$0" "$@"'
        return await asyncio.create_subprocess_exec(
            *(["/bin/sh", "-c", limit] if self._descriptors else []),
            *(sys.executable, "-m", "proxy", *self._arguments),
            env=self._environment,
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def _read(
        self, process: asyncio.subprocess.Process | Forked, ready: asyncio.Event
    ) -> None:
        assert process.stderr is not None
        admin = not self._tells_admin
        while raw := await process.stderr.readline():
            line = raw.decode(errors="surrogateescape")
            self.lines.append(line)
            if line.startswith("listening on "):
                self.url = line.split()[-1]
            elif found := re.search(r'admin["=: ]+(http://[0-9.:]+)', line):
                self.admin_url, admin = found[1], True
            if self.url and admin:
                ready.set()
        ready.set()

    @property
    def _tells_admin(self) -> bool:
        """The line with the admin address is written at this log level, after the ready line."""
        return self._environment["VB365_PROXY_LOG__LEVEL"] in ("debug", "info")

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
        async with asyncio.timeout(LIMIT):
            code = await process.wait()
            await self._reading
        return code

    def memory(self, what: str = "VmRSS") -> int:
        """Resident bytes now, or with `VmHWM` the most that ever were."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        return int(status.partition(f"{what}:")[2].split()[0]) << 10


@contextlib.asynccontextmanager
async def served(upstream: str, data: Path, **settings: str) -> AsyncIterator[ProxyProcess]:
    """A running proxy, killed at the end. By default it has no grace and logs everything."""
    defaults = {"EXPORTS__GRACE": "0s", "STORAGE__MIN_FREE": "1MiB", "LOG__LEVEL": "debug"}
    process = ProxyProcess(data, upstream, descriptors=None, **(defaults | settings))
    try:
        await process.start()
        yield process
    finally:
        await process.kill()


class HasUrl(Protocol):
    """A proxy, or what is in front of it."""

    url: str


class Caller:
    """One caller of a proxy that may be away or restart: what cannot be had now raises
    `aiohttp.ClientError`.
    """

    def __init__(
        self, proxy: HasUrl, http: aiohttp.ClientSession, token: Mapping[str, str]
    ) -> None:
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
            while (response := await self.status(job))[0] == 202:  # noqa: ASYNC110  # as callers do
                await asyncio.sleep(0.1)
        assert response[0] == 200, response
        return response[1]

    async def file(self, job: str) -> bytes:
        status, data = await self.ask("GET", f"/v8/_async/exports/{job}/result")
        assert status == 200, data
        return bytes(data)

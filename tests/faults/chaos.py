"""Hundreds of exports with every kind of fault at the same time; counts what was injected and how
each export ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from proxy.core.job import ResultState
from proxy.simulator import Simulator, SimulatorSettings
from proxy.stores.disk_jobs.store import DiskJobs
from proxy.stores.file_artifacts.store import FileArtifacts
from tests.support.process import Caller, DidNotStart, HasUrl, ProxyProcess

SETTINGS: dict[str, Any] = {
    "STORAGE__MIN_FREE": "2MiB",
    "STORAGE__MAX_BYTES": "96MiB",
    "EXPORTS__MAX_RUNNING": "6",
    "EXPORTS__MAX_PER_CALLER": "500",
    "LOG__LEVEL": "error",
}
_CALLERS = 12
_DISK = 96 << 20
AWAY = (aiohttp.ClientError, ConnectionError, TimeoutError)

Fault = dict[str, Any]


@dataclass
class Report:
    """What was injected, how the accepted jobs ended, and why those failed that did."""

    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    unmet: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    bytes: int = 0

    def __str__(self) -> str:
        parts = [
            ("faults injected", self.faults),
            ("exports", self.outcomes),
            ("why jobs failed", self.reasons),
        ]
        lines = [
            (
                f"chaos: {self.seconds:.0f} s, {self.bytes / 2**20:.0f} MiB verified, "
                f"{self.unmet} faults never met"
            )
        ]
        for title, counted in parts:
            lines.append(f"  {title}: {counted.total()}")
            lines += [f"    {count:6} {name}" for name, count in counted.most_common()]
        return "\n".join(lines)


def _fault_plans(chance: random.Random, size: int) -> dict[str, list[Fault]]:
    """Faults for the POSTs of one export, by name; several faults apply one after the other."""
    at = chance.randrange(1, size)
    cut = {"cut_at": at, "count": 1}
    return {
        "cut (reset)": [{"cut_at": at // 4 + 1, "count": chance.randrange(1, 5)}],
        "cut (closed)": [{"cut_at": at, "cut": "close", "count": 1}],
        "stall": [{"stall_at": at, "stall": 3.0, "count": 1}],
        "reset before the head": [{"reset": True, "count": 1}],
        "length that lies": [{"lie": 1000, "count": 1}],
        "chunked without end": [{"framing": "chunked", "unterminated": True, "count": 1}],
        "chunked": [{"framing": "chunked"}],
        "Range ignored": [cut, {"ignore_range": True, "skip": 1, "count": 1}],
        "wrong Content-Range": [cut, {"content_range": "bytes 1-2/3", "skip": 1, "count": 1}],
        "another file": [cut | {"etag": '"a"'}, {"etag": '"b"', "skip": 1, "count": 1}],
        "500": [{"status": 500, "body": '{"message":"busy"}', "count": 1}],
        "nonsense": [{"malformed": "HTTP/1.1 200\r\nA B: c\r\n\r\n", "count": 1}],
        "token expired midway": [cut, {"expire_token": True, "skip": 1, "count": 1}],
        "slow": [{"rate": 3e6}],
        "silent before the head": [{"generate": chance.uniform(0.3, 2.0)}],
    }


class Callers:
    """Callers of a proxy that fails, and what they see. `proxy` has the URL that they use."""

    #: The share of callers who cancel or delete; that of callers who delete what they have.
    impatience = 0.06
    tidiness = 1.0
    #: The logarithm (base 2) of the largest file.
    largest = 22.0

    def __init__(self, simulator: Simulator, proxy: HasUrl, *, seed: int) -> None:
        self.chance = random.Random(seed)
        self.report = Report()
        self.proxy = proxy
        self._planned: dict[str, str] = {}
        self._simulator = simulator

    async def repeat(
        self, name: str, least: float, most: float, act: Callable[[], Awaitable[None]]
    ) -> None:
        """Inject a fault again and again, with pauses between `least` and `most` seconds."""
        while True:
            await asyncio.sleep(self.chance.uniform(least, most))
            self.report.faults[name] += 1
            await asyncio.shield(asyncio.ensure_future(act()))

    def discount_unmet(self) -> None:
        """Subtract faults for a second POST that never came."""
        waiting = {fault.path for fault in self._simulator.faults if fault.count is not None}
        self.report.unmet = len(waiting & self._planned.keys())
        self.report.faults.update(
            name for path, name in self._planned.items() if path not in waiting
        )

    async def call_for(self, http: aiohttp.ClientSession, todo: Any) -> None:
        for number in todo:
            caller = Caller(self.proxy, http, self._simulator.login())
            path, size = self._prepare(number)
            job = await self._kick_off(caller, path, f"key-{number}")
            if job is not None:
                await self._follow(caller, job, path, size)

    def _prepare(self, number: int) -> tuple[str, int]:
        """Choose a path and a size of this export alone, and perhaps faults for it."""
        paths = self._simulator.export_paths(self._simulator.open_session())
        path = next(p for p in paths if p.endswith("exportToPst"))
        size = int(2 ** self.chance.uniform(10, self.largest))
        self._simulator.fault(path=path, method="POST", size=size, seed=number)
        if self.chance.random() < 0.7:
            name, faults = self.chance.choice(list(_fault_plans(self.chance, size).items()))
            self._planned[path] = name
            for fault in faults:
                self._simulator.fault(path=path, method="POST", **fault)
        return path, size

    async def _kick_off(self, caller: Caller, path: str, key: str) -> str | None:
        """Repeat until the proxy accepts the export or relays VB365's rejection; the key makes it
        one job.
        """
        while True:
            status, document = await self._insist(
                caller,
                lambda: caller.ask("POST", path, Prefer="respond-async", Idempotency_Key=key),
            )
            if status == 202:
                return str(document["id"])
            if status not in (429, 503):
                self.report.outcomes[f"refused at kick-off with {status}"] += 1
                return None
            await asyncio.sleep(0.3)

    async def _insist(
        self, caller: Caller, ask: Callable[[], Awaitable[tuple[int, Any]]]
    ) -> tuple[int, Any]:
        """Repeat until the proxy responds; log in again when the token has expired."""
        while True:
            try:
                status, document = await ask()
            except AWAY:
                await asyncio.sleep(0.1)
                continue
            if status == 401:
                caller.token = self._simulator.login()
            elif status in (502, 503, 504) and "kick" not in str(document):
                if status in {502, 504}:
                    return status, document
                await asyncio.sleep(0.2)
            else:
                return status, document

    async def _follow(self, caller: Caller, job: str, path: str, size: int) -> None:
        wish = self.chance.random()
        own = f"/v8/_async/exports/{job}"
        if wish < self.impatience:
            await asyncio.sleep(self.chance.uniform(0, 1))
            if wish < self.impatience / 2:
                status, _ = await self._insist(caller, lambda: caller.ask("DELETE", own))
                assert status == 204, status
                self.report.outcomes["deleted by the caller"] += 1
                return
            await self._insist(caller, lambda: caller.ask("POST", own + "/cancel"))
        document = await self._terminal(caller, own)
        outcome = document["status"]
        self.report.outcomes[outcome] += 1
        if outcome in ("Success", "Warning"):
            await self._download(caller, own, path, size)
            if self.chance.random() < self.tidiness:
                await self._insist(caller, lambda: caller.ask("DELETE", own))
        elif outcome == "Failed":
            self.report.reasons[document["error"]["code"]] += 1
            assert document["error"]["message"]
        else:
            assert outcome == "Cancelled"
            assert wish < self.impatience, "no caller cancelled it"

    async def _terminal(self, caller: Caller, own: str) -> Any:
        while True:
            status, document = await self._insist(caller, lambda: caller.ask("GET", own))
            assert status in (200, 202), (status, document)
            if status == 200:
                return document
            await asyncio.sleep(0.15)

    async def _download(self, caller: Caller, own: str, path: str, size: int) -> None:
        status, data = await self._insist(caller, lambda: caller.ask("GET", own + "/result"))
        assert status == 200, data
        assert len(data) == size
        assert hashlib.sha256(data).hexdigest() == self._simulator.content(path).sha256()
        self.report.bytes += size


class Chaos(Callers):
    """A simulator, a proxy, callers, and tasks that inject faults. `disk` is the directory of the
    proxy's data.
    """

    def __init__(
        self, disk: Path, simulator: Simulator, *, seed: int, small: bool, **settings: str
    ) -> None:
        self._disk = disk
        self._small = small
        self.process = ProxyProcess(
            disk / "data",
            simulator.url,
            **(SETTINGS | settings),
        )
        super().__init__(simulator, self.process, seed=seed)

    async def run(self, exports: int, seconds: float) -> Report:
        begun = time.monotonic()
        await self.process.start()
        injectors = [asyncio.create_task(self.repeat(*each)) for each in self._injectors()]
        todo = iter(range(exports))
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as http:
            callers = [asyncio.create_task(self.call_for(http, todo)) for _ in range(_CALLERS)]
            await asyncio.wait(callers, timeout=seconds)
            for gremlin in injectors:
                gremlin.cancel()
            await asyncio.gather(*injectors, return_exceptions=True)
            self._free_disk()
            await self._ensure_running()
            await asyncio.wait_for(asyncio.gather(*callers), 120)
            await self.at_the_end()
        await self.process.stop()
        self.report.seconds = time.monotonic() - begun
        self.discount_unmet()
        await self._check_stores()
        return self.report

    async def at_the_end(self) -> None:
        """Called when all exports have ended, before the proxy stops."""

    # Fault injection

    def _injectors(self) -> list[tuple[str, float, float, Callable[[], Awaitable[None]]]]:
        made: list[tuple[str, float, float, Callable[[], Awaitable[None]]]] = [
            ("proxy killed (SIGKILL)", 1.5, 4.0, self._kill),
            ("upstream restarted", 3.0, 7.0, self._simulator.restart),
            ("upstream restarted, its files lost", 6.0, 12.0, self._restart_simulator),
            ("all upstream connections reset", 1.0, 3.0, self._drop_connections),
        ]
        if self._small:
            made.append(("disk filled", 3.0, 6.0, self._fill_disk))
        return made

    async def _kill(self) -> None:
        await self.process.kill()
        await self._ensure_running()

    async def _ensure_running(self) -> None:
        await self.process.kill()
        while True:
            try:
                await self.process.start()
            except DidNotStart:  # no space to open its database
                self.report.faults["start on a full disk"] += 1
                await asyncio.sleep(0.3)
            else:
                return

    async def _restart_simulator(self) -> None:
        await self._simulator.restart(keep_files=False)

    async def _drop_connections(self) -> None:
        self._simulator.drop_connections()

    async def _fill_disk(self) -> None:
        free = os.statvfs(self._disk)
        room = free.f_bavail * free.f_frsize
        ballast = self._disk / "ballast"
        with contextlib.suppress(OSError):
            await asyncio.to_thread(ballast.write_bytes, bytes(room))
        await asyncio.sleep(self.chance.uniform(0.3, 1.0))
        self._free_disk()

    def _free_disk(self) -> None:
        (self._disk / "ballast").unlink(missing_ok=True)

    # The end

    async def _check_stores(self) -> None:
        """Check that no file is without a record, no available result without a file, and no job
        unfinished.
        """
        jobs = await DiskJobs.open(self._disk / "data")
        artifacts = await FileArtifacts.at(self._disk / "data")
        promised = {job.id for job in await jobs.list() if job.result is ResultState.AVAILABLE}
        unfinished = [job for job in await jobs.list() if not job.terminal]
        stored = await artifacts.ids()
        await artifacts.close()
        await jobs.close()
        assert not unfinished
        assert stored == promised


@asynccontextmanager
async def small_disk(place: Path) -> AsyncIterator[bool]:
    """Mount a file system of 96 MiB at `place` if this machine allows it."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "none", str(place)]
    mounted = os.geteuid() == 0 and await _succeeds(mount)
    try:
        yield mounted
    finally:
        if mounted:
            await _succeeds(["umount", "-l", str(place)])


async def _succeeds(command: list[str]) -> bool:
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)
    return done.returncode == 0


async def run(place: Path, *, exports: int, seconds: float, seed: int) -> Report:
    """Run `exports` exports; faults are injected for at most `seconds`."""
    simulator = Simulator(SimulatorSettings(records=100_000))
    await simulator.start()
    try:
        async with small_disk(place) as small:
            chaos = Chaos(place, simulator, seed=seed, small=small)
            try:
                return await chaos.run(exports, seconds)
            finally:
                await chaos.process.kill()
    finally:
        await simulator.stop()

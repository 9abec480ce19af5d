"""A proxy between the simulator and an operator's browser."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from proxy.core.job import Job
from proxy.simulator import Simulator, SimulatorSettings
from proxy.stores.disk_jobs.store import DiskJobs
from tests.support.local_proxy import local_proxy

SIZE = 3_000_000


@dataclass
class Scene:
    """A running proxy and a caller, who has a restore session and `mailboxes` in it."""

    vb365: Simulator
    url: str
    admin: str
    http: aiohttp.ClientSession
    mailboxes: list[str] = field(default_factory=list)

    async def explore(self) -> None:
        """Sign in at VB365 and open a restore session, through the proxy."""
        form = {"grant_type": "password", "username": "alice", "password": "secret-a"}
        form |= {"disable_antiforgery_token": "true"}
        token = (await self.call("POST", "/v8/token", data=form))["access_token"]
        self.http.headers["Authorization"] = f"Bearer {token}"
        organization = (await self.call("GET", "/v8/Organizations"))["results"][0]["id"]
        moment = {"dateTime": "2026-11-23T00:00:00Z", "type": "vex"}
        session = await self.call("POST", f"/v8/Organizations/{organization}/explore", json=moment)
        path = f"/v8/RestoreSessions/{session['id']}/organization/mailboxes"
        found = (await self.call("GET", path))["results"]
        self.mailboxes = [f"{path}/{mailbox['id']}" for mailbox in found]

    async def call(self, method: str, path: str, **given: Any) -> Any:
        async with self.http.request(method, self.url + path, **given) as response:
            assert response.status < 400, await response.text()
            if response.content_type == "application/json":
                return await response.json()
            return await response.read()

    async def export(self, number: int = 0) -> str:
        """Ask for the export of a mailbox; the id of its job."""
        path = f"{self.mailboxes[number]}/exportToPst"
        job = await self.call("POST", path, json={}, headers={"Prefer": "respond-async"})
        return str(job["id"])

    async def status(self, job: str) -> Any:
        return await self.call("GET", f"/v8/_async/exports/{job}")

    async def ended(self, job: str) -> Any:
        """The document of the job when it has ended."""
        while (found := await self.status(job))["status"] == "Running":
            fields = {"Prefer": "wait=10", "If-None-Match": f'W/"{found["eTag"]}"'}
            await self.call("GET", f"/v8/_async/exports/{job}", headers=fields)
        return found

    async def fetch(self, job: str) -> None:
        await self.call("GET", f"/v8/_async/exports/{job}/result")


@contextlib.asynccontextmanager
async def scene(
    directory: Path, simulator: SimulatorSettings | None = None, **settings: str
) -> AsyncIterator[Scene]:
    """A proxy that keeps its data in `directory`, in front of a simulator."""
    async with contextlib.AsyncExitStack() as stack:
        vb365 = Simulator(simulator or SimulatorSettings(size=SIZE))
        await vb365.start("127.0.0.1", 0)
        stack.push_async_callback(vb365.stop)
        running = await stack.enter_async_context(
            local_proxy(vb365.url, directory, **({"EXPORTS__GRACE": "100ms"} | settings))
        )
        http = await stack.enter_async_context(aiohttp.ClientSession())
        made = Scene(vb365, running.url, running.admin_url, http)
        await made.explore()
        yield made


async def seed(directory: Path, jobs: Iterable[Job]) -> None:
    """Add records of earlier days to a store that no proxy has open."""
    store = await DiskJobs.open(directory)
    for job in jobs:
        await store.add(job, b"{}")
    await store.close()

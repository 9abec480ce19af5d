"""A proxy as `serve` starts it, in front of the simulator or of an upstream that a test scripts."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from proxy import app
from proxy.simulator import Simulator, SimulatorSettings
from tests.support.exports import Exports, Write, post
from tests.support.local_proxy import settings_of
from tests.support.upstreams import Responder, Scripted
from tests.support.wire import Given, Message, Peer, ask, eventually

SIZE = 200_000
EXPORT = "exportToPst"


@dataclass
class Clock:
    """The proxy's clock, in Unix seconds, `ahead` seconds fast."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@dataclass
class ApiClient:
    """A client of a running proxy; `fields` are the credentials of its ordinary caller."""

    running: app.Running
    clock: Clock
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.running.url

    async def ask(
        self,
        method: str,
        target: str,
        fields: Given | None = None,
        body: bytes | None = None,
        **more: Any,
    ) -> Message:
        """Ask with the caller's credentials, or with exactly `fields`; `more` fields have `_` for
        `-`.
        """
        given = dict(self.fields if fields is None else fields)
        given |= {name.replace("_", "-"): value for name, value in more.items()}
        return await ask(self.url, method, target, given, body)

    async def get(self, target: str, **more: Any) -> Message:
        return await self.ask("GET", target, **more)

    async def kickoff(self, path: str, *, body: bytes = b"{}", **more: Any) -> Message:
        return await self.ask("POST", path, body=body, **({"Prefer": "respond-async"} | more))

    async def begun(self, path: str, **more: Any) -> str:
        """Kick off an export and return the path of its status monitor."""
        response = await self.kickoff(path, **more)
        assert response.status == 202, response
        return self.path(response["Location"])

    def path(self, url: str) -> str:
        assert url.startswith(self.url), url
        return url.removeprefix(self.url)

    async def finished(self, status: str) -> Message:
        """Return the status response of the job once it is terminal."""
        async with asyncio.timeout(20):
            etag = ""
            while (
                response := await self.get(status, Prefer="wait=5", If_None_Match=etag or '""')
            ).status in (202, 304):
                etag = response["ETag"]
        assert response.status == 200, response
        return response

    async def until(self, status: str, over: Callable[[Any], bool]) -> Message:
        """Return the status response of the job once its document satisfies `over`."""
        async with asyncio.timeout(20):
            response = await self.get(status)
            while not over(response.json()):
                etag = response["ETag"]
                while (
                    response := await self.get(status, Prefer="wait=5", If_None_Match=etag)
                ).status == 304:
                    pass
        return response


@dataclass
class Stage(ApiClient):
    """A proxy in front of the simulator, in which alice has one restore session."""

    simulator: Simulator = field(default_factory=Simulator)
    session: str = ""

    def path_of(self, ending: str = EXPORT, version: int = 8) -> str:
        session = self.simulator.sessions.get(self.session)
        assert session is not None
        paths = self.simulator.export_paths(session, version)
        return next(path for path in paths if path.lower().endswith(ending.lower()))

    @property
    def export(self) -> str:
        return self.path_of()

    def fault(self, **fields: Any) -> None:
        self.simulator.fault(**({"path": EXPORT, "method": "POST"} | fields))

    async def done(self, **more: Any) -> str:
        """Finish an export and return the path of its status monitor."""
        status = await self.begun(self.export, **more)
        assert (await self.finished(status)).json()["status"] == "Success"
        return status

    async def held(self, count: int = 1) -> None:
        """Return once VB365 has so many exports that a fault holds. The phase Generating says only
        that the proxy is sending the POST.
        """
        await self.simulator.until(lambda: self.simulator.held >= count)

    def file(self) -> bytes:
        content = self.simulator.content(self.export)
        return bytes(content.read(0, content.size))

    def count_requests(self, part: str, method: str = "GET") -> int:
        """How many requests with `part` in their target reached the simulator."""
        return sum(
            part.lower() in one.target.lower() and one.method == method
            for one in self.simulator.requests
        )


class Play(ApiClient):
    """A proxy in front of a scripted upstream."""

    upstream: Scripted


MakeStage = Callable[..., Awaitable[Stage]]
MakePlay = Callable[..., Awaitable[Play]]


@dataclass
class RescueStage:
    """A proxy with `exports.rescue_sync` in front of a scripted VB365."""

    running: app.Running
    upstream: Exports
    clock: Clock
    start: Callable[[], Awaitable[app.Running]]
    peers: list[Peer] = field(default_factory=list)

    async def restart(self) -> None:
        """Stop the proxy, and start another one with its data."""
        await self.running.stop()
        self.running = await self.start()

    async def send(self, *args: Any, **more: Any) -> Peer:
        """Send an export POST on a new connection."""
        peer = await Peer.to(self.running.url)
        self.peers.append(peer)
        await peer.send(post(*args, **more))
        return peer

    async def export(self, *args: Any, **more: Any) -> Message:
        """The response to an export POST. The client closes the connection properly."""
        peer = await self.send(*args, **more)
        response = await peer.message(ends=True)
        await peer.close()
        return response

    async def leave(self, *args: Any, **more: Any) -> None:
        """Send an export POST, and reset the connection once VB365 works on it."""
        peer = await self.send(*args, **more)
        count = len(self.upstream.posts)
        if not count:
            await eventually(lambda: len(self.upstream.posts) > 0)
        peer.reset()

    def close(self) -> None:
        for peer in self.peers:
            peer.abort()

    async def jobs(self, token: str = "t", query: str = "") -> list[Any]:
        fields = {"Authorization": f"Bearer {token}"}
        response = await ask(self.running.url, "GET", f"/v8/_async/exports{query}", fields)
        return list(response.json()["results"])

    async def finished(self, token: str = "t", query: str = "") -> Any:
        """The document of the only job, once it is terminal."""
        async with asyncio.timeout(20):
            while True:
                jobs = await self.jobs(token, query)
                if jobs and jobs[0]["endTime"] is not None:
                    return jobs[0]
                await asyncio.sleep(0.01)

    async def joined(self, count: int, token: str = "t") -> None:
        """Return once so many POSTs have joined the newest job."""
        async with asyncio.timeout(20):
            while True:
                jobs = await self.jobs(token)
                if jobs and jobs[0]["joined"] == count:
                    return
                await asyncio.sleep(0.01)


MakeRescue = Callable[..., Awaitable[RescueStage]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def closing() -> AsyncIterator[contextlib.AsyncExitStack]:
    async with contextlib.AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def make_stage(tmp_path: Path, clock: Clock, closing: contextlib.AsyncExitStack) -> MakeStage:
    """Start the simulator and a proxy: `sim` holds settings of the simulator, keywords are settings
    of the proxy, named as in the environment.
    """

    async def make(sim: dict[str, Any] | None = None, *, data: str = "data", **given: str) -> Stage:
        simulator = Simulator(SimulatorSettings(**({"size": SIZE} | (sim or {}))))
        await simulator.start()
        closing.push_async_callback(simulator.stop)
        running = await app.start(settings_of(simulator.url, tmp_path / data, given), clock)
        closing.push_async_callback(running.stop)
        session = simulator.open_session()
        fields = simulator.login()
        return Stage(
            running=running, clock=clock, fields=fields, simulator=simulator, session=session.id
        )

    return make


@pytest.fixture
async def stage(make_stage: MakeStage) -> Stage:
    """A proxy with `exports.grace = 0s`: it responds to every kick-off at once."""
    return await make_stage()


@pytest.fixture
def make_play(tmp_path: Path, clock: Clock, closing: contextlib.AsyncExitStack) -> MakePlay:
    """Start a scripted upstream and a proxy."""

    async def make(script: Responder, *, data: str = "data", **given: str) -> Play:
        upstream = await closing.enter_async_context(Scripted(script).running())
        running = await app.start(settings_of(upstream.url, tmp_path / data, given), clock)
        closing.push_async_callback(running.stop)
        play = Play(running=running, clock=clock, fields={"Authorization": "Bearer t"})
        play.upstream = upstream
        return play

    return make


@pytest.fixture
def make_rescue(tmp_path: Path, clock: Clock, closing: contextlib.AsyncExitStack) -> MakeRescue:
    """Start a scripted VB365 and a proxy with `exports.rescue_sync`."""

    async def make(*writes: Write, tls: ssl.SSLContext | None = None, **given: str) -> RescueStage:
        upstream = await closing.enter_async_context(Exports(*writes).running(tls))
        url = upstream.url if tls is None else f"https://localhost:{upstream.port}"
        settings = {"EXPORTS__RESCUE_SYNC": "true", "EXPORTS__GRACE": "2s"} | given

        async def begin() -> app.Running:
            values = settings_of(url, tmp_path / "data", settings)
            running = await app.start(values, clock)
            closing.push_async_callback(running.stop)
            return running

        stage = RescueStage(await begin(), upstream, clock, begin)
        closing.callback(stage.close)
        return stage

    return make

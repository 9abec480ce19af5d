from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDictProxy
from yarl import URL

from proxy.simulator import Simulator, SimulatorSettings


@dataclass(frozen=True)
class Reply:
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Sends requests to a simulator as one of its users; targets are not normalized."""

    def __init__(self, http: aiohttp.ClientSession, sim: Simulator, user: str | None) -> None:
        self._http = http
        self.sim = sim
        self.headers = sim.login(user) if user else {}

    def request(self, method: str, target: str, **options: Any) -> Any:
        options["headers"] = self.headers | options.get("headers", {})
        return self._http.request(method, URL(self.sim.url + target, encoded=True), **options)

    async def call(self, method: str, target: str, **options: Any) -> Reply:
        async with self.request(method, target, **options) as response:
            return Reply(response.status, response.headers, await response.read())

    async def get(self, target: str, **options: Any) -> Reply:
        return await self.call("GET", target, **options)

    async def post(self, target: str, **options: Any) -> Reply:
        return await self.call("POST", target, **options)


Start = Callable[..., Awaitable[Simulator]]
Connect = Callable[..., Awaitable[Client]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts simulators with the given settings and stops them at the end of the test."""
    async with AsyncExitStack() as stack:

        async def start_simulator(
            now: Callable[[], float] | None = None, **settings: Any
        ) -> Simulator:
            parsed = SimulatorSettings(**settings)
            sim = Simulator(parsed) if now is None else Simulator(parsed, now=now)
            await sim.start()
            stack.push_async_callback(sim.stop)
            return sim

        yield start_simulator


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Creates clients of a simulator."""
    async with AsyncExitStack() as stack:

        async def create_client(sim: Simulator, user: str | None = "alice") -> Client:
            http = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=20),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
            return Client(await stack.enter_async_context(http), sim, user)

        yield create_client


@pytest.fixture
async def sim(start: Start) -> Simulator:
    return await start()


@pytest.fixture
async def alice(sim: Simulator, connect: Connect) -> Client:
    return await connect(sim)


async def raw(sim: Simulator, data: bytes) -> bytes:
    """Send these bytes on a new connection and return all bytes received.

    Raises ConnectionResetError if the connection is reset.
    """
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        try:
            writer.write(data)
            return await reader.read()
        finally:
            writer.close()


def post(sim: Simulator, path: str, *lines: str) -> bytes:
    """Return the bytes of an export request with Connection: close."""
    fields = {"Host": "x", "Connection": "close", **sim.login()}
    text = "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "".join(
        f"{line}\r\n" for line in lines
    )
    return f"POST {path} HTTP/1.1\r\n{text}Content-Length: 0\r\n\r\n".encode()

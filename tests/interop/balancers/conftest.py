"""A balancer in front of the proxy in front of the stand-in VB365."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from yarl import URL

from proxy import app
from proxy.simulator import Simulator, SimulatorSettings
from tests.interop.balancers.balancer import THROUGH, Balancer, Files, balancing, program
from tests.support.local_proxy import local_proxy


@pytest.fixture(params=["nginx", "haproxy"])
def name(request: pytest.FixtureRequest) -> str:
    """Each of the balancers, unless it is not on this machine."""
    if program(request.param) is None:
        pytest.skip(
            f"{request.param} is not installed (make system): the proxy behind it is not tested"
        )
    return str(request.param)


@pytest.fixture
def default_nginx_only() -> None:
    if program("nginx") is None:
        pytest.skip("nginx is not installed (make system): its defaults are not tested")


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> Files:
    return Files.write(authority, tmp_path)


@pytest.fixture
def trusting(files: Files) -> ssl.SSLContext:
    """A client's TLS that trusts the balancer's certificate."""
    return ssl.create_default_context(cafile=str(files.authority))


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def proxying(
    upstream: str, place: Path, **settings: str
) -> AbstractAsyncContextManager[app.Running]:
    """The proxy behind a balancer on loopback; see `local_proxy`."""
    trusted = {"PUBLIC__TRUSTED_PROXIES": "127.0.0.1"}
    return local_proxy(upstream, place / "data", **(trusted | settings))


@contextlib.asynccontextmanager
async def standing(
    settings: SimulatorSettings, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Simulator]:
    stand_in = Simulator(settings)
    await stand_in.start(ssl=tls)
    try:
        yield stand_in
    finally:
        await stand_in.stop()


@dataclass(frozen=True)
class Scene:
    """The whole way: `http` is a client's session, without a base address."""

    vb365: Simulator
    proxy: app.Running
    balancer: Balancer
    http: aiohttp.ClientSession

    async def kick_off(
        self, path: str, variant: int = THROUGH, prefix: str = "", **fields: str
    ) -> str:
        """Kick off an export as alice; the job's URL, as the 202 says it."""
        wanted = self.vb365.login() | {"Prefer": "respond-async"} | fields
        url = URL(f"{self.balancer.url(variant)}{prefix}{path}", encoded=True)
        async with self.http.post(url, data=b"{}", headers=wanted) as response:
            assert response.status == 202, await response.text()
            return response.headers["Location"]

    async def outcome(self, job: str) -> dict[str, Any]:
        """The job's document once it has ended, by long-polls."""
        fields = self.vb365.login() | {"Prefer": "wait=1"}
        for _ in range(60):
            async with self.http.get(job, headers=fields) as response:
                assert response.status in (200, 202), await response.text()
                if response.status == 200:
                    return dict(await response.json())
        raise TimeoutError(job)


SceneMaker = Callable[..., AbstractAsyncContextManager[Scene]]


@pytest.fixture
def scene(name: str, files: Files, tmp_path: Path, trusting: ssl.SSLContext) -> SceneMaker:
    """Set a scene: `stand_in` are settings of VB365, `changes` pieces of the balancer's
    configuration to exchange, the rest settings of the proxy.
    """

    @contextlib.asynccontextmanager
    async def made(
        *,
        stand_in: SimulatorSettings | None = None,
        changes: Mapping[str, str] | None = None,
        **settings: str,
    ) -> AsyncIterator[Scene]:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(files.both)
        trust = {"UPSTREAM__CA_FILE": str(files.authority)}
        async with (
            standing(stand_in or SimulatorSettings(), tls) as vb365,
            proxying(f"https://localhost:{vb365.port}", tmp_path, **(trust | settings)) as proxy,
            balancing(
                name, tmp_path, files, proxy=port_of(proxy.url), vb365=vb365.port, changes=changes
            ) as balancer,
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=trusting),
                timeout=aiohttp.ClientTimeout(total=60),
            ) as http,
        ):
            yield Scene(vb365, proxy, balancer, http)

    return made

"""CONTRACT §16: /healthz, /readyz, and who has access to the admin listener."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.admin.connections import Connections
from proxy.admin.guard import TokenGuard, is_served
from proxy.admin.listener import Admin
from proxy.admin.readiness import Readiness
from proxy.ports import StoreUnavailable, UpstreamUnreachable
from tests.contract.conftest import MakePlay, MakeStage
from tests.support.wire import Message, Peer, ask, eventually, raw

TOKEN = "a" * 32


async def succeed() -> dict[str, str | None]:
    return {"upstream": None}


async def empty_response(request: web.Request) -> web.Response:
    return web.json_response({})


@dataclass
class Parts:
    """The parts that readiness checks: each call waits for `gate`, is counted, and raises or
    returns what is set.
    """

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    checked: list[str] = field(default_factory=list)
    outcomes: dict[str, Any] = field(default_factory=dict)

    async def _ask(self, name: str) -> Any:
        self.checked.append(name)
        await self.gate.wait()
        outcome = self.outcomes.get(name)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def send(self, method: bytes, target: bytes, fields: Any, **times: float) -> Any:
        assert list(fields) == []
        await self._ask("upstream")
        return self

    def close(self) -> None:
        """As `Response.close`."""

    async def probe(self) -> None:
        await self._ask("jobs")

    async def check(self) -> None:
        """As `Checked.check`."""

    async def shortage(self) -> Any:
        return await self._ask("space")

    def readiness(self, timeout: float = 5.0) -> Readiness:
        parts: Any = self
        return Readiness(
            upstream=parts,
            jobs=parts,
            artifacts=parts,
            shortage=self.shortage,
            timeout=timeout,
            now=time.monotonic,
        )


Serve = Callable[..., Awaitable[Callable[..., Awaitable[Message]]]]


@pytest.fixture
async def serve() -> Any:
    servers = []

    async def start(
        *, token: str | None = None, hosts: tuple[str, ...] = (), checks: Any = succeed, **more: Any
    ) -> Any:
        guard = None if token is None else TokenGuard(token, more.get("now", lambda: 0.0))
        admin = Admin(checks=checks, hosts=hosts, guard=guard)
        admin.draining = more.get("draining", False)
        application = admin.application()
        application.router.add_get("/api/x", empty_response)
        server = TestServer(application)
        await server.start_server()
        servers.append(server)

        async def call(path: str, method: str = "GET", **fields: str) -> Message:
            return await ask(str(server.make_url("/")), method, path, fields)

        return call

    yield start
    for server in servers:
        await server.close()


# /readyz


async def test_concurrent_probes_share_one_upstream_request_and_one_write() -> None:
    """§16: probes need no credentials, so they must cost VB365 and the disk almost nothing."""
    parts = Parts()
    readiness = parts.readiness()
    probes = [asyncio.create_task(readiness()) for _ in range(100)]
    await eventually(lambda: len(parts.checked) == 3)
    probes[0].cancel()
    parts.gate.set()
    responses = await asyncio.gather(*probes[1:])
    assert responses == [{"upstream": None, "jobs": None, "artifacts": None, "space": None}] * 99
    assert sorted(parts.checked) == ["jobs", "space", "upstream"]
    await readiness()
    assert len(parts.checked) == 3, "a result is valid for a second"


def arrivals(monkeypatch: pytest.MonkeyPatch) -> list[web.Request]:
    """The requests for /readyz whose handling has begun."""
    found: list[web.Request] = []
    ready = Admin._ready

    async def noted(self: Admin, request: web.Request) -> web.Response:
        found.append(request)
        return await ready(self, request)

    monkeypatch.setattr(Admin, "_ready", noted)
    return found


async def test_concurrent_readyz_requests_share_one_upstream_request(
    make_play: MakePlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()

    async def script(request: Message) -> bytes:
        await gate.wait()
        return raw("404 Not Found")

    arrived = arrivals(monkeypatch)
    play = await make_play(script)
    probes = [asyncio.create_task(ask(play.running.admin_url, "GET", "/readyz")) for _ in range(50)]
    await eventually(lambda: len(arrived) == 50)
    gate.set()
    responses = await asyncio.gather(*probes)
    assert {response.status for response in responses} == {200}
    assert [request.first for request in play.upstream.requests] == ["GET /v8/Health HTTP/1.1"]
    assert play.upstream.requests[0]["Host"] in play.upstream.url


async def test_the_response_names_each_check_and_its_reason() -> None:
    parts = Parts()
    parts.gate.set()
    parts.outcomes = {
        "upstream": UpstreamUnreachable("refused", delivered=False),
        "space": "1.2 GiB free",
    }
    assert await parts.readiness()() == {
        "upstream": "refused",
        "jobs": None,
        "artifacts": None,
        "space": "1.2 GiB free",
    }
    parts.outcomes = {
        "jobs": StoreUnavailable("read-only"),
        "space": StoreUnavailable("gone"),
        "upstream": OSError(),
    }
    found = await parts.readiness()()
    assert (found["jobs"], found["artifacts"]) == ("read-only", "gone")
    assert found["space"] is not None
    assert found["upstream"] == "the check failed; the log says why"


async def test_a_check_that_hangs_is_named_and_not_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk that hangs makes /readyz 503, and probes do not accumulate behind it."""
    monkeypatch.setattr("proxy.admin.readiness._MARGIN", 0)
    parts = Parts()
    readiness = parts.readiness(timeout=0.05)
    for _ in range(3):
        assert (await readiness())["jobs"] == "no response within 0.05 s"
    assert readiness.latest()["jobs"] == "no response within 0.05 s"  # for /metrics
    assert sorted(parts.checked) == ["jobs", "space", "upstream"]
    parts.gate.set()


async def test_readyz_is_200_when_ready_and_503_when_not(make_stage: MakeStage) -> None:
    stage = await make_stage()
    admin = stage.running.admin_url
    checks = {name: {"ok": True} for name in ("upstream", "jobs", "artifacts", "space")}
    response = await ask(admin, "GET", "/readyz")
    assert (response.status, response.json()) == (200, {"ready": True, "checks": checks})
    assert response["Cache-Control"] == "no-store"
    for path in ("/readyz", "/healthz"):
        head = await ask(admin, "HEAD", path)
        assert (head.status, head.body) == (200, b"")


async def test_a_lack_of_space_is_reported_with_its_numbers(make_stage: MakeStage) -> None:
    stage = await make_stage(STORAGE__MIN_FREE="900TiB")
    response = await ask(stage.running.admin_url, "GET", "/readyz")
    assert response.status == 503
    assert response.json()["ready"] is False
    assert response.json()["checks"]["upstream"] == {"ok": True}
    space = response.json()["checks"]["space"]
    assert space["ok"] is False
    assert space["reason"].endswith("free, storage.min_free is 900 TiB")


async def test_excluded_checks_are_reported_and_not_counted(serve: Serve) -> None:
    """Balancers must not take all replicas out because VB365 is away from all of them."""

    async def checks() -> dict[str, str | None]:
        return {"upstream": "refused", "jobs": None, "space": "1.2 GiB free"}

    ask = await serve(checks=checks)
    assert (await ask("/readyz?exclude=upstream")).status == 503
    for query in ("exclude=upstream,space", "exclude=space&exclude=upstream"):
        ready = await ask(f"/readyz?{query}")
        assert ready.status == 200
        assert ready.json()["checks"]["upstream"] == {"ok": False, "reason": "refused"}
    unknown = await ask("/readyz?exclude=vb365")
    assert unknown.status == 400
    assert unknown.json()["detail"] == (
        "exclude=vb365 is none of the checks: jobs, space, upstream."
    )


async def test_excluding_every_check_leaves_the_shutdown(serve: Serve) -> None:
    ask = await serve(draining=True)
    assert (await ask("/readyz?exclude=upstream,shutdown")).status == 503


async def test_a_stopping_proxy_is_not_ready(serve: Serve) -> None:
    call = await serve(draining=True)
    response = await call("/readyz")
    reason = {"ok": False, "reason": "the proxy is stopping"}
    assert (response.status, response.json()) == (
        503,
        {"ready": False, "checks": {"shutdown": reason}},
    )
    assert (await call("/healthz")).status == 200


# Host


@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:9465", True),
        ("10.1.2.3:80", True),
        ("[::1]", True),
        ("[fe80::1]:9465", True),
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("admin.example.com", True),
        ("Admin.Example.com:9465", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("sub.admin.example.com", False),
        ("2130706433", False),
        ("::1", False),
        ("[127.0.0.1]", False),
        ("127.0.0.1:x", False),
        ("user@127.0.0.1", False),
        ("", False),
        (None, False),
    ],
)
def test_only_addresses_localhost_and_configured_names_are_accepted_as_host(
    host: str | None, served: bool
) -> None:
    """§16: a page whose name resolves to the listener (DNS rebinding) sends its own name
    as Host.
    """
    assert is_served(host, ["Admin.example.com"]) is served


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/api/x", "/nothing"])
async def test_any_other_host_gets_421_on_every_path(serve: Serve, path: str) -> None:
    call = await serve(hosts=("proxy.example.com",))
    assert (await call(path, Host="evil.example")).status == 421
    assert (await call(path, Host="proxy.example.com:1")).status in (200, 404)
    assert (await call(f"http://evil.example{path}", Host="localhost")).status == 421


async def test_names_in_admin_hosts_are_accepted(make_stage: MakeStage) -> None:
    stage = await make_stage(ADMIN__HOSTS="proxy.example.com")
    for host, status in (("proxy.example.com", 200), ("evil.example", 421)):
        assert (
            await ask(stage.running.admin_url, "GET", "/healthz", {"Host": host})
        ).status == status


# The token


async def test_every_path_but_the_health_checks_needs_the_token(serve: Serve) -> None:
    call = await serve(token=TOKEN)
    for path in ("/healthz", "/readyz"):
        assert (await call(path)).status == 200
    for fields in (
        {},
        {"Authorization": "Bearer b"},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer \xff"},
    ):
        response = await call("/api/x", **fields)
        assert (response.status, response["WWW-Authenticate"]) == (401, "Bearer")
        assert (await call("/nothing", **fields)).status == 401
    for scheme in ("Bearer", "bearer"):
        assert (await call("/api/x", Authorization=f"{scheme} {TOKEN}")).status == 200


async def test_after_ten_wrong_tokens_in_a_minute_even_the_right_one_gets_429(serve: Serve) -> None:
    """§16: otherwise an attacker would still learn which guess is right."""
    now = [0.0]
    call = await serve(token=TOKEN, now=lambda: now[0])
    for guess in range(10):
        assert (await call("/api/x", Authorization=f"Bearer {guess}")).status == 401
    now[0] = 59.5
    for token in ("11", TOKEN):
        response = await call("/api/x", Authorization=f"Bearer {token}")
        assert (response.status, response["Retry-After"]) == (429, "1")
    assert (await call("/api/x")).status == 401, "a missing token is not a guess"
    assert (await call("/readyz")).status == 200
    now[0] = 60.0
    assert (await call("/api/x", Authorization=f"Bearer {TOKEN}")).status == 200


def test_wrong_tokens_are_counted_per_address_in_bounded_memory() -> None:
    """A host has a whole /64 of IPv6 addresses."""
    guard = TokenGuard(TOKEN, lambda: 0.0)
    for number in range(10):
        assert not guard.accepts("Bearer x", f"2001:db8::{number}")
    assert guard.wait("2001:db8::ffff")
    assert not guard.wait("2001:db8:0:1::1")
    assert not guard.wait("10.0.0.1")
    for number in range(5000):
        guard.accepts("Bearer x", f"10.0.{number // 256}.{number % 256}")
    assert len(guard._wrong) == 1000


# Slow clients


async def test_a_connection_without_a_request_is_closed_in_time(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silent, with a head that arrives slowly, or idle after a response; other clients are served
    meanwhile.
    """
    monkeypatch.setattr("proxy.admin.listener.REQUEST_TIMEOUT", 0.5)
    stage = await make_stage()
    admin = urlsplit(stage.running.admin_url)
    starts = (
        b"",
        b"GET /healthz HTTP/1.1\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    clients = [await asyncio.open_connection(admin.hostname, admin.port) for _ in starts]
    for (_, writer), start in zip(clients, starts, strict=True):
        writer.write(start)

    async def drip() -> None:
        while True:
            await asyncio.sleep(0.1)
            clients[1][1].write(b"X: y\r\n")

    dripping = asyncio.create_task(drip())
    assert (await ask(stage.running.admin_url, "GET", "/healthz")).status == 200
    async with asyncio.timeout(10):
        for reader, writer in clients:
            await reader.read()
            writer.close()
    dripping.cancel()


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
FORM = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
SCRIPT = b"GET /static/vendor/uPlot.esm.js HTTP/1.1\r\nHost: localhost\r\n\r\n"


def accepted(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.Protocol]:
    """aiohttp's connections of admin listeners, in the order in which they were accepted."""
    found: list[asyncio.Protocol] = []
    accept = Connections.accept

    def noted(self: Connections, server: web.Server) -> asyncio.Protocol:
        connection = accept(self, server)
        found.append(getattr(connection, "handler", connection))
        return connection

    monkeypatch.setattr(Connections, "accept", noted)
    return found


@pytest.mark.parametrize("start", [b"", b"GET / H", HEALTH, FORM, SCRIPT * 100])
async def test_connections_that_wait_for_their_client_make_room_for_others(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    """Silent, within a head, idle after a response, within a body, or not reading: strangers must
    not keep the health checks away.
    """
    monkeypatch.setattr("proxy.net.descriptors.MAX_ADMIN", 3)
    connections: list[Any] = accepted(monkeypatch)
    stage = await make_stage(ADMIN__TOKEN=TOKEN)
    url = stage.running.admin_url
    peers = [await Peer.to(url, limit=1024, receive_buffer=1024) for _ in range(3)]
    await eventually(lambda: sum(each.transport is not None for each in connections) == 3)
    for peer in peers:
        await peer.send(start)
    if start == HEALTH:
        assert [(await peer.message()).status for peer in peers] == [200] * 3
    if start.startswith(SCRIPT):  # more waits than the buffers of the clients can still take
        waits = [each.transport.get_write_buffer_size for each in connections]
        await eventually(lambda: min(size() for size in waits) > 16384)
    for _ in range(3):
        assert (await ask(url, "GET", "/healthz")).status == 200
    assert await peers[0].closed()
    for peer in peers:
        peer.abort()

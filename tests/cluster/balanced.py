"""Three replicas behind HAProxy with the shipped configuration, over stores and in front of VB365
that a test can take away from each of them.
"""

from __future__ import annotations

import asyncio
import random
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import trustme
from aiohttp import web

from proxy.simulator import Simulator
from tests.interop.balancers.balancer import CONFIG, Files, filled, haproxy, running
from tests.support.byte_relay import ByteRelay, PortRelay, byte_relay, port_relay
from tests.support.object_relay import Cut, relay
from tests.support.object_stores import free_ports
from tests.support.process import DidNotStart, ProxyProcess
from tests.support.redis_server import RedisServer

COUNT = 3
LEASE = 4.0


@dataclass
class Buckets:
    """How the object store behaves, for one replica."""

    chance: random.Random
    reachable: bool = True
    #: One request in twenty fails, and all are slow.
    bad: bool = False

    async def before(self, request: web.BaseRequest) -> web.Response | None:
        """As `object_relay.Before`."""
        if self.reachable and self.bad:
            await asyncio.sleep(self.chance.expovariate(1 / 0.03))
        if not self.reachable or (self.bad and self.chance.random() < 0.02):
            raise Cut
        if self.bad and self.chance.random() < 0.03:
            return web.Response(status=self.chance.choice([500, 503]))
        return None

    async def after(self, request: web.BaseRequest) -> None:
        """As `object_relay.After`: the store has done it, and nobody is told."""
        if not self.reachable or (self.bad and self.chance.random() < 0.02):
            raise Cut


@dataclass
class Replica:
    """One replica, and its ways to the others."""

    process: ProxyProcess
    jobs: ByteRelay
    upstream: PortRelay
    buckets: Buckets
    #: Held by the fault that strikes the process.
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)

    async def start(self) -> int:
        """Start it, as often as it takes while a store is away. Return the number of failures."""
        failures = 0
        while True:
            try:
                await self.process.start()
            except DidNotStart:
                failures += 1
                await asyncio.sleep(0.3)
            else:
                return failures


class Balanced:
    """The replicas and what they share. `url` is that of HAProxy, `trusting` a client's TLS."""

    def __init__(
        self,
        replicas: list[Replica],
        *,
        url: str,
        trusting: ssl.SSLContext,
        jobs: str,
        artifacts: str,
    ) -> None:
        self.replicas = replicas
        self.url = url
        self.trusting = trusting
        #: The values of `storage.jobs` and `storage.artifacts` without relays.
        self.jobs, self.artifacts = jobs, artifacts

    def errors(self) -> list[str]:
        """The lines in which a replica reports a fault of its own, not of a store or of VB365."""
        lines = [line for replica in self.replicas for line in replica.process.lines]
        away = ("store.down", "upstream.down")
        return [
            line for line in lines if "[error" in line and not any(event in line for event in away)
        ]

    def write_logs(self, directory: Path) -> None:
        """Write what the replicas logged into files."""
        for number, replica in enumerate(self.replicas):
            text = "".join(replica.process.lines)
            (directory / f"replica-{number}.log").write_text(text, errors="replace")


@asynccontextmanager
async def balanced(
    place: Path,
    simulator: Simulator,
    server: RedisServer,
    *,
    endpoint: str | None = None,
    seed: int = 0,
    **settings: str,
) -> AsyncIterator[Balanced]:
    """Replicas that share a directory or, with the `endpoint` of S3, a bucket."""
    ports = free_ports(2 * COUNT + 1)
    prefix = str(uuid4())
    async with AsyncExitStack() as stack:
        replicas = []
        for number in range(COUNT):
            socket = place / f"jobs-{number}.sock"
            redis = await stack.enter_async_context(
                byte_relay(socket, server.directory / "redis.sock")
            )
            upstream = await stack.enter_async_context(port_relay(simulator.port))
            buckets = Buckets(random.Random(seed + number))
            given: dict[str, Any] = (
                _SETTINGS | {"STORAGE__JOBS": f"unix://{socket}?prefix={prefix}"} | settings
            )
            if endpoint is not None:
                between = relay(endpoint, buckets.before, buckets.after)
                given["STORAGE__ARTIFACTS"] = _bucket(
                    prefix, await stack.enter_async_context(between)
                )
            process = ProxyProcess(
                place / "data",
                f"http://127.0.0.1:{upstream.port}",
                listen=f"127.0.0.1:{ports[2 * number]}",
                admin=f"127.0.0.1:{ports[2 * number + 1]}",
                **given,
            )
            replicas.append(Replica(process, redis, upstream, buckets))
            stack.push_async_callback(process.kill)
        await asyncio.gather(*(replica.process.start() for replica in replicas))
        files = Files.write(trustme.CA(key_type=trustme.KeyType.ECDSA), place)
        text = _configuration(ports, files)
        await stack.enter_async_context(running(haproxy(text, place), {443: ports[-1]}, place))
        yield Balanced(
            replicas,
            url=f"https://localhost:{ports[-1]}",
            trusting=ssl.create_default_context(cafile=str(files.authority)),
            jobs=f"{server.url}?prefix={prefix}",
            artifacts="file" if endpoint is None else _bucket(prefix, endpoint),
        )


_SETTINGS = {
    "CLUSTER__HEARTBEAT": "1s",
    "CLUSTER__LEASE": f"{LEASE:g}s",
    "PUBLIC__TRUSTED_PROXIES": "127.0.0.1",
    "EXPORTS__MAX_RUNNING": "6",
    "EXPORTS__MAX_PER_CALLER": "500",
    "EXPORTS__STALL_TIMEOUT": "2s",
    "LOG__LEVEL": "info",
}


def _bucket(prefix: str, endpoint: str) -> str:
    return f"s3://tests/{prefix}?endpoint={endpoint}&allow_http=true"


def _configuration(ports: list[int], files: Files) -> str:
    """The shipped configuration with other ports, names and certificates."""
    server = "server replica-{} 127.0.0.1:{} port {}"
    servers = (server.format(n, ports[2 * n], ports[2 * n + 1]) for n in range(COUNT))
    changes = {
        "bind :4443 ssl": f"bind 127.0.0.1:{ports[-1]} ssl",
        "/etc/haproxy/vb365.pem": str(files.both),
        "server-template replica 4 proxy:4443 resolvers dns init-addr none": "\n    ".join(servers),
    }
    return filled((CONFIG / "haproxy-replicas.cfg").read_text(encoding="utf-8"), changes)

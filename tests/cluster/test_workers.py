"""CONTRACT §15 `--workers`: N processes on one port behave as one proxy, jobs on disk."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import ssl
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trustme
from aiohttp import ClientConnectorCertificateError, ClientSession

from proxy.net.board import Board
from proxy.net.budget import Tally
from proxy.net.seat import Seat
from proxy.parts.memory import ClientMemory
from proxy.simulator import Simulator, SimulatorSettings
from proxy.stores.redis_jobs.store import RedisJobs
from tests.cluster.conftest import LEASE
from tests.support.local_proxy import settings_of
from tests.support.process import DidNotStart, ProxyProcess
from tests.support.redis_server import RedisServer, free_port
from tests.support.wire import Message, Peer, ask, request_bytes

WORKERS = 3
SETTINGS = {"LOG__LEVEL": "info", "EXPORTS__GRACE": "0s", "STORAGE__MIN_FREE": "1MiB"}
SIZE = 3_000_000


class Crew:
    """A proxy of several workers, and the processes that it consists of."""

    def __init__(self, simulator: Simulator, proxy: ProxyProcess) -> None:
        self.simulator, self.proxy = simulator, proxy
        self.fields = simulator.login()
        session = simulator.open_session()
        self.export = next(
            path for path in simulator.export_paths(session) if path.endswith("exportToPst")
        )

    def workers(self) -> list[int]:
        """The pids of the workers, the first one first."""
        return children(self.proxy.pid)

    async def ask(self, method: str, path: str, body: bytes = b"", **fields: str) -> Message:
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        return await ask(self.proxy.url, method, path, self.fields | named, body)

    async def kick_off(self, **fields: str) -> str:
        accepted = await self.ask("POST", self.export, b"{}", Prefer="respond-async", **fields)
        assert accepted.status == 202, accepted
        return accepted["Location"].removeprefix(self.proxy.url)

    async def finished(self, job: str) -> Any:
        async with asyncio.timeout(40):
            while (shown := await self.ask("GET", job, Prefer="wait=2")).status == 202:
                pass
        assert shown.status == 200, shown
        return shown.json()

    async def assert_whole(self, job: str) -> None:
        assert (await self.finished(job))["status"] == "Success"
        digest = self.simulator.content(self.export).sha256()
        for _ in range(2 * WORKERS):  # every call is a connection, on any of the workers
            response = await self.ask("GET", f"{job}/result")
            assert hashlib.sha256(response.body).hexdigest() == digest


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in text.split()]


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  # other processes give no event
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def crew(
    directory: Path,
    process: type[ProxyProcess] = ProxyProcess,
    descriptors: int | None = None,
    size: int = SIZE,
    /,
    **settings: str,
) -> AsyncIterator[Crew]:
    simulator = Simulator(SimulatorSettings(size=size))
    await simulator.start()
    proxy = process(
        directory,
        simulator.url,
        descriptors=descriptors,
        **(SETTINGS | {"LISTEN__WORKERS": str(WORKERS)} | settings),
    )
    try:
        await proxy.start()
        yield Crew(simulator, proxy)
    finally:
        workers = children(proxy.pid) if proxy.pid else []
        await proxy.kill()
        await until(lambda: not any(map(alive, workers)))
        await simulator.stop()


async def test_any_worker_answers_any_call(tmp_path: Path) -> None:
    """Each call is a connection of its own, which the system gives to any of the workers."""
    async with crew(tmp_path) as proxy:
        job = await proxy.kick_off(Idempotency_Key="k1")
        await proxy.assert_whole(job)
        shown = [await proxy.ask("GET", job) for _ in range(3 * WORKERS)]
        assert {message["ETag"] for message in shown} == {shown[0]["ETag"]}
        assert {message.body for message in shown} == {shown[0].body}
        replayed = [await proxy.kick_off(Idempotency_Key="k1") for _ in range(2 * WORKERS)]
        assert set(replayed) == {job}
        assert sum(each.method == "POST" for each in proxy.simulator.requests) == 1
        part = await proxy.ask("GET", f"{job}/result", Range="bytes=1000-1999")
        assert (part.status, len(part.body)) == (206, 1000)


async def test_every_worker_passes_requests_through(tmp_path: Path) -> None:
    async with crew(tmp_path) as proxy:
        before = {pid: seconds(pid) for pid in proxy.workers()}
        async with asyncio.timeout(60):
            while not all(seconds(pid) > before[pid] for pid in before):
                responses = await asyncio.gather(
                    *(proxy.ask("GET", "/v8/RestoreSessions?limit=1") for _ in range(60))
                )
                assert {response.status for response in responses} == {200}


def seconds(pid: int) -> int:
    """CPU time of the process, in ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def test_quotas_hold_over_all_workers(tmp_path: Path) -> None:
    async with crew(tmp_path, EXPORTS__MAX_RUNNING="1", EXPORTS__MAX_PER_CALLER="3") as proxy:
        proxy.simulator.fault(path=proxy.export, method="POST", hold=True)
        requests = [
            proxy.ask("POST", proxy.export, b"{}", Prefer="respond-async, wait=0")
            for _ in range(4 * WORKERS)
        ]
        statuses = [message.status for message in await asyncio.gather(*requests)]
        assert sorted(statuses) == [202] * 3 + [429] * (4 * WORKERS - 3)
        await proxy.simulator.until(lambda: proxy.simulator.held == 1)
        phases = [
            job["phase"] for job in (await proxy.ask("GET", "/_async/exports")).json()["results"]
        ]
        assert sorted(phases) == ["Generating", "Queued", "Queued"]
        proxy.simulator.release()


def test_strangers_have_one_budget_over_all_workers(tmp_path: Path) -> None:
    """§3.1, §12: what a worker held when it died is free for its replacement."""
    heads, bodies, strange_bodies, strange_rescues = (Tally(2) for _ in range(4))
    settings = settings_of("http://vb365", tmp_path, {})

    def memory(index: int) -> ClientMemory:
        seat = Seat(
            index=index,
            count=2,
            sockets=(),
            handover=None,
            board=Board(2),
            heads=heads,
            bodies=bodies,
            strange_bodies=strange_bodies,
            strange_rescues=strange_rescues,
            ready=-1,
            alive=-1,
        )
        return ClientMemory.of(settings, seat)

    first = memory(0)
    second = memory(1)
    # a rescued body, which makes no room, counts at two workers: others fit beside them
    rescued = first.strange_rescues.limit
    assert first.strange_rescues.take(rescued)
    assert not second.strange_rescues.take(1)
    assert second.strange_bodies.take(settings.exports.max_request_body)
    first.strange_rescues.give(rescued)
    second.strange_bodies.give(settings.exports.max_request_body)
    for mine, other in ((first.heads, second.heads), (first.bodies, second.bodies)):
        assert mine.limit == other.limit == 64 << 20
        assert mine.take(mine.limit - 1)
        assert other.take(1)
        assert not other.take(1)
        mine.give(10)
        assert other.take(10)
        assert not mine.take(1)
    assert first.processes == second.processes == 2
    replaced = memory(0)
    for again, other in ((replaced.heads, second.heads), (replaced.bodies, second.bodies)):
        assert not again.take(again.limit - 10)
        assert again.take(again.limit - 11)
        assert not other.take(1)


async def test_connections_of_strangers_stop_no_client_of_any_worker(tmp_path: Path) -> None:
    """Idle connections that fill every worker: requests of connected clients are served on."""
    async with crew(tmp_path, LISTEN__MAX_CONNECTIONS=str(20 * WORKERS)) as proxy:
        path = await proxy.kick_off()
        clients = [await Peer.to(proxy.proxy.url) for _ in range(8)]

        async def served(client: Peer) -> int:
            await client.send(request_bytes("GET", path, proxy.fields, None, "h"))
            return (await client.message()).status

        assert {await served(client) for client in clients} <= {200, 202}
        crowd = [await Peer.to(proxy.proxy.url) for _ in range(60 * WORKERS)]
        for _ in range(2):
            assert {await served(client) for client in clients} <= {200, 202}
        for peer in (*clients, *crowd):
            peer.abort()


async def test_15_slow_downloads_at_all_workers_leave_descriptors(tmp_path: Path) -> None:
    """Each is a connection and an open file of the worker that runs the exports."""
    async with crew(tmp_path, ProxyProcess, 1024, 10 * SIZE, LISTEN__WORKERS="4") as proxy:
        job = await proxy.kick_off()
        await proxy.finished(job)
        clients = [await Peer.to(proxy.proxy.url) for _ in range(4)]
        asks = request_bytes("GET", f"{job}/result", proxy.fields, None, "h")
        with contextlib.ExitStack() as downloads:
            begun = [downloads.enter_context(socket.socket()) for _ in range(700)]
            await asyncio.wait([asyncio.ensure_future(_begin(proxy, s, asks)) for s in begun])
            for client in clients:
                kick_off = proxy.fields | {"Prefer": "respond-async"}
                await client.send(request_bytes("POST", proxy.export, kick_off, b"{}", "h"))
                assert (await client.message()).status == 202
                await client.send(asks.replace(b"GET", b"HEAD", 1))
                assert (await client.message(bodiless=True)).status == 200
                client.abort()


async def _begin(proxy: Crew, sock: socket.socket, request: bytes) -> None:
    """Send the request, and read the first bytes of its response, if any come."""
    loop = asyncio.get_running_loop()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    with contextlib.suppress(OSError):  # TimeoutError is one
        async with asyncio.timeout(5):
            await loop.sock_connect(sock, ("127.0.0.1", int(proxy.proxy.url.rpartition(":")[2])))
            await loop.sock_sendall(sock, request)
            await loop.sock_recv(sock, 100)


async def test_the_client_keeps_its_address_and_scheme(tmp_path: Path) -> None:
    """Location follows X-Forwarded-* of a trusted client, whichever worker it reaches."""
    async with crew(tmp_path, PUBLIC__TRUSTED_PROXIES="127.0.0.0/8") as proxy:
        for _ in range(3 * WORKERS):
            accepted = await proxy.ask(
                "POST",
                proxy.export,
                b"{}",
                Prefer="respond-async",
                Idempotency_Key="k",
                X_Forwarded_Proto="https",
                X_Forwarded_Host="exports.example.com",
            )
            assert accepted["Location"].startswith("https://exports.example.com/v8/_async/exports/")


async def test_a_client_cannot_introduce_itself_as_another(tmp_path: Path) -> None:
    """The PROXY protocol line is for the workers' own sockets, which no other user can enter."""
    line = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
    async with crew(tmp_path) as proxy:
        for _ in range(2 * WORKERS):
            peer = await Peer.to(proxy.proxy.url)
            await peer.send(line + b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await peer.message()).status == 400
            peer.abort()
        sockets = await asyncio.to_thread(handover_directories)
        assert sockets
        assert [mode & 0o077 for mode in sockets] == [0] * len(sockets)


def handover_directories() -> list[int]:
    """The modes of the directories of the workers' sockets, of every proxy on this machine."""
    found = Path(tempfile.gettempdir()).glob("vb365-async-proxy-*")
    return [directory.stat().st_mode for directory in found]


async def test_a_body_is_invited_and_handed_over(tmp_path: Path) -> None:
    """`Expect: 100-continue` and a body in pieces reach the worker that owns the jobs."""
    async with crew(tmp_path) as proxy:
        host, _, port = proxy.proxy.url.rpartition("/")[2].partition(":")
        for _ in range(2 * WORKERS):
            reader, writer = await asyncio.open_connection(host, int(port))
            lines = [f"{name}: {value}" for name, value in proxy.fields.items()]
            head = [f"POST {proxy.export} HTTP/1.1", f"Host: {host}:{port}", *lines]
            head += ["Prefer: respond-async", "Expect: 100-continue", "Content-Length: 2", "", ""]
            writer.write("\r\n".join(head).encode())
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"{")
            await asyncio.sleep(0.01)
            writer.write(b"}")
            assert (await reader.readline()).startswith(b"HTTP/1.1 202 ")
            writer.close()


async def test_a_half_closed_client_gets_its_response_from_any_worker(tmp_path: Path) -> None:
    async with crew(tmp_path) as proxy:
        lines = "".join(f"{name}: {value}\r\n" for name, value in proxy.fields.items())
        head = f"GET /v8/_async/exports HTTP/1.1\r\nHost: h\r\n{lines}\r\n".encode()
        responses = []
        for _ in range(4 * WORKERS):
            peer = await Peer.to(proxy.proxy.url)
            await peer.send(head * 2)
            peer.writer.write_eof()
            responses.append((await peer.rest()).count(b"HTTP/1.1 200 OK"))
            peer.abort()
        assert responses == [2] * (4 * WORKERS)


async def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    """§15: no job is lost by it, and a new connection waits for the replacement."""
    async with crew(tmp_path) as proxy:
        first, *others = proxy.workers()
        job = await proxy.kick_off()
        for pid in others:
            os.kill(pid, signal.SIGKILL)
        await until(
            lambda: len(proxy.workers()) == WORKERS and not set(others) & set(proxy.workers())
        )
        assert first in proxy.workers()
        await proxy.assert_whole(job)


async def test_the_worker_that_owns_the_jobs_is_replaced(tmp_path: Path) -> None:
    """Calls wait for the replacement: no client sees an error for it."""
    async with crew(tmp_path) as proxy:
        job = await proxy.kick_off()
        assert (await proxy.finished(job))["status"] == "Success"
        os.kill(proxy.workers()[0], signal.SIGKILL)
        responses = await asyncio.gather(*(proxy.ask("GET", job) for _ in range(4 * WORKERS)))
        assert {response.status for response in responses} == {200}
        await proxy.assert_whole(job)


async def test_workers_that_die_together_are_replaced(tmp_path: Path) -> None:
    """Also soon after their start, when all are replaced after a pause."""
    async with crew(tmp_path) as proxy:
        job = await proxy.kick_off()
        await proxy.assert_whole(job)
        died = proxy.workers()
        for pid in died:
            os.kill(pid, signal.SIGKILL)
        await until(
            lambda: len(proxy.workers()) == WORKERS and not set(died) & set(proxy.workers())
        )
        await proxy.assert_whole(job)


class Forkless(ProxyProcess):
    program = "tests.cluster.forkless"


@pytest.mark.parametrize("refused", ["processes", "a watch"])
async def test_a_worker_is_replaced_once_the_system_starts_processes_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refused: str
) -> None:
    """At the limit of a container, or without memory, fork(2) or epoll_ctl(2) fails."""
    if refused == "a watch":
        monkeypatch.setenv("WATCHLESS", "1")
    async with crew(tmp_path, Forkless) as proxy:
        job = await proxy.kick_off()
        await proxy.assert_whole(job)
        first, *others = proxy.workers()
        os.kill(others[0], signal.SIGKILL)
        await until(lambda: b"worker not started" in proxy.proxy.log)
        await until(lambda: len(proxy.workers()) == WORKERS and others[0] not in proxy.workers())
        assert first in proxy.workers()
        await proxy.assert_whole(job)
        await asyncio.sleep(3)  # longer than the pause after one refusal
        assert len(proxy.workers()) == WORKERS


class SlowFork(ProxyProcess):
    program = "tests.cluster.slow_fork"


async def test_a_stop_while_a_worker_is_started_is_in_order(tmp_path: Path) -> None:
    """The new worker has not installed its handlers yet, or still has those of the supervisor."""
    async with crew(tmp_path, SlowFork) as proxy:
        died = proxy.workers()[-1]
        os.kill(died, signal.SIGKILL)
        await until(lambda: len(proxy.workers()) == WORKERS and died not in proxy.workers())
        assert await proxy.proxy.stop() == 0


async def test_a_request_in_progress_at_the_dead_worker_is_not_answered_as_whole(
    tmp_path: Path,
) -> None:
    """A download that the worker was sending breaks; nothing of it looks complete."""
    async with crew(tmp_path) as proxy:
        job = await proxy.kick_off()
        await proxy.finished(job)
        owner = proxy.workers()[0]
        os.kill(owner, signal.SIGSTOP)
        calls = [asyncio.create_task(proxy.ask("GET", f"{job}/result")) for _ in range(9)]
        await asyncio.sleep(0.3)
        os.kill(owner, signal.SIGKILL)
        for result in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(result, Message) and result.status == 200:
                assert len(result.body) == int(result["Content-Length"])
            elif isinstance(result, Message):
                assert result.status == 503, result
                assert int(result["Retry-After"]) >= 1


async def test_sigterm_ends_all_workers(tmp_path: Path) -> None:
    async with crew(tmp_path) as proxy:
        workers = proxy.workers()
        assert len(workers) == WORKERS
        assert await proxy.proxy.stop() == 0
        assert not any(map(alive, workers))


async def test_a_download_in_progress_is_finished_after_sigterm(tmp_path: Path) -> None:
    async with crew(tmp_path) as proxy:
        job = await proxy.kick_off()
        await proxy.finished(job)
        begun = [asyncio.Event() for _ in range(2 * WORKERS)]
        calls = [asyncio.create_task(slowly(proxy, f"{job}/result", each)) for each in begun]
        await until(lambda: all(each.is_set() for each in begun))
        assert await proxy.proxy.stop() == 0
        assert await asyncio.gather(*calls) == [SIZE] * len(calls)


async def slowly(proxy: Crew, path: str, begun: asyncio.Event) -> int:
    """Download in small pieces, and return the number of bytes."""
    host, _, port = proxy.proxy.url.rpartition("/")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 16)
    lines = [f"{name}: {value}" for name, value in proxy.fields.items()]
    writer.write("\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    begun.set()
    count = 0
    while count < SIZE:
        piece = await reader.read(1 << 16)
        assert piece, "the download ends early"
        count += len(piece)
        await asyncio.sleep(0.02)
    writer.close()
    return count


async def test_workers_stop_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    async with crew(tmp_path) as proxy:
        workers = proxy.workers()
        await proxy.proxy.kill()
        await until(lambda: not any(map(alive, workers)))


async def test_an_address_in_use_is_an_error_and_starts_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        proxy = ProxyProcess(
            tmp_path, "http://127.0.0.1:1", listen=address, LISTEN__WORKERS=str(WORKERS)
        )
        with pytest.raises(DidNotStart, match=r"listen\.address .*Choose another with --listen"):
            await proxy.start()


async def test_a_worker_that_cannot_start_ends_the_others(tmp_path: Path) -> None:
    """A directory that another proxy uses: exit code 1 with the reason, and no worker is left."""
    async with crew(tmp_path):
        second = ProxyProcess(tmp_path, "http://127.0.0.1:1", LISTEN__WORKERS=str(WORKERS))
        with pytest.raises(DidNotStart, match=r"storage\.dir"):
            await second.start()


@pytest.mark.parametrize("index", [0, 1])
async def test_with_a_shared_job_store_each_worker_is_a_replica(
    tmp_path: Path, valkey_server: RedisServer, index: int
) -> None:
    """§18: any of them has slots, and takes over the jobs of one that dies. One has the admin
    listener.
    """
    url = f"{valkey_server.url}?prefix={uuid4()}"
    settings = LEASE | {"STORAGE__JOBS": url, "LISTEN__WORKERS": "2", "EXPORTS__MAX_RUNNING": "20"}
    async with crew(tmp_path, admin=f"127.0.0.1:{free_port()}", **settings) as proxy:
        store = await RedisJobs.open(url)
        try:
            assert len(await store.replicas()) == 2
            jobs = await running_on_both(proxy, store)
            doomed = proxy.workers()[index]
            os.kill(doomed, signal.SIGKILL)
            await until(lambda: len(proxy.workers()) == 2 and doomed not in proxy.workers())
            proxy.simulator.release()
            for job in jobs:
                await proxy.assert_whole(job)
            async with asyncio.timeout(30):
                while len(await store.replicas()) != 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            await until(lambda: listens(proxy.proxy.admin_url))
            ready = await ask(proxy.proxy.admin_url, "GET", "/readyz")
            assert (ready.status, ready.json()["ready"]) == (200, True)
        finally:
            await store.close()


def listens(url: str) -> bool:
    host, _, port = url.rpartition("/")[2].partition(":")
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection((host, int(port))).close()
        return True
    return False


async def running_on_both(proxy: Crew, store: RedisJobs) -> list[str]:
    """Jobs that generate, on both workers: the system gives a connection to any of them."""
    jobs: list[str] = []
    holders: set[str | None] = set()
    while len(holders) < 2:
        proxy.simulator.fault(path=proxy.export, method="POST", hold=True, count=1)
        jobs.append(await proxy.kick_off())
        await proxy.simulator.until(lambda: proxy.simulator.held == len(jobs))
        holders = {job.holder for job in await store.list()}
    return jobs


def certificate(directory: Path) -> ssl.SSLContext:
    """Write a new certificate for the proxy; the context of a client that trusts it alone."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(directory / "key.pem")
    (directory / "cert.pem").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_tls_clients_get_https_addresses_and_sighup_reaches_all(tmp_path: Path) -> None:
    """§15: SIGHUP reloads the certificate of every worker."""
    old = certificate(tmp_path)
    files = {
        "LISTEN__TLS_CERTIFICATE": str(tmp_path / "cert.pem"),
        "LISTEN__TLS_KEY": str(tmp_path / "key.pem"),
    }
    async with crew(tmp_path / "data", **files) as proxy:
        url = proxy.proxy.url.replace("127.0.0.1", "localhost")
        headers = proxy.fields | {"Prefer": "respond-async", "Idempotency-Key": "k"}
        for _ in range(3 * WORKERS):
            async with ClientSession() as http:
                posting = http.post(url + proxy.export, json={}, headers=headers, ssl=old)
                async with posting as response:
                    assert response.status == 202
                    assert response.headers["Location"].startswith(f"{url}/v8/_async/")
        new = certificate(tmp_path)
        os.kill(proxy.proxy.pid, signal.SIGHUP)

        async def accepted() -> bool:
            with contextlib.suppress(ClientConnectorCertificateError):
                async with ClientSession() as http, http.get(f"{url}/v8/Health", ssl=new):
                    return True
            return False

        in_a_row = 0
        async with asyncio.timeout(30):
            while in_a_row < 5 * WORKERS:
                in_a_row = in_a_row + 1 if await accepted() else 0


async def figures(proxy: Crew) -> dict[str, float]:
    """The samples of /metrics: the counters of requests, and bytes by flow."""
    response = await ask(proxy.proxy.admin_url, "GET", "/metrics")
    lines = [line.rpartition(" ") for line in response.body.decode().splitlines()]
    return {
        name.removeprefix("vb365_proxy_"): float(value)
        for name, _, value in lines
        if name[0] != "#"
    }


SENT = 'bytes_total{flow="client_out"}'
RELAYED = 'http_requests_total{code="200",lane="relay"}'


async def reported(proxy: Crew, sample: str, least: float) -> dict[str, float]:
    """The figures once all workers have reported what makes this sum."""
    async with asyncio.timeout(30):
        while (found := await figures(proxy)).get(sample, 0) < least:  # noqa: ASYNC110  # scrapes
            await asyncio.sleep(0.1)
    return found


async def test_16_the_metrics_are_sums_and_outlive_a_worker(tmp_path: Path) -> None:
    """A request that a worker hands to the first one counts once."""
    async with crew(tmp_path) as proxy:
        for _ in range(10 * WORKERS):
            await proxy.ask("GET", "/v8/RestoreSessions?limit=1")
        job = await proxy.kick_off()
        await proxy.finished(job)
        for _ in range(2 * WORKERS):
            assert (await proxy.ask("GET", f"{job}/result")).status == 200
        await reported(proxy, RELAYED, 10 * WORKERS)
        before = await reported(proxy, SENT, 2 * WORKERS * SIZE)
        assert before[RELAYED] == 10 * WORKERS
        assert before['http_requests_total{code="202",lane="kickoff"}'] == 1
        assert before['bytes_total{flow="served"}'] == 2 * WORKERS * SIZE
        assert before[SENT] - 2 * WORKERS * SIZE < SIZE
        assert before['jobs_finished_total{code="",status="Success"}'] == 1
        victim = proxy.workers()[-1]
        os.kill(victim, signal.SIGKILL)
        await until(lambda: len(proxy.workers()) == WORKERS and victim not in proxy.workers())
        assert (await figures(proxy))[RELAYED] >= 10 * WORKERS
        for _ in range(10 * WORKERS):
            await proxy.ask("GET", "/v8/RestoreSessions?limit=1")
        assert (await reported(proxy, RELAYED, 20 * WORKERS))[RELAYED] == 20 * WORKERS


async def test_15_the_access_lines_are_those_that_the_metrics_count(tmp_path: Path) -> None:
    """The worker that has the client's connection logs the request, with the id that its response
    has and the job that the first worker made.
    """
    settings = {"LOG__FORMAT": "json", "LOG__ACCESS": "true"}
    async with crew(tmp_path, **settings) as proxy:
        for _ in range(3 * WORKERS):
            await proxy.ask("GET", "/v8/RestoreSessions?limit=1")
        replies = [
            await proxy.ask(
                "POST", proxy.export, b"{}", Prefer="respond-async", Idempotency_Key="k"
            )
            for _ in range(3 * WORKERS)
        ]
        job = replies[0]["Location"].removeprefix(proxy.proxy.url)
        replies += [await proxy.ask("GET", job) for _ in range(3 * WORKERS)]
        counted = await reported(proxy, RELAYED, 3 * WORKERS)
        await proxy.proxy.stop()
        lines = [json.loads(line) for line in proxy.proxy.lines if '"event": "request"' in line]
    by_id = {line["request_id"]: line for line in lines}
    assert len(lines) == len(by_id) == 9 * WORKERS
    for reply in replies:
        line = by_id[reply["X-Request-Id"]]
        assert (line["job"], line["status"]) == (job.rpartition("/")[2], reply.status)
    lanes = Counter(line["lane"] for line in lines)
    assert lanes == {"relay": 3 * WORKERS, "kickoff": 3 * WORKERS, "own": 3 * WORKERS}
    assert counted[RELAYED] == lanes["relay"]
    assert {line["client"] for line in lines} == {"127.0.0.1"}

"""How the shared store is reached: TCP, TLS with client certificates, Sentinel (§18)."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from proxy.core.events import Shown
from proxy.core.transitions import advance
from proxy.ports import StoreUnavailable
from proxy.stores.redis_jobs.connections import Connections
from proxy.stores.redis_jobs.store import RedisJobs
from proxy.stores.redis_jobs.url import parse_url
from tests.support.fakes import new_job
from tests.support.redis_server import REDIS, RedisServer, Sentinel, free_port, running


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisJobs]:
    store = await RedisJobs.open(url)
    try:
        yield store
    finally:
        await store.close()


async def serves(url: str) -> None:
    """Records are stored, and the feed works."""
    async with opened(url) as store:
        async with asyncio.timeout(20):
            await store._feed.connected.wait()
        changes = store.changes()
        job = await store.add(new_job(), b"body")
        async with asyncio.timeout(20):
            assert await anext(changes) == job.id
        assert await store.list() == [job]
        assert await store.remove(job)


async def test_a_server_is_reached_by_tcp_with_password_and_database(tmp_path: Path) -> None:
    with running(tmp_path, REDIS, port=free_port(), requirepass="p@ss") as server:
        await serves(f"redis://:p%40ss@127.0.0.1:{server.port}/3")
        await serves(f"redis://default:p%40ss@localhost:{server.port}?db=3")
        with pytest.raises(StoreUnavailable, match="Authentication required"):
            await RedisJobs.open(server.tcp_url)


async def test_databases_of_one_server_are_apart(tmp_path: Path) -> None:
    """Channels are not: the feed of each has another one."""
    with running(tmp_path, REDIS, port=free_port()) as server:
        async with opened(f"{server.tcp_url}/1") as a, opened(f"{server.tcp_url}/2") as b:
            for store in (a, b):
                async with asyncio.timeout(20):
                    await store._feed.connected.wait()
            changes = b.changes()
            job = await a.add(new_job(), b"")
            other = await b.add(new_job(), b"")
            async with asyncio.timeout(20):
                assert await anext(changes) == other.id
            assert await b.get(job.id) is None


# TLS


class Certificates:
    """A CA with a certificate for the server and one for a client, as files in `directory`."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        self.ca = directory / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        for name in ("server", "client"):
            issued = authority.issue_cert("localhost")
            issued.private_key_pem.write_to_path(directory / f"{name}.key")
            issued.cert_chain_pems[0].write_to_path(directory / f"{name}.pem")
        self.directory = directory

    def options(self, port: int, auth: str) -> dict[str, str]:
        return {
            "tls_port": str(port),
            "tls_cert_file": f"{self.directory}/server.pem",
            "tls_key_file": f"{self.directory}/server.key",
            "tls_ca_cert_file": str(self.ca),
            "tls_auth_clients": auth,
        }

    @property
    def client(self) -> str:
        return f"cert_file={self.directory}/client.pem&key_file={self.directory}/client.key"


@contextmanager
def tls_server(directory: Path, auth: str) -> Iterator[tuple[Certificates, str]]:
    certificates, port = Certificates(directory), free_port()
    with running(directory, REDIS, **certificates.options(port, auth)):
        yield certificates, f"rediss://localhost:{port}/0"


async def test_a_server_is_reached_by_tls(tmp_path: Path) -> None:
    with tls_server(tmp_path, "no") as (certificates, url):
        await serves(f"{url}?ca_file={certificates.ca}")
        with pytest.raises(StoreUnavailable, match=r"cannot be reached.*CERTIFICATE_VERIFY_FAILED"):
            await RedisJobs.open(url)
        wrong_name = url.replace("localhost", "127.0.0.1")
        with pytest.raises(StoreUnavailable, match=r"not valid for '127\.0\.0\.1'"):
            await RedisJobs.open(f"{wrong_name}?ca_file={certificates.ca}")


async def test_a_server_may_ask_for_a_client_certificate(tmp_path: Path) -> None:
    with tls_server(tmp_path, "yes") as (certificates, url):
        await serves(f"{url}?ca_file={certificates.ca}&{certificates.client}")
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await RedisJobs.open(f"{url}?ca_file={certificates.ca}")


@pytest.mark.parametrize("parameter", ["ca_file", "cert_file"])
@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nx\n"])
async def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, parameter: str, content: bytes | None
) -> None:
    file = tmp_path / "file.pem"
    if content is not None:
        file.write_bytes(content)
    pair = f"&key_file={file}" if parameter == "cert_file" else ""
    with pytest.raises(StoreUnavailable, match=f"{file} cannot be used for TLS"):
        await RedisJobs.open(f"rediss://localhost:1?{parameter}={file}{pair}")


# Sentinel


@contextmanager
def service(directory: Path) -> Iterator[tuple[RedisServer, RedisServer, Sentinel]]:
    """A master, a replica of it, and a Sentinel that watches both."""
    folders = [directory / name for name in "mrs"]
    for folder in folders:
        folder.mkdir()
    with running(folders[0], REDIS, port=free_port()) as master:
        following = f"127.0.0.1 {master.port}"
        with running(folders[1], REDIS, port=free_port(), replicaof=following) as replica:
            sentinel = Sentinel(folders[2], master, port=free_port())
            sentinel.start()
            try:
                yield master, replica, sentinel
            finally:
                sentinel.kill()


async def command(port: int, *words: str) -> bytes:
    """The beginning of a server's response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(" ".join(words).encode() + b"\r\n")
        return await reader.read(1 << 16)
    finally:
        writer.close()
        await writer.wait_closed()


async def replicated(store: RedisJobs, sentinel: Sentinel) -> None:
    """Return when the replica has all data, and the Sentinel knows it."""
    while (  # noqa: ASYNC110 - time has to pass
        b"num-slaves\r\n$1\r\n1" not in await command(sentinel.port, "SENTINEL", "MASTER", "main")
    ):
        await asyncio.sleep(0.1)
    while await store._connections.command("WAIT", 1, 1000) < 1:
        pass


async def paused_until_replaced(
    store: RedisJobs, master: RedisServer, replica: RedisServer, sentinel: Sentinel
) -> None:
    """Pause the master until the replica has taken its place. It takes changes again on return."""
    await store.add(new_job(), b"body")
    await replicated(store, sentinel)
    master.pause()
    name = "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"
    named = str(replica.port).encode()
    while named not in await command(sentinel.port, *name):  # noqa: ASYNC110 - time has to pass
        await asyncio.sleep(0.1)
    master.go_on()
    await asyncio.sleep(3)  # longer than between two looks, shorter than Sentinel takes


async def test_sentinel_names_the_master_before_and_after_a_failover(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with service(tmp_path_factory.mktemp("s")) as (master, replica, sentinel):
        # the first Sentinel of the list does not exist
        url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/main"
        await serves(url)
        async with opened(url) as store, asyncio.timeout(60):
            job = await store.add(new_job(), b"body")
            await replicated(store, sentinel)
            changes = store.changes()
            master.kill()
            while await anext(changes) is not None:
                pass
            new = advance(job, Shown(), 1)
            while True:
                try:
                    await store.replace(job, new)
                    break
                except StoreUnavailable:  # no master yet
                    await asyncio.sleep(0.1)
            assert await store.get(job.id) == new
        assert b"role:master" in await command(replica.port, "INFO", "replication")


async def test_a_master_that_sentinel_has_replaced_gets_no_changes(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """It was paused and takes changes again, until Sentinel makes it a replica: they are lost."""
    with service(tmp_path_factory.mktemp("s")) as (master, replica, sentinel):
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
        await serves(url)
        async with opened(url) as store, asyncio.timeout(60):
            await paused_until_replaced(store, master, replica, sentinel)
            job = await store.add(new_job(), b"body")
            async with opened(url) as other:
                assert await other.get(job.id) == job


async def test_a_sentinel_that_knows_only_the_former_master_is_not_believed(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """It was paused together with that master, or is cut off from the other Sentinels."""
    with service(tmp_path_factory.mktemp("s")) as (master, replica, sentinel):

        async def stale(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                if b"GET-MASTER-ADDR" in line:
                    writer.write(b"*2\r\n+127.0.0.1\r\n+%d\r\n" % master.port)
                elif line == b"MASTER\r\n":
                    writer.write(b"*2\r\n+config-epoch\r\n+0\r\n")
            writer.close()

        server = await asyncio.start_server(stale, "127.0.0.1", 0)
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
        both = url.replace("//", f"//127.0.0.1:{server.sockets[0].getsockname()[1]},")
        await serves(url)
        async with server, opened(both) as store, asyncio.timeout(60):
            await paused_until_replaced(store, master, replica, sentinel)
            job = await store.add(new_job(), b"body")
            async with opened(url) as other:
                assert await other.get(job.id) == job


async def test_a_service_that_no_sentinel_knows_is_named(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with service(tmp_path_factory.mktemp("s")) as (_, _, sentinel):
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/other"
        with pytest.raises(StoreUnavailable, match="it knows no service 'other'"):
            await RedisJobs.open(url)


async def test_3_1_a_command_that_is_not_answered_keeps_nothing_of_its_task() -> None:
    """Such as the body of a kick-off, whose client may have left."""
    kept: list[weakref.ref[Any]] = []
    never = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await never.wait()
        writer.close()

    async def storing(connections: Connections) -> None:
        body = asyncio.Event()  # anything
        kept.append(weakref.ref(body))
        await connections.command("PING")

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    location = parse_url(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    connections = Connections(location, None, channel="c", bound=0.05)
    gc.disable()
    try:
        task = asyncio.create_task(storing(connections))
        await asyncio.wait([task])
        failed = isinstance(task.exception(), StoreUnavailable)
        del task
        released = kept[0]() is None
    finally:
        gc.enable()
        never.set()
        await connections.close()
        server.close()
    assert (failed, released) == (True, True)

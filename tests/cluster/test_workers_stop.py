"""CONTRACT §15 `--workers`: SIGTERM while workers are missing, or still have work."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.cluster.test_workers import WORKERS, Crew, SlowFork, alive, crew, until
from tests.support.process import ProxyProcess
from tests.support.wire import Message, Peer


async def connected(proxy: Crew) -> list[Peer]:
    """Connections to any of the workers, each of which has answered a request."""
    peers = [await Peer.to(proxy.proxy.url) for _ in range(6 * WORKERS)]
    for peer in peers:
        await peer.send(b"GET /_async/openapi.json HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (await peer.message()).status == 200
    return peers


async def test_a_request_that_no_worker_will_read_is_answered(tmp_path: Path) -> None:
    """It waits for a worker that has ended and is not replaced any more."""

    async def answered(peer: Peer) -> Message | None:
        """The response; None if the connection was to the worker that is killed."""
        try:
            await peer.send(b"GET /_async/openapi.json HTTP/1.1\r\nHost: h\r\n\r\n")
            return await peer.message()
        except (ConnectionError, asyncio.IncompleteReadError):
            return None
        finally:
            peer.abort()

    async with crew(tmp_path) as proxy:
        peers = await connected(proxy)
        os.kill(proxy.workers()[0], signal.SIGKILL)
        await until(lambda: b"worker ended" in proxy.proxy.log)
        waiting = [asyncio.create_task(answered(peer)) for peer in peers]
        await asyncio.sleep(0.1)  # less than the pause before the replacement
        assert await proxy.proxy.stop() == 0
        responses = [each for each in await asyncio.gather(*waiting) if each is not None]
        assert responses
        assert {each.status for each in responses} == {503}
        assert all(int(each["Retry-After"]) >= 1 for each in responses)


async def test_a_connection_is_refused_while_requests_are_finished(tmp_path: Path) -> None:
    """The system would keep it open otherwise, for a worker that accepts none any more."""
    path = "/v8/RestoreSessions"
    async with crew(tmp_path) as proxy:
        proxy.simulator.fault(path=path, method="GET", hold=True)
        last = asyncio.create_task(proxy.ask("GET", path))
        await proxy.simulator.until(lambda: proxy.simulator.held == 1)
        stopping = asyncio.create_task(proxy.proxy.stop())
        async with asyncio.timeout(20):
            while True:
                try:
                    peer = await Peer.to(proxy.proxy.url)
                except ConnectionRefusedError:
                    break
                peer.abort()
                await asyncio.sleep(0.05)
        proxy.simulator.release()
        assert (await last).status == 200
        assert await stopping == 0


async def test_ctrl_c_while_a_worker_is_started_is_in_order(tmp_path: Path) -> None:
    """The terminal sends SIGINT to the supervisor and to all workers."""
    async with crew(tmp_path, SlowFork) as proxy:
        died = proxy.workers()[-1]
        os.kill(died, signal.SIGKILL)
        await until(lambda: len(proxy.workers()) == WORKERS and died not in proxy.workers())
        for pid in [proxy.proxy.pid, *proxy.workers()]:
            os.kill(pid, signal.SIGINT)
        assert await proxy.proxy.stop() == 0


async def test_a_stop_of_all_processes_is_no_failure_of_workers(tmp_path: Path) -> None:
    """A service manager sends SIGTERM to all; some workers may end before the supervisor runs."""
    async with crew(tmp_path) as proxy:
        workers, supervisor = proxy.workers(), proxy.proxy.pid
        os.kill(supervisor, signal.SIGSTOP)
        for pid in [supervisor, *workers]:
            os.kill(pid, signal.SIGTERM)
        await until(lambda: not any(map(alive, workers)))
        os.kill(supervisor, signal.SIGCONT)
        assert await proxy.proxy.stop() == 0
        assert b"worker ended" not in proxy.proxy.log


class Memoryless(ProxyProcess):
    program = "tests.cluster.memoryless"


async def test_a_worker_without_memory_takes_nothing_from_the_others(tmp_path: Path) -> None:
    """It must not close what the supervisor has opened: the sockets of all would have no name."""
    async with crew(tmp_path, Memoryless) as proxy:
        job = await proxy.kick_off()
        await proxy.assert_whole(job)
        os.kill(proxy.workers()[-1], signal.SIGKILL)
        await until(lambda: proxy.proxy.log.count(b"worker ended") == 2)
        await until(lambda: len(proxy.workers()) == WORKERS)
        await proxy.assert_whole(job)
        assert await proxy.proxy.stop() == 0


class HungUp(ProxyProcess):
    program = "tests.cluster.hung_up"


@pytest.mark.parametrize("workers", ["1", "3"])
async def test_a_reload_before_the_proxy_listens_does_not_end_it(
    tmp_path: Path, workers: str
) -> None:
    """§15 SIGHUP: a service manager would take that for a stop."""
    async with crew(tmp_path, HungUp, LISTEN__WORKERS=workers) as proxy:
        await proxy.assert_whole(await proxy.kick_off())
        assert b"worker ended" not in proxy.proxy.log
        os.kill(proxy.proxy.pid, signal.SIGHUP)
        await until(lambda: b"config.reloaded" in proxy.proxy.log)
        assert await proxy.proxy.stop() == 0

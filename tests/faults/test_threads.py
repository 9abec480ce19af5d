"""While the system starts no thread, at the limit of a container or for lack of memory, exports are
stored and downloaded, and the proxy stops in order.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest

from proxy.simulator import Simulator, SimulatorSettings
from proxy.stores.threads import Threads
from tests.faults.threadless import SAID
from tests.support.local_proxy import local_proxy
from tests.support.process import Caller, ProxyProcess
from tests.support.threads import no_new_thread
from tests.support.wire import eventually

SIZE = 6_000_000


async def test_a_lack_of_threads_costs_no_export(tmp_path: Path) -> None:
    """§10: each transfer breaks once, and what is stored is compared with its continuation."""
    asyncio.get_running_loop().set_default_executor(Threads(None, "loop"))  # as `proxy.cli.loop`
    simulator = Simulator(SimulatorSettings(size=SIZE))
    await simulator.start()
    async with local_proxy(simulator.url, tmp_path) as proxy, aiohttp.ClientSession() as http:
        caller = Caller(proxy, http, simulator.login())

        async def export() -> None:
            paths = simulator.export_paths(simulator.open_session())
            path = next(each for each in paths if each.endswith("exportToPst"))
            simulator.fault(path=path, method="POST", cut_at=SIZE // 2, count=1)
            job = await caller.kick_off(path)
            document = await caller.finished(job)
            assert (document["status"], document["attempt"]) == ("Success", 1), document
            digest = hashlib.sha256(await caller.file(job)).hexdigest()
            assert digest == simulator.content(path).sha256()

        with no_new_thread():
            await asyncio.gather(*(export() for _ in range(4)))
    await simulator.stop()


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="the limit is Linux's: a bucket without threads is not tested elsewhere",
)
def test_a_bucket_that_was_not_used_for_a_while_needs_no_new_thread(s3_endpoint: str) -> None:
    """A kick-off waited for the bucket, also when threads could be started again."""
    bucket = f"s3://tests/{uuid4()}?endpoint={s3_endpoint}&allow_http=true"
    command = [sys.executable, "-m", "tests.faults.threadless_bucket", bucket]
    ended = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr.decode()


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="the limit is Linux's: a start without threads is not tested elsewhere",
)
def test_a_proxy_that_gets_no_thread_does_not_start_and_says_why() -> None:
    command = [sys.executable, "-m", "tests.faults.threadless_start", "serve"]
    data = Path(tempfile.gettempdir(), str(uuid4()))  # where any user may create it
    command += ["--upstream", "http://127.0.0.1:9", "--listen", "127.0.0.1:0"]
    command += ["--data-dir", str(data)]
    ended = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr == b"vb365-async-proxy: the system starts no more threads\n"
    assert not data.exists()


class Threadless(ProxyProcess):
    program = "tests.faults.threadless"


@pytest.mark.skipif(
    sys.platform == "win32",
    reason="no SIGUSR1: how a proxy without threads stops is not tested on Windows",
)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_proxy_that_gets_no_thread_stops_in_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loop: str
) -> None:
    """Its exit code is 0, and the export that it was running continues at the next start."""
    monkeypatch.setenv("VB365_LOOP", loop)
    simulator = Simulator(SimulatorSettings(size=SIZE))
    await simulator.start()
    proxy = Threadless(tmp_path, simulator.url, LOG__LEVEL="info")
    await proxy.start()
    try:
        async with aiohttp.ClientSession() as http:
            caller = Caller(proxy, http, simulator.login())
            paths = simulator.export_paths(simulator.open_session())
            path = next(each for each in paths if each.endswith("exportToPst"))
            simulator.fault(path=path, method="POST", stall_at=SIZE // 2, count=1)
            job = await caller.kick_off(path)
            proxy.send_signal(signal.SIGUSR1)
            await eventually(lambda: SAID in proxy.lines)
            assert await proxy.stop() == 0, proxy.log.decode()
            assert any("stopped" in line for line in proxy.lines)
            await proxy.start()
            document = await caller.finished(job)
            assert (document["status"], document["attempt"]) == ("Success", 1), document
            digest = hashlib.sha256(await caller.file(job)).hexdigest()
            assert digest == simulator.content(path).sha256()
    finally:
        await proxy.kill()
        await simulator.stop()

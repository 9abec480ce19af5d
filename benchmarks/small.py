"""Pass-through of small requests: 1 KiB of JSON over 64 persistent connections."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from benchmarks.load import wrk
from benchmarks.processes import Program, find_program, median
from benchmarks.report import Row, ratios
from benchmarks.servers import Servers
from benchmarks.sizes import Sizes

_PROXY, _NGINX, _HAPROXY, _NAIVE = "proxy", "nginx", "HAProxy", "naive aiohttp"
#: Target and stretch target of the CPU ratio to nginx, by TLS mode.
_TARGETS = {"http": (0.75, 1.0), "https upstream": (0.65, 0.8), "TLS both sides": (0.7, 0.9)}
_PATH = "/v8/Organizations?limit=30"

Starters = dict[str, Callable[[], AbstractContextManager[Program]]]


def small(servers: Servers, sizes: Sizes) -> list[Row]:
    """Measure the CPU time per request of the proxy, nginx, HAProxy and a naive aiohttp proxy."""
    find_program("wrk")
    rows: list[Row] = []
    for mode in list(_TARGETS)[: sizes.modes]:
        tls, tls_upstream = mode == "TLS both sides", mode != "http"
        rows += _rows(mode, _measure_mode(servers, sizes, tls=tls, tls_upstream=tls_upstream))
    return rows


def _rows(mode: str, costs: dict[str, list[float]]) -> list[Row]:
    """Return the rows of a TLS mode from the CPU times per request in µs."""
    note = ", ".join(f"{name} {median(cost):.0f} µs" for name, cost in costs.items())
    limits = {_NGINX: _TARGETS[mode], _NAIVE: (6, 8.5)}
    rows = []
    for peer, (target, stretch) in limits.items():
        if peer in costs:
            ratio, span = ratios(costs[_PROXY], costs[peer])
            work = f"small, {mode}: CPU vs {peer}"
            rows.append(Row(work, ratio, "times", note, target, stretch, span=span))
            note = ""
    return rows


def _measure_mode(
    servers: Servers, sizes: Sizes, *, tls: bool, tls_upstream: bool
) -> dict[str, list[float]]:
    with servers.upstream(servers.directory, tls=tls_upstream) as upstream:
        starters: Starters = {
            _PROXY: lambda: servers.proxy(upstream.port, tls=tls, tls_upstream=tls_upstream),
            _NGINX: lambda: servers.nginx(upstream.port, tls=tls, tls_upstream=tls_upstream),
            _HAPROXY: lambda: servers.haproxy(upstream.port, tls=tls, tls_upstream=tls_upstream),
        }
        if not tls_upstream:
            starters[_NAIVE] = lambda: servers.naive_proxy(upstream.port)
        return _measure(starters, tls, sizes)


def _measure(starters: Starters, tls: bool, sizes: Sizes) -> dict[str, list[float]]:
    """Return the CPU times per request of each server in µs."""
    with ExitStack() as stack:
        running = {name: stack.enter_context(start()) for name, start in starters.items()}
        if sizes.rounds > 1:  # warm up
            for server in running.values():
                wrk(server, _PATH, seconds=1, tls=tls)
        rounds: dict[str, list[float]] = {name: [] for name in running}
        for _ in range(sizes.rounds):
            for name, server in running.items():
                cost = wrk(server, _PATH, seconds=sizes.seconds, tls=tls)
                rounds[name].append(cost.cpu_per_unit * 1e6)
    return rounds

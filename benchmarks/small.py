"""Pass-through of small requests: 1 KiB of JSON over 64 persistent connections."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from benchmarks.load import wrk
from benchmarks.processes import Program, find_program, median
from benchmarks.report import Row
from benchmarks.servers import Servers
from benchmarks.sizes import Sizes

_PROXY, _NGINX, _HAPROXY, _NAIVE = "proxy", "nginx", "HAProxy", "naive aiohttp"
#: Target and stretch target of the CPU ratio to nginx, by TLS mode.
_TARGETS = {"http": (0.55, 0.75), "https upstream": (0.45, 0.6), "TLS both sides": (0.5, 0.65)}
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


def _rows(mode: str, costs: dict[str, float]) -> list[Row]:
    """Return the rows of a TLS mode from the CPU time per request in µs."""
    target, stretch = _TARGETS[mode]
    note = ", ".join(f"{name} {cost:.0f} µs" for name, cost in costs.items())
    ratios = {name: cost / costs[_PROXY] for name, cost in costs.items()}
    rows = [
        Row(
            f"small, {mode}: CPU vs nginx",
            ratios[_NGINX],
            "times",
            note,
            target=target,
            stretch=stretch,
        ),
        Row(f"small, {mode}: CPU vs HAProxy", ratios[_HAPROXY], "times"),
    ]
    if _NAIVE in costs:
        work = f"small, {mode}: CPU vs {_NAIVE}"
        rows.append(Row(work, ratios[_NAIVE], "times", target=6, stretch=8.5))
    return rows


def _measure_mode(
    servers: Servers, sizes: Sizes, *, tls: bool, tls_upstream: bool
) -> dict[str, float]:
    with servers.upstream(servers.directory, tls=tls_upstream) as upstream:
        starters: Starters = {
            _PROXY: lambda: servers.proxy(upstream.port, tls=tls, tls_upstream=tls_upstream),
            _NGINX: lambda: servers.nginx(upstream.port, tls=tls, tls_upstream=tls_upstream),
            _HAPROXY: lambda: servers.haproxy(upstream.port, tls=tls, tls_upstream=tls_upstream),
        }
        if not tls_upstream:
            starters[_NAIVE] = lambda: servers.naive_proxy(upstream.port)
        return _measure(starters, tls, sizes)


def _measure(starters: Starters, tls: bool, sizes: Sizes) -> dict[str, float]:
    """Return the median CPU time per request of each server in µs."""
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
    return {name: median(values) for name, values in rounds.items()}

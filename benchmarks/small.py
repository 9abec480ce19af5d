"""Small pass-through: 1 KiB of JSON, 64 kept connections."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from benchmarks.load import requests
from benchmarks.machine import Program, middle, tool
from benchmarks.report import Row
from benchmarks.servers import Lab
from benchmarks.sizes import Sizes

_AIMS = {"http": (0.55, 0.75), "https upstream": (0.45, 0.6), "TLS both sides": (0.5, 0.65)}
_NAIVE = "naive aiohttp"
_PATH = "/v8/Organizations?limit=30"


def small(lab: Lab, sizes: Sizes) -> list[Row]:
    """CPU per request, ours beside nginx's, HAProxy's and a naive aiohttp proxy's."""
    tool("wrk")
    rows: list[Row] = []
    for name in list(_AIMS)[: sizes.modes]:
        rows += _rows(name, _mode(lab, sizes, tls=name == "TLS both sides", tls_upstream=name != "http"))
    return rows


def _rows(name: str, each: dict[str, float]) -> list[Row]:
    target, moonshot = _AIMS[name]
    shown = ", ".join(f"{peer} {value:.0f} µs" for peer, value in each.items())
    against = {peer: value / each["ours"] for peer, value in each.items()}
    rows = [
        Row(f"small, {name}: CPU vs nginx", against["nginx"], "times", shown, target=target, moonshot=moonshot),
        Row(f"small, {name}: CPU vs HAProxy", against["HAProxy"], "times"),
    ]
    if _NAIVE in each:
        rows.append(Row(f"small, {name}: CPU vs {_NAIVE}", against[_NAIVE], "times", target=6, moonshot=8.5))
    return rows


def _mode(lab: Lab, sizes: Sizes, *, tls: bool, tls_upstream: bool) -> dict[str, float]:
    with lab.upstream(lab.place, tls=tls_upstream) as upstream:
        makers: dict[str, Callable[[], AbstractContextManager[Program]]] = {
            "ours": lambda: lab.ours(upstream.port, tls=tls, tls_upstream=tls_upstream),
            "nginx": lambda: lab.nginx(upstream.port, tls=tls, tls_upstream=tls_upstream),
            "HAProxy": lambda: lab.haproxy(upstream.port, tls=tls, tls_upstream=tls_upstream),
        }
        if not tls_upstream:
            makers[_NAIVE] = lambda: lab.naive(upstream.port)
        return _measure(makers, tls, sizes)


def _measure(
    makers: dict[str, Callable[[], AbstractContextManager[Program]]], tls: bool, sizes: Sizes
) -> dict[str, float]:
    """Median CPU µs per request."""
    with ExitStack() as stack:
        servers = {name: stack.enter_context(make()) for name, make in makers.items()}
        if sizes.rounds > 1:
            for server in servers.values():
                requests(server, _PATH, seconds=1, tls=tls)
        rounds: dict[str, list[float]] = {name: [] for name in servers}
        for _ in range(sizes.rounds):
            for name, server in servers.items():
                rounds[name].append(requests(server, _PATH, seconds=sizes.seconds, tls=tls).each * 1e6)
    return {name: middle(values) for name, values in rounds.items()}

"""Large bodies: downloaded through the proxy, from its disk, and spooled to it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.client import ALLOWED, connected, follow, kick_off, stored
from benchmarks.load import Cost, curl, curl_to
from benchmarks.machine import TESTED, Program, middle
from benchmarks.report import Row
from benchmarks.servers import Lab
from benchmarks.sizes import MB, Sizes


def big(lab: Lab, size: int) -> Path:
    """A directory with a file `big` of that size, no two MB alike."""
    room = lab.room("big")
    with (room / "big").open("wb") as file:
        for at in range(0, size, MB):
            file.write(os.urandom(min(MB, size - at)))
    return room


def _interleaved(work: dict[str, Callable[[], Cost]], rounds: int) -> dict[str, list[Cost]]:
    costs: dict[str, list[Cost]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, run in work.items():
            costs[name].append(run())
    return costs


def _each(costs: dict[str, list[Cost]]) -> dict[str, float]:
    return {name: middle([cost.each for cost in each]) for name, each in costs.items()}


def _shown(each: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f} s/GB" for name, value in each.items())


def through(lab: Lab, sizes: Sizes) -> list[Row]:
    """A large download through the proxy, beside HAProxy and nginx."""
    rows, files = [], big(lab, sizes.large)
    for tls in (False, True):
        with ExitStack() as stack:
            upstream = stack.enter_context(lab.upstream(files, tls=tls))
            servers = {
                "ours": stack.enter_context(lab.ours(upstream.port, tls=tls, tls_upstream=tls)),
                "HAProxy": stack.enter_context(lab.haproxy(upstream.port, tls=tls, tls_upstream=tls)),
                "nginx": stack.enter_context(lab.nginx(upstream.port, tls=tls, tls_upstream=tls)),
            }
            work = {name: _downloading(server, "/files/big", sizes.large, tls) for name, server in servers.items()}
            each = _each(_interleaved(work, sizes.rounds))
        name = "TLS both sides" if tls else "http"
        target, moonshot = (0.85, 1.0) if tls else (None, None)
        ratio = each["HAProxy"] / each["ours"]
        rows.append(
            Row(
                f"download through, {name}: CPU vs HAProxy",
                ratio,
                "times",
                _shown(each),
                target=target,
                moonshot=moonshot,
            )
        )
    return rows


def _downloading(server: Program, path: str, size: int, tls: bool, **fields: str) -> Callable[[], Cost]:
    return lambda: curl(server, path, size=size, tls=tls, fields=fields)


def artifact(lab: Lab, sizes: Sizes) -> list[Row]:
    """A finished export from the proxy's disk, beside nginx serving the same bytes."""
    rows, files = [], big(lab, sizes.large)
    for tls in (False, True):
        with ExitStack() as stack:
            upstream = stack.enter_context(lab.upstream(files, tls=False))
            ours = stack.enter_context(lab.ours(upstream.port, tls=tls))
            nginx = stack.enter_context(lab.files(files, tls=tls))
            result = stored(ours, tls=tls) + "/result"
            work = {
                "ours": _downloading(ours, result, sizes.large, tls, **ALLOWED),
                "nginx": _downloading(nginx, "/files/big", sizes.large, tls),
            }
            each = _each(_interleaved(work, sizes.rounds))
        target, moonshot = (0.9, 1.1) if tls else (1.0, 1.2)
        name, ratio = "TLS" if tls else "plain", each["nginx"] / each["ours"]
        rows.append(
            Row(f"artifact, {name}: CPU vs nginx", ratio, "times", _shown(each), target=target, moonshot=moonshot)
        )
    return rows


def spool(lab: Lab, sizes: Sizes) -> list[Row]:
    """One export to disk, digest and fsync included, beside `curl -o` of the same file."""
    rows, files = [], big(lab, sizes.large)
    for tls in (False, True):
        with ExitStack() as stack:
            upstream = stack.enter_context(lab.upstream(files, tls=tls))
            ours = stack.enter_context(lab.ours(upstream.port, tls_upstream=tls))
            work = {"ours": _spooling(ours, sizes.large), "curl -o": _saving(lab, upstream, sizes.large, tls)}
            costs = _interleaved(work, sizes.rounds)
        each = _each(costs)
        rates = {name: middle([cost.rate * 1000 for cost in found]) for name, found in costs.items()}
        name = "https" if tls else "http"
        shown = ", ".join(f"{who} {rate:.0f} MB/s {each[who]:.2f} s/GB" for who, rate in rates.items())
        target, moonshot = (1.3, 2.0) if tls else (None, None)
        ratio = rates["ours"] / rates["curl -o"]
        rows.append(Row(f"spool, {name}: speed vs curl -o", ratio, "times", shown, target=target, moonshot=moonshot))
    return rows


def _spooling(server: Program, size: int) -> Callable[[], Cost]:
    def run() -> Cost:
        with connected(server) as connection:
            before, began = server.cpu(), time.perf_counter()
            job = kick_off(connection)
            follow(connection, job)
            cost = Cost(size / 1e9, server.cpu() - before, time.perf_counter() - began)
            connection.request("DELETE", job, headers=ALLOWED)
            connection.getresponse().read()
            return cost

    return run


def _saving(lab: Lab, upstream: Program, size: int, tls: bool) -> Callable[[], Cost]:
    def run() -> Cost:
        file = lab.place / "curl.out"
        try:
            return curl_to(file, upstream, "/files/big", size=size, core=TESTED, tls=tls)
        finally:
            file.unlink(missing_ok=True)

    return run

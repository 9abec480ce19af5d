"""Webhooks: how soon a notification arrives, and what it costs."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.client import connect, kick_off, wait_for_success
from benchmarks.processes import Program, median, percentile
from benchmarks.report import Row, ratios
from benchmarks.servers import Servers
from benchmarks.sizes import Sizes

_TIMEOUT = 60


@dataclass
class _Receiver:
    """A receiver of webhooks, and when the notification of each job arrived."""

    url: str = ""
    times: dict[str, float] = field(default_factory=dict)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def take(self, body: bytes) -> None:
        now, job = time.perf_counter(), json.loads(body)["data"]["id"]
        with self.arrived:
            self.times[job] = now
            self.arrived.notify_all()

    def wait_for(self, jobs: Collection[str]) -> None:
        """Wait for the notifications of the jobs. Raises RuntimeError if they do not arrive."""
        with self.arrived:
            if not self.arrived.wait_for(lambda: self.times.keys() >= set(jobs), _TIMEOUT):
                raise RuntimeError(f"{len(self.times)} of {len(jobs)} notifications arrived")


@contextmanager
def _receiver() -> Iterator[_Receiver]:
    receiver = _Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            receiver.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


def webhooks(servers: Servers, sizes: Sizes) -> list[Row]:
    """Measure how long after the end of an export, as a poll that waits for it reports it, its
    notification arrives, and the CPU time of exports with and without one.
    """
    count = max(10, sizes.probes // 10)
    with (
        servers.silent_upstream(tls=False) as upstream,
        _receiver() as receiver,
        servers.proxy(upstream.port) as plain,
        servers.proxy(upstream.port, settings=_settings(receiver.url)) as notifying,
    ):
        receiver.wait_for(_exports(notifying, 1))  # warm up
        costs: dict[str, list[float]] = {"without": [], "with": []}
        delays: list[float] = []
        for _ in range(sizes.rounds):
            before = plain.cpu()
            _exports(plain, count)
            costs["without"].append((plain.cpu() - before) / count * 1e6)
            before = notifying.cpu()
            ended = _exports(notifying, count)
            receiver.wait_for(ended)
            costs["with"].append((notifying.cpu() - before) / count * 1e6)
            delays += [max(0.0, receiver.times[job] - at) * 1000 for job, at in ended.items()]
    note = f"median {percentile(delays, 0.5):.1f} ms, {len(delays)} notifications"
    late = percentile(delays, 0.99)
    work = "webhooks: later than the poll that waits, p99"
    ratio, span = ratios(costs["without"], costs["with"])
    cpu = ", ".join(f"{name} {median(each):,.0f} µs" for name, each in costs.items())
    return [
        Row(work, late, "ms", note, 100, 20, higher_is_better=False),
        Row("webhooks: CPU of an export vs without", ratio, "times", cpu, 2, 1.5, False, span=span),
    ]


def _settings(url: str) -> dict[str, str]:
    return {
        "WEBHOOKS__URLS": url,
        "WEBHOOKS__SECRETS": "whsec_" + base64.b64encode(bytes(32)).decode(),
        "WEBHOOKS__EVENTS": "export.succeeded",
    }


def _exports(proxy: Program, count: int) -> dict[str, float]:
    """Run so many exports, one after the other. Return when each ended, by the id of its job."""
    ended = {}
    with connect(proxy) as connection:
        for _ in range(count):
            job = kick_off(connection)
            wait_for_success(connection, job)
            ended[job.rpartition("/")[2]] = time.perf_counter()
    return ended

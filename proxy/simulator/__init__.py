"""A simulator of the Veeam Backup for Microsoft 365 (VB365) REST API (docs/upstream.md §7).

The `demo` and `simulate` commands and the tests use it. A test runs `Simulator(settings)` in its
own event loop; the command line calls `serve(settings, host, port, ssl)`. The package imports no
other part of the project, so that a bug in the proxy cannot hide behind the same bug here.
"""

from __future__ import annotations

from proxy.simulator.content import Content, Kind, expected_sha256, make
from proxy.simulator.faults import Fault
from proxy.simulator.server import Simulator, serve
from proxy.simulator.sessions import Session
from proxy.simulator.settings import SimulatorSettings, User
from proxy.simulator.transfer import Delivery

__all__ = [
    "Simulator",
    "SimulatorSettings",
    "User",
    "serve",
    "Fault",
    "Session",
    "Delivery",
    "Content",
    "Kind",
    "expected_sha256",
    "make",
]

"""The stand-in for Veeam Backup for Microsoft 365: for `demo`, `simulate` and the tests (docs/upstream.md §7).

`Simulator(settings)` in a test's own loop, `serve(settings, host, port, ssl)` for the command line. It imports nothing
of the rest of the project, so that it proves the proxy and not itself.
"""

from __future__ import annotations

from proxy.simulator.app import Simulator, serve
from proxy.simulator.content import Content, Kind, expected_sha256, make
from proxy.simulator.faults import Fault
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

"""Event loops and certificates for the tests of connections."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any

import pytest
import trustme
import uvloop

from tests.support.tls_peers import NOW, Run

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
#: Both loops, or asyncio's alone for a run with VB365_LOOP=asyncio (`make asyncio`), in which all
#: proxies of the tests use it.
LOOPS: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
if os.environ.get("VB365_LOOP") != "asyncio":
    LOOPS["uvloop"] = uvloop.new_event_loop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, LoopFactory]:
    """Every asynchronous test of this folder runs on both loops."""
    return LOOPS


@pytest.fixture(params=list(LOOPS))
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on each of the two loops, for 30 s at most."""
    factory = LOOPS[request.param]

    def run(scenario: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(scenario, 30))

    return run


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture(scope="module")
def localhost(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("localhost", "127.0.0.1", key_type=trustme.KeyType.ECDSA)


@pytest.fixture(scope="module")
def expired(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert(
        "localhost", not_before=NOW - timedelta(9), not_after=NOW - timedelta(1)
    )

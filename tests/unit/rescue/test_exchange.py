"""The response of a rescued export, and the source of its body (CONTRACT §14)."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from proxy.core.exports import match
from proxy.core.http.heads import parse_request, parse_response
from proxy.core.routing import Rescue
from proxy.downstream.endings import Ending
from proxy.jobs.followers import HandedOver
from proxy.net.budget import Budget
from proxy.ports import StoreUnavailable
from proxy.ports.tracing import NoTracing
from proxy.rescue.call import RELAYED, Growing, Handed, Outcome, Stored
from proxy.rescue.exchange import Needs, RescueExchange
from tests.support.fakes import new_job

TARGET = b"/v8/RestoreSessions/1/organization/mailboxes/2/exporttopst"
REQUEST = b"POST %b HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer x\r\n\r\n" % TARGET
LINES = b"Content-Length: 5\r\n"
HEAD = parse_response(b"HTTP/1.1 200 OK\r\n%b\r\n" % LINES, b"POST")


class Source:
    """A tail, a reader or a response that is never read."""

    status, reason, lines = 200, b"OK", LINES
    artifact = SimpleNamespace(size=5)
    closed = 0

    async def _close(self) -> None:
        return None

    def close(self) -> Any:
        self.closed += 1
        return self._close() if self.is_file else None

    def __init__(self, *, is_file: bool) -> None:
        self.is_file = is_file


def exchange_for(outcome: Any, relay: Any = None) -> tuple[RescueExchange, Any]:
    """An exchange with this outcome, and its client."""
    client: Any = MagicMock(peer=b"127.0.0.1", sent=0, closing=False)
    needs: Any = Needs(
        relay=relay or MagicMock(),
        following=MagicMock(outcome=outcome),
        deliveries=MagicMock(),
        tracing=NoTracing(),
        memory=lambda _: Budget(1 << 20),
        max_body=1 << 20,
        trusted=(),
    )
    export = match(b"POST", TARGET, reports=True)
    assert export is not None
    decision = Rescue(export, TARGET)
    exchange = RescueExchange(needs, client, parse_request(REQUEST), decision, whole=True)
    return exchange, client


@pytest.mark.parametrize("kind", ["growing", "stored", "handed"])
async def test_14_a_client_that_leaves_before_the_first_piece_leaves_nothing_open(
    kind: str,
) -> None:
    """The generator of the pieces has not been started then."""
    source: Any = Source(is_file=kind != "handed")
    found: Outcome = Handed(HandedOver(source), LINES)
    if source.is_file:
        job = new_job()
        tail = Growing(job, HEAD, source, restarted=False)
        found = tail if kind == "growing" else Stored(job, HEAD, source)

    async def outcome(call: Any) -> Outcome:
        return found

    exchange, _ = exchange_for(outcome)
    exchange.client_slow()
    exchange.begin()
    task = exchange._task
    assert task is not None
    for _ in range(20):
        await asyncio.sleep(0)
    assert (exchange.begun, source.closed) == (True, 0)
    exchange.client_left()
    await asyncio.gather(task, return_exceptions=True)
    assert source.closed == 1


@pytest.mark.parametrize("fails", [False, True])
async def test_14_a_client_for_whose_relaying_there_is_no_memory_is_broken_off(
    fails: bool,
) -> None:
    """It would wait for ever, whether the rescue has failed or never began."""

    async def outcome(call: Any) -> Outcome:
        if fails:
            raise StoreUnavailable("away")
        return RELAYED

    exchange, client = exchange_for(outcome, MagicMock(start=MagicMock(side_effect=MemoryError)))
    exchange.begin()
    assert exchange._task is not None
    await asyncio.gather(exchange._task, return_exceptions=True)
    client.break_off.assert_called_once_with(Ending.ABORTED)


@pytest.mark.parametrize("shortage", ["warning", "exception", "bound_contextvars"])
async def test_14_a_client_is_not_forgotten_for_lack_of_memory_for_the_log(
    monkeypatch: pytest.MonkeyPatch, shortage: str
) -> None:
    """Its request is relayed, as after every failure before its response."""

    async def outcome(call: Any) -> Outcome:
        raise StoreUnavailable("away") if shortage == "warning" else MemoryError

    no_memory = MagicMock(side_effect=MemoryError)
    if shortage == "bound_contextvars":
        monkeypatch.setattr("proxy.rescue.exchange.bound_contextvars", no_memory)
    else:
        monkeypatch.setattr("proxy.rescue.exchange.log", MagicMock(**{shortage: no_memory}))
    relay = MagicMock()
    exchange, _ = exchange_for(outcome, relay)
    exchange.begin()
    assert exchange._task is not None
    await asyncio.gather(exchange._task, return_exceptions=True)
    relay.start.assert_called_once()

"""The same bytes directly and through the proxy, both sides compared raw (CONTRACT §12)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from proxy.core.routing import Router
from tests.support.proxies import proxy_to
from tests.support.upstreams import Origin
from tests.support.wire import Peer, connected
from tests.transparency.cases import CASES, Case
from tests.transparency.differences import NAMES, expected_answer, expected_request
from tests.transparency.reference import read_request, read_response

LISTENER = Router(segment="_async", prefix="", max_body=1 << 24, reports=False)


@dataclass
class Record:
    """What each side got."""

    received: list[bytes] = field(default_factory=list)
    answered: list[bytes] = field(default_factory=list)


def recording(case: Case, record: Record) -> Origin:
    """An upstream that records what it gets and responds as the case says."""

    async def script(peer: Peer) -> None:
        while True:
            record.received.append(await read_request(peer))
            turn = len(record.received)
            await peer.send(case.answered[turn - 1])
            if case.closes and turn == len(case.answered):
                return

    return Origin(script)


async def ask(case: Case, peer: Peer, record: Record) -> None:
    """Send everything at once and read every response."""
    await peer.send(b"".join(case.requests))
    for raw in case.requests:
        method = raw.lstrip(b"\r\n").partition(b" ")[0]
        record.answered.append(await read_response(peer, method))


async def directly(case: Case) -> Record:
    record = Record()
    async with recording(case, record).running() as origin, connected(origin.port) as peer:
        await ask(case, peer, record)
    return record


async def through_the_proxy(case: Case) -> Record:
    record = Record()
    async with (
        recording(case, record).running() as origin,
        proxy_to(origin.port, decide=LISTENER.decide) as proxy,
    ):
        await ask(case, await proxy.connect(), record)
    return record


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_12_each_case_shows_only_the_named_differences(case: Case) -> None:
    """§12: byte for byte, on both sides."""
    direct, proxied = await directly(case), await through_the_proxy(case)
    assert direct == Record(list(case.requests), list(case.answered)), (
        "the case itself does not work"
    )
    differs: set[str] = set()
    assert proxied.received == _all(
        differs, [expected_request(request) for request in direct.received]
    )
    pairs = zip(direct.received, direct.answered, strict=True)
    assert proxied.answered == _all(
        differs, [expected_answer(request, answered) for request, answered in pairs]
    )
    assert differs == case.differs


def _all(differs: set[str], expected: Sequence[tuple[bytes, set[str]]]) -> list[bytes]:
    for _, names in expected:
        differs |= names
    return [raw for raw, _ in expected]


def test_12_there_are_150_cases_and_each_difference_is_shown() -> None:
    assert len(CASES) >= 150
    twice = [name for name, count in Counter(case.name for case in CASES).items() if count > 1]
    assert not twice
    assert set().union(*[case.differs for case in CASES]) == NAMES

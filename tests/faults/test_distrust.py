"""Credentials that VB365 has just rejected resume no job (CONTRACT §9)."""

from __future__ import annotations

from structlog.testing import capture_logs

from proxy.core.job import Phase
from proxy.upstream.access import Access
from proxy.upstream.credentials import Credentials
from proxy.upstream.turns import Turns
from tests.support.fakes import new_job
from tests.support.harness import CALL, FakeUpstream, Reply, Steps, new_world


class CountingUpstream(FakeUpstream):
    """Counts access checks, and responds to all of them with 200."""

    def __init__(self) -> None:
        super().__init__(Steps())
        self.questions = 0

    async def send(self, *args: object, **kwargs: object) -> Reply:
        self.questions += 1
        return Reply(self, 200, [], b"{}")


async def test_rejected_credentials_are_checked_again() -> None:
    """§9: the cached result of 60 s is discarded once a job got 401."""
    upstream = CountingUpstream()
    access = Access(upstream, key=b"k", cache=60, timeout=1, turns=Turns(8), now=lambda: 0.0)
    job = new_job(1)
    mine = Credentials((b"Bearer a",), ())
    other = Credentials((b"Bearer other",), ())
    for credentials in (mine, mine, other):
        await access.check(credentials, job)
    assert upstream.questions == 2
    access.distrust(CALL)
    await access.check(mine, job)
    assert upstream.questions == 3
    await access.check(other, job)
    assert upstream.questions == 3
    access.distrust([])


async def test_the_runner_reports_rejected_credentials() -> None:
    """§9, §10: at the 401 that suspends a job."""
    with capture_logs():
        async with new_world() as world:
            world.upstream.plan.extend(["cut", "401"])
            job, _ = await world.submit()
            await world.quiet()
            assert await world.phase(job) is Phase.SUSPENDED
            assert world.trust.refused == [CALL]

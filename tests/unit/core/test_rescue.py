"""Who joins a rescued export (CONTRACT §14)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxy.core.events import Answered, Claimed, Interrupted, Resumed
from proxy.core.job import Delivery, FileFacts, Job, Origin, Phase, ResultState, Status
from proxy.core.rescue import Offer, offer, rescue_key, tentative, unanswered, unique_key
from proxy.core.transitions import advance
from tests.support.fakes import new_job

HEAD = FileFacts(
    media_type="application/octet-stream",
    file_name=None,
    size=10,
    etag=None,
    reason="OK",
    lines="Content-Length: 10\r\n",
)
TTL = 100.0
ENDED = 1000.0


def rescued(**changes: Any) -> Job:
    return new_job(fingerprint="f00d", **({"origin": Origin.RESCUE} | changes))


def done(**changes: Any) -> Job:
    facts = {
        "status": Status.SUCCESS,
        "phase": Phase.COMPLETED,
        "result": ResultState.AVAILABLE,
        "ended": ENDED,
        "expires": 9000.0,
        "file": HEAD,
    }
    return rescued(**(facts | changes))


#: A job, and what it is to an identical request at `ENDED`.
TABLE = {
    "queued": (rescued(), Offer.JOIN),
    "generating": (rescued(phase=Phase.GENERATING), Offer.JOIN),
    "transferring": (rescued(phase=Phase.TRANSFERRING, file=HEAD), Offer.JOIN),
    "finalizing": (rescued(phase=Phase.FINALIZING, file=HEAD), Offer.JOIN),
    "suspended": (rescued(phase=Phase.SUSPENDED, file=HEAD), Offer.RESUME),
    "suspended before a byte": (rescued(phase=Phase.SUSPENDED), Offer.RESUME),
    "finished": (done(), Offer.JOIN),
    "finished with a warning": (done(status=Status.WARNING), Offer.JOIN),
    "finished, of an old record": (done(ended=None, updated=ENDED), Offer.JOIN),
    "downloaded in part": (done(delivery=Delivery(sent=5, count=1)), Offer.JOIN),
    "rescue_ttl is over": (done(ended=ENDED - TTL), Offer.OVER),
    "rescue_ttl is not over": (done(ended=ENDED - TTL + 1), Offer.JOIN),
    "expired, not swept yet": (done(expires=ENDED), Offer.OVER),
    "its head is not stored": (done(file=replace(HEAD, lines=None)), Offer.OVER),
    "its head is not stored, running": (
        rescued(phase=Phase.TRANSFERRING, file=replace(HEAD, lines=None)),
        Offer.OVER,
    ),
    "delivered whole": (done(delivery=Delivery(sent=10, count=1, whole=True)), Offer.NONE),
    "detached": (done(detached=True), Offer.NONE),
    "expired": (done(result=ResultState.EXPIRED), Offer.NONE),
    "released": (done(result=ResultState.DELETED), Offer.NONE),
    "failed": (done(status=Status.FAILED, result=ResultState.INCOMPLETE), Offer.NONE),
    "failed before a byte": (done(status=Status.FAILED, result=None), Offer.NONE),
    "cancelled": (done(status=Status.CANCELLED, result=None), Offer.NONE),
    "being cancelled": (rescued(phase=Phase.CANCELLING), Offer.NONE),
    "deleted": (done(phase=Phase.FORGOTTEN), Offer.NONE),
    "asked for": (rescued(origin=Origin.ASYNC), Offer.NONE),
}


@pytest.mark.parametrize("name", TABLE)
def test_14_who_joins_what(name: str) -> None:
    """§14: a running job, or a finished one that was not delivered whole, within rescue_ttl."""
    job, expected = TABLE[name]
    assert offer(job, now=ENDED, ttl=TTL) is expected


@pytest.mark.parametrize("name", TABLE)
def test_14_a_job_that_can_be_joined_is_the_only_one_with_its_key(name: str) -> None:
    """Stores find it by that key, and refuse a second one. `OVER` keeps the key until the job is
    detached.
    """
    job, expected = TABLE[name]
    taken = rescue_key("f00d") if expected is not Offer.NONE else None
    assert unique_key(job) == taken


def test_14_a_job_that_was_asked_for_has_its_idempotency_key_alone() -> None:
    """§8."""
    assert unique_key(new_job(key="k")) == "k"
    assert unique_key(new_job()) is None
    assert unique_key(new_job(key="k", phase=Phase.FORGOTTEN)) is None


def test_14_no_idempotency_key_of_a_client_is_that_of_a_rescued_export() -> None:
    """§8: a key has visible characters only."""
    assert " " in rescue_key("f00d")


def test_14_a_job_is_tentative_until_it_has_a_slot_or_was_suspended() -> None:
    """A caller has been shown a suspended job: it stays when it is queued again."""
    assert tentative(rescued())
    assert not tentative(new_job())
    assert not tentative(advance(rescued(), Claimed("runner"), 1.0))
    suspended = advance(rescued(), Interrupted(), 1.0)
    assert not tentative(suspended)
    assert not tentative(advance(suspended, Resumed(None), 2.0))


def test_14_a_job_is_unanswered_until_vb365_responds_with_200() -> None:
    """Also while it is suspended: the next request resumes it, and VB365 may refuse it then."""
    generating = advance(rescued(), Claimed("runner"), 1.0)
    for job in rescued(), generating, advance(generating, Interrupted(), 2.0):
        assert unanswered(job)
    for job in advance(generating, Answered(HEAD), 2.0), done(), new_job():
        assert not unanswered(job)

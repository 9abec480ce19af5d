"""The job state machine (CONTRACT §5, §7, §9, §10)."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import transitions
from proxy.core.events import (
    Answered,
    Assigned,
    Cancelled,
    CancelRequested,
    Claimed,
    Delivered,
    Detached,
    Event,
    Expired,
    Extended,
    Failed,
    Forgotten,
    Identified,
    Interrupted,
    Joined,
    Received,
    Released,
    Restarted,
    Resumed,
    Shown,
    Succeeded,
)
from proxy.core.job import (
    Delivery,
    Phase,
    ResultState,
    Status,
)
from proxy.core.job_codec import decode, encode
from proxy.core.transitions import TRANSITIONS, IllegalTransition, advance
from tests.unit.core.job_samples import (
    ANSWER,
    DONE,
    ERROR,
    EVENTS,
    QUEUED,
    SAMPLES,
    SUCCEEDED,
    TRANSFERRING,
    WAYS,
    job_after,
    walk,
)


def _accepted_in(phase: Phase) -> set[type[Event]]:
    column = list(Phase).index(phase)
    return {event for event, row in TRANSITIONS.items() if row[column] is not None}


def test_the_table_is_total() -> None:
    """Each event has a row and an effect, and each row a cell for each phase."""
    assert set(TRANSITIONS) == set(get_args(Event)) == set(transitions._EFFECTS) == set(SAMPLES)
    assert {len(row) for row in TRANSITIONS.values()} == {len(Phase)}
    assert set(WAYS) == set(Phase)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", SAMPLES, ids=lambda kind: kind.__name__)
def test_advance_follows_the_table(kind: type[Event], phase: Phase) -> None:
    """The next phase, one version up and a new time; or `IllegalTransition`, which changes
    nothing.
    """
    before = job_after(*WAYS[phase])
    assert before.phase is phase
    target = TRANSITIONS[kind][list(Phase).index(phase)]
    if target is None:
        with pytest.raises(
            IllegalTransition, match=f"{kind.__name__} does not apply to a job in phase {phase}"
        ) as refusal:
            advance(before, SAMPLES[kind], 300.0)
        assert (refusal.value.phase, refusal.value.event) == (phase, SAMPLES[kind])
    else:
        after = advance(before, SAMPLES[kind], 300.0)
        assert (after.phase, after.version) == (target, before.version + 1)
        shown = kind not in (Delivered, Detached)
        assert (after.shown_version == before.version + 1) is shown
        assert after.updated == (300.0 if shown else before.updated)


def test_every_phase_can_be_reached_and_left() -> None:
    reached = {cell for row in TRANSITIONS.values() for cell in row} | {Phase.QUEUED}
    assert reached - {None} == set(Phase)
    assert all(_accepted_in(phase) for phase in Phase)


def test_deliveries_add_up() -> None:
    """§16 `delivered`."""
    part = advance(DONE, Delivered(sent=4, whole=False), 300.0)
    both = advance(part, Delivered(sent=20, whole=True, count=2), 301.0)
    again = advance(both, Delivered(sent=1, whole=False), 302.0)
    assert part.delivery == Delivery(sent=4, count=1, last=300.0)
    assert both.delivery == Delivery(sent=24, count=3, last=301.0, whole=True)
    assert again.delivery == Delivery(sent=25, count=4, last=302.0, whole=True)
    assert again.shown_version == DONE.shown_version


def test_requests_that_join_are_counted() -> None:
    """§14 `joined`."""
    assert job_after(Joined(), Joined()).joined == 2


def test_cancel_beats_a_late_response() -> None:
    """§7: only the end of the cancellation leaves Cancelling: not a response of VB365, not a
    success, not a failure.
    """
    assert _accepted_in(Phase.CANCELLING) == {Identified, CancelRequested, Cancelled, Forgotten}


def test_a_persisted_success_beats_a_late_cancel() -> None:
    """§7: a terminal job only delivers or loses its file, is joined or detached, forgotten, or
    gets a further owner.
    """
    assert _accepted_in(Phase.COMPLETED) == {
        Identified,
        Expired,
        Extended,
        Released,
        Joined,
        Detached,
        Delivered,
        Forgotten,
    }
    assert _accepted_in(Phase.FORGOTTEN) == {Forgotten}


def test_only_a_verified_body_succeeds() -> None:
    """§10: success follows Finalizing, or a suspended job whose committed file was
    found.
    """
    assert {phase for phase in Phase if Succeeded in _accepted_in(phase)} == {
        Phase.FINALIZING,
        Phase.SUSPENDED,
    }


def test_a_success_describes_its_file() -> None:
    assert (DONE.status, DONE.result, DONE.terminal, DONE.forgotten) == (
        Status.SUCCESS,
        ResultState.AVAILABLE,
        True,
        False,
    )
    assert (DONE.size, DONE.received, DONE.digest, DONE.expires, DONE.format) == (
        10,
        10,
        "ZGln",
        900.0,
        "Pst",
    )
    assert (DONE.ended, DONE.holder, DONE.rate) == (205.0, None, None)
    warned = job_after(*WAYS[Phase.FINALIZING], replace(SUCCEEDED, warning=True))
    assert (warned.status, warned.result) == (Status.WARNING, ResultState.AVAILABLE)


@pytest.mark.parametrize(
    ("events", "result"),
    [
        ((Claimed("r"),), None),
        (TRANSFERRING, ResultState.INCOMPLETE),
        ((*TRANSFERRING, Restarted()), None),
        ((*TRANSFERRING, Interrupted()), ResultState.INCOMPLETE),
    ],
)
def test_a_failed_or_cancelled_job_has_no_file(
    events: tuple[Event, ...], result: ResultState | None
) -> None:
    """§5: `result` is null until VB365's 200 head has arrived, and Incomplete without the body."""
    failed = job_after(*events, Failed(ERROR))
    assert (failed.status, failed.result, failed.error) == (Status.FAILED, result, ERROR)
    cancelled = job_after(*events, CancelRequested(), Cancelled())
    assert (cancelled.status, cancelled.result, cancelled.error) == (Status.CANCELLED, result, None)
    for job in (failed, cancelled):
        assert (job.terminal, job.holder, job.rate, job.suspended, job.ended) == (
            True,
            None,
            None,
            None,
            job.updated,
        )


def test_attempt_counts_generations_from_zero() -> None:
    """§5: a continuation with Range stays in its attempt; a new start drops what is known of the
    old one's answer.
    """
    first = job_after(*TRANSFERRING)
    assert (first.attempt, first.started) == (1, 201.0)
    second = job_after(Restarted(), job=first)
    assert (second.attempt, second.received, second.file, second.format, second.result) == (
        2,
        0,
        None,
        None,
        None,
    )
    suspended = job_after(
        Answered(ANSWER), Received(7, None, "Pst"), Interrupted(), Resumed(), job=second
    )
    continued = job_after(Claimed("other", offset=7), job=suspended)
    assert (continued.attempt, continued.received, continued.file, continued.started) == (
        2,
        7,
        ANSWER,
        201.0,
    )
    fresh = job_after(Claimed("other"), job=suspended)
    assert (fresh.attempt, fresh.received, fresh.file, fresh.result, fresh.started) == (
        3,
        0,
        None,
        None,
        201.0,
    )


def test_received_bytes_never_fall_within_an_attempt() -> None:
    """§5: the percentage never falls within an attempt, even if fewer bytes survived a crash than
    were reported.
    """
    job = job_after(*TRANSFERRING, Received(3, None, "Pst"))
    assert job.received == 5
    survived = job_after(
        Interrupted(), Resumed(), Claimed("r", offset=2), Answered(ANSWER), job=job
    )
    assert survived.received == 5
    assert job_after(Received(6, 1, "Pst"), job=survived).received == 6


def test_published_bytes_are_those_of_one_file() -> None:
    """§14: they never fall until the job is claimed again, or starts again from zero: its file has
    another name then, or other bytes.
    """
    job = job_after(*TRANSFERRING, Received(8, 1, "Pst", 7), Received(9, 1, "Pst"), Joined())
    assert job.published == 7
    assert job_after(Restarted(), job=job).published == 0
    suspended = job_after(Interrupted(), Resumed(), job=job)
    assert suspended.published == 7
    assert job_after(Assigned("r"), job=suspended).published == 0


def test_a_suspension_is_timed_from_its_start() -> None:
    """§9 `suspend_ttl`: a second interruption of a suspended job does not prolong it; a resumption
    ends it.
    """
    suspended = job_after(*TRANSFERRING, Interrupted())
    assert (suspended.suspended, suspended.holder, suspended.rate) == (204.0, None, None)
    assert advance(suspended, Interrupted(), 999.0).suspended == 204.0
    queued = advance(suspended, Resumed(), 999.0)
    assert (queued.phase, queued.suspended) == (Phase.QUEUED, None)
    assert advance(queued, Interrupted(), 1000.0).suspended == 1000.0


def test_a_job_resumed_with_credentials_of_another_caller_stays_borrowed() -> None:
    """§9: the content of such a job is not only that of its owner."""
    borrowed = job_after(*TRANSFERRING, Interrupted(), Resumed("sealed", borrowed=True))
    assert (borrowed.borrowed, borrowed.sealed) == (True, "sealed")
    assert job_after(Interrupted(), Resumed(), job=borrowed).borrowed
    assert not job_after(*TRANSFERRING, Interrupted(), Resumed()).borrowed


def test_each_claim_of_a_replica_has_its_own_fence() -> None:
    """§18: the job keeps its slot and its phase until the file is open, and its fence for ever."""
    assigned = job_after(Assigned("a"))
    assert (assigned.phase, assigned.holder, assigned.fence) == (Phase.QUEUED, "a", 1)
    again = job_after(
        Claimed("a"), Interrupted(), Resumed(replica="b"), Assigned("b"), job=assigned
    )
    assert (again.holder, again.fence, again.replica) == ("b", 2, "b")
    assert job_after(Interrupted(), job=again).replica is None


def test_sealed_credentials_that_vb365_rejected_are_not_kept() -> None:
    """§9: after a 401 no replica resumes the job with them again."""
    sealed = replace(QUEUED, sealed="sealed")
    assert job_after(Interrupted(), job=sealed).sealed == "sealed"
    assert job_after(Interrupted(expired=True), job=sealed).sealed is None


def test_a_request_from_zero_that_vb365_answered_with_401_is_no_attempt() -> None:
    """§10: one that the proxy interrupted is, and one that continues a file stays in its."""
    claimed = job_after(Claimed("r"))
    assert (claimed.attempt, job_after(Interrupted(), job=claimed).attempt) == (1, 1)
    rejected = job_after(Interrupted(expired=True), job=claimed)
    assert (rejected.attempt, rejected.started) == (0, None)
    transferring = job_after(*TRANSFERRING)
    again = job_after(Restarted(), Interrupted(expired=True), job=transferring)
    assert (again.attempt, again.started) == (1, transferring.started)
    stored = job_after(Interrupted(), Resumed(), Claimed("r", 5), job=transferring)
    for job in (transferring, stored):
        assert job_after(Interrupted(expired=True), job=job).attempt == 1
    assert job_after(Interrupted(expired=True)).attempt == 0


@pytest.mark.parametrize("event", [Answered(ANSWER), Shown(), Interrupted()])
def test_a_job_that_may_be_dropped_ceases_to_be_so(event: Event) -> None:
    """§3.7: by a 200, by being shown, and when no kick-off waits any more."""
    attended = job_after(Claimed("r"), job=replace(QUEUED, attended=True))
    assert attended.attended
    assert not job_after(event, job=attended).attended


def test_an_operator_extends_the_time_of_an_available_file() -> None:
    """§16: never to an earlier moment, and never of a file that has expired or is deleted."""
    done = replace(DONE, expires=500.0)
    assert advance(done, Extended(900.0), 499.0).expires == 900.0
    assert advance(done, Extended(400.0), 399.0).expires == 500.0
    for job, now in (
        (done, 500.0),
        (advance(done, Expired(), 500.0), 501.0),
        (advance(done, Released(), 300.0), 301.0),
        (replace(done, expires=None), 300.0),
    ):
        assert advance(job, Extended(900.0), now).expires == job.expires


def test_a_released_or_expired_file_is_not_available() -> None:
    """§7: the first of both events counts; a job without a file does not change."""
    released = job_after(Released(), job=DONE)
    expired = job_after(Expired(), job=DONE)
    assert (released.result, job_after(Expired(), job=released).result) == (
        ResultState.DELETED,
        ResultState.DELETED,
    )
    assert (expired.result, job_after(Released(), job=expired).result) == (
        ResultState.EXPIRED,
        ResultState.EXPIRED,
    )
    failed = job_after(Claimed("r"), Failed(ERROR))
    assert job_after(Released(), Expired(), job=failed).result is None


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.FORGOTTEN])
def test_a_tombstone_keeps_nothing_of_the_export(phase: Phase) -> None:
    """§7, §9: it keeps its owner and its session, and is terminal."""
    before = job_after(*WAYS[phase])
    tombstone = advance(before, Forgotten(), 300.0)
    assert (tombstone.forgotten, tombstone.terminal) == (True, True)
    assert (tombstone.owner, tombstone.request.session) == (before.owner, before.request.session)
    assert tombstone.status is (before.status if before.terminal else Status.CANCELLED)
    assert tombstone.ended == (300.0 if before.ended is None else before.ended)
    gone = (
        tombstone.file,
        tombstone.error,
        tombstone.digest,
        tombstone.result,
        tombstone.holder,
        tombstone.rate,
    )
    assert gone == (None,) * 6
    assert (tombstone.timeline, tombstone.delivery) == ((), Delivery())
    request = tombstone.request
    assert (request.target, request.content_type, request.idempotency_key, request.fingerprint) == (
        "",
        None,
        None,
        "",
    )


@given(st.lists(EVENTS, max_size=40))
def test_the_invariants_hold_for_any_events(events: list[Event]) -> None:
    """§5, §7: whatever happens, in any order."""
    path = walk(events)
    for before, after in itertools.pairwise(path):
        assert (after.id, after.owner, after.created) == (before.id, before.owner, before.created)
        assert after.version == before.version + 1
        assert (
            after.terminal
            == (after.phase in (Phase.COMPLETED, Phase.FORGOTTEN))
            == (after.ended is not None)
        )
        assert after.attempt in (before.attempt, before.attempt + 1)
        if before.terminal:
            assert (after.status, after.ended, after.holder) == (before.status, before.ended, None)
            assert (after.file, after.size) == (before.file, before.size) or after.forgotten
        elif (
            after.attempt == before.attempt
            and after.phase is not Phase.FINALIZING
            and not after.terminal
        ):
            assert after.received >= before.received
        if after.result is ResultState.AVAILABLE:
            assert after.status in (Status.SUCCESS, Status.WARNING)
            assert None not in (after.size, after.digest, after.expires)
        assert (after.suspended is not None) <= (
            after.phase in (Phase.SUSPENDED, Phase.CANCELLING, Phase.FORGOTTEN)
        )


@pytest.mark.parametrize("event", [CancelRequested(), Forgotten()])
def test_the_end_of_a_generation_is_recorded(event: Event) -> None:
    """§3.5 `cancel_hold`: VB365 may continue it, and only it."""
    generating = advance(QUEUED, Claimed("r"), 101.0)
    assert advance(QUEUED, event, 105.0).abandoned is None
    assert advance(advance(generating, Answered(ANSWER), 102.0), event, 105.0).abandoned is None
    ended = advance(generating, event, 105.0)
    assert ended.abandoned == 105.0
    if not ended.forgotten:
        cancelled = advance(decode(encode(ended)), Cancelled(), 106.0)
        assert advance(cancelled, Forgotten(), 107.0).abandoned == 105.0


def test_an_identity_that_is_confirmed_later_owns_the_job_too() -> None:
    """§8: once, also after the end; the status does not change."""
    named = job_after(Identified("identity"), Identified("identity"), job=DONE)
    assert named.owners == ("me", "identity")
    assert (named.status, named.phase, named.accepted) == (DONE.status, DONE.phase, True)

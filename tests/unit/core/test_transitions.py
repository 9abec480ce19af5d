"""The job state machine (CONTRACT §5, §7, §9, §10)."""

from __future__ import annotations

import itertools
import json
from dataclasses import fields, replace
from typing import Any, get_args

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
    Finalizing,
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
    ErrorCode,
    ExportRequest,
    FileFacts,
    Job,
    JobError,
    Phase,
    ResultState,
    Status,
)
from proxy.core.job_codec import decode, encode
from proxy.core.transitions import TRANSITIONS, IllegalTransition, advance

REQUEST = ExportRequest(
    method="POST",
    target="/v8/RestoreSessions/s/organization/exportToPst?x=\xff",
    api="v8",
    session="s",
    title="exportToPst",
    content_type="application/json",
    accept=None,
    accept_language=None,
    idempotency_key="key",
    fingerprint="f00d",
)
QUEUED = Job(id="1", version=1, owner="me", request=REQUEST, created=100.0, updated=100.0)
ANSWER = FileFacts(media_type="application/octet-stream", file_name="a.pst", size=10, etag=None)
ERROR = JobError(code=ErrorCode.TRUNCATED, message="cut", retryable=True)
SUCCEEDED = Succeeded(size=10, digest="ZGln", expires=900.0, format="Pst")
SAMPLES: dict[type[Event], Event] = {
    Assigned: Assigned("runner"),
    Claimed: Claimed("runner"),
    Answered: Answered(ANSWER),
    Received: Received(5, 100, "Pst"),
    Restarted: Restarted(),
    Finalizing: Finalizing(10),
    Succeeded: SUCCEEDED,
    Failed: Failed(ERROR),
    Shown: Shown(),
    Identified: Identified("identity"),
    CancelRequested: CancelRequested(),
    Cancelled: Cancelled(),
    Interrupted: Interrupted(),
    Resumed: Resumed(),
    Expired: Expired(),
    Extended: Extended(2000.0),
    Released: Released(),
    Joined: Joined(),
    Detached: Detached(),
    Delivered: Delivered(sent=10, whole=True),
    Forgotten: Forgotten(),
}


def _after(*events: Event, job: Job = QUEUED) -> Job:
    for step, event in enumerate(events, 1):
        job = advance(job, event, 200.0 + step)
    return job


TRANSFERRING = (Claimed("r"), Answered(ANSWER), Received(5, 100, "Pst"))
#: Events that lead into each phase.
WAYS: dict[Phase, tuple[Event, ...]] = {
    Phase.QUEUED: (),
    Phase.GENERATING: (Claimed("r"),),
    Phase.TRANSFERRING: TRANSFERRING,
    Phase.FINALIZING: (*TRANSFERRING, Finalizing(10)),
    Phase.CANCELLING: (*TRANSFERRING, CancelRequested()),
    Phase.SUSPENDED: (*TRANSFERRING, Interrupted()),
    Phase.COMPLETED: (*TRANSFERRING, Finalizing(10), SUCCEEDED),
    Phase.FORGOTTEN: (*TRANSFERRING, Forgotten()),
}
DONE = _after(*WAYS[Phase.COMPLETED])


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
    before = _after(*WAYS[phase])
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
    assert _after(Joined(), Joined()).joined == 2


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
    warned = _after(*WAYS[Phase.FINALIZING], replace(SUCCEEDED, warning=True))
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
    failed = _after(*events, Failed(ERROR))
    assert (failed.status, failed.result, failed.error) == (Status.FAILED, result, ERROR)
    cancelled = _after(*events, CancelRequested(), Cancelled())
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
    first = _after(*TRANSFERRING)
    assert (first.attempt, first.started) == (1, 201.0)
    second = _after(Restarted(), job=first)
    assert (second.attempt, second.received, second.file, second.format, second.result) == (
        2,
        0,
        None,
        None,
        None,
    )
    suspended = _after(
        Answered(ANSWER), Received(7, None, "Pst"), Interrupted(), Resumed(), job=second
    )
    continued = _after(Claimed("other", offset=7), job=suspended)
    assert (continued.attempt, continued.received, continued.file, continued.started) == (
        2,
        7,
        ANSWER,
        201.0,
    )
    fresh = _after(Claimed("other"), job=suspended)
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
    job = _after(*TRANSFERRING, Received(3, None, "Pst"))
    assert job.received == 5
    survived = _after(Interrupted(), Resumed(), Claimed("r", offset=2), Answered(ANSWER), job=job)
    assert survived.received == 5
    assert _after(Received(6, 1, "Pst"), job=survived).received == 6


def test_a_suspension_is_timed_from_its_start() -> None:
    """§9 `suspend_ttl`: a second interruption of a suspended job does not prolong it; a resumption
    ends it.
    """
    suspended = _after(*TRANSFERRING, Interrupted())
    assert (suspended.suspended, suspended.holder, suspended.rate) == (204.0, None, None)
    assert advance(suspended, Interrupted(), 999.0).suspended == 204.0
    queued = advance(suspended, Resumed(), 999.0)
    assert (queued.phase, queued.suspended) == (Phase.QUEUED, None)
    assert advance(queued, Interrupted(), 1000.0).suspended == 1000.0


def test_a_job_resumed_with_credentials_of_another_caller_stays_borrowed() -> None:
    """§9: the content of such a job is not only that of its owner."""
    borrowed = _after(*TRANSFERRING, Interrupted(), Resumed("sealed", borrowed=True))
    assert (borrowed.borrowed, borrowed.sealed) == (True, "sealed")
    assert _after(Interrupted(), Resumed(), job=borrowed).borrowed
    assert not _after(*TRANSFERRING, Interrupted(), Resumed()).borrowed


def test_each_claim_of_a_replica_has_its_own_fence() -> None:
    """§18: the job keeps its slot and its phase until the file is open, and its fence for ever."""
    assigned = _after(Assigned("a"))
    assert (assigned.phase, assigned.holder, assigned.fence) == (Phase.QUEUED, "a", 1)
    again = _after(Claimed("a"), Interrupted(), Resumed(replica="b"), Assigned("b"), job=assigned)
    assert (again.holder, again.fence, again.replica) == ("b", 2, "b")
    assert _after(Interrupted(), job=again).replica is None


def test_sealed_credentials_that_vb365_rejected_are_not_kept() -> None:
    """§9: after a 401 no replica resumes the job with them again."""
    sealed = replace(QUEUED, sealed="sealed")
    assert _after(Interrupted(), job=sealed).sealed == "sealed"
    assert _after(Interrupted(expired=True), job=sealed).sealed is None


@pytest.mark.parametrize("event", [Answered(ANSWER), Shown(), Interrupted()])
def test_a_job_that_may_be_dropped_ceases_to_be_so(event: Event) -> None:
    """§3.7: by a 200, by being shown, and when no kick-off waits any more."""
    attended = _after(Claimed("r"), job=replace(QUEUED, attended=True))
    assert attended.attended
    assert not _after(event, job=attended).attended


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
    released = _after(Released(), job=DONE)
    expired = _after(Expired(), job=DONE)
    assert (released.result, _after(Expired(), job=released).result) == (
        ResultState.DELETED,
        ResultState.DELETED,
    )
    assert (expired.result, _after(Released(), job=expired).result) == (
        ResultState.EXPIRED,
        ResultState.EXPIRED,
    )
    failed = _after(Claimed("r"), Failed(ERROR))
    assert _after(Released(), Expired(), job=failed).result is None


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.FORGOTTEN])
def test_a_tombstone_keeps_nothing_of_the_export(phase: Phase) -> None:
    """§7, §9: it keeps its owner and its session, and is terminal."""
    before = _after(*WAYS[phase])
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


COUNTS = st.integers(0, 2**63)
ANSWERS = st.builds(
    FileFacts,
    media_type=st.text(),
    file_name=st.text(),
    size=st.none() | COUNTS,
    etag=st.none() | st.text(),
)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(Claimed, st.text(), st.sampled_from([0, 1, 5])),
    st.builds(Answered, ANSWERS),
    st.builds(
        Received,
        st.integers(0, 20),
        st.none() | COUNTS,
        st.none() | st.sampled_from(["Pst", "Zip"]),
    ),
    st.sampled_from(
        [event for kind, event in SAMPLES.items() if kind not in (Claimed, Answered, Received)]
    ),
)


def _walk(events: list[Event]) -> list[Job]:
    """The jobs after each of the events that apply, in order."""
    path = [QUEUED]
    for step, event in enumerate(events, 1):
        try:
            path.append(advance(path[-1], event, 100.0 + step))
        except IllegalTransition:
            continue
    return path


@given(st.lists(EVENTS, max_size=40))
def test_the_invariants_hold_for_any_events(events: list[Event]) -> None:
    """§5, §7: whatever happens, in any order."""
    path = _walk(events)
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


TIMES = st.floats(allow_nan=False)
MAYBE_TEXT = st.none() | st.text()
REQUESTS = st.builds(
    ExportRequest,
    session=MAYBE_TEXT,
    content_type=MAYBE_TEXT,
    accept=MAYBE_TEXT,
    accept_language=MAYBE_TEXT,
    idempotency_key=MAYBE_TEXT,
    host=MAYBE_TEXT,
)
JOBS = st.builds(
    Job,
    request=REQUESTS,
    **dict.fromkeys(("created", "updated"), TIMES),
    **{name: st.none() | TIMES for name in ("started", "ended", "expires", "suspended")},
    **dict.fromkeys(("holder", "format", "digest"), MAYBE_TEXT),
    **{name: st.none() | COUNTS for name in ("rate", "size")},
    status=st.sampled_from(Status),
    phase=st.sampled_from(Phase),
    attempt=COUNTS,
    aliases=st.lists(st.text()).map(tuple),
    received=COUNTS,
    file=st.none() | ANSWERS,
    result=st.none() | st.sampled_from(ResultState),
    error=st.none()
    | st.builds(
        JobError,
        status=st.none() | COUNTS,
        content_type=MAYBE_TEXT,
        body=MAYBE_TEXT,
        truncated=st.booleans(),
    ),
)


@given(JOBS)
def test_jobs_round_trip_through_a_store(job: Job) -> None:
    """`decode(encode(job))` equals the job, including the types of all values."""
    again = decode(encode(job))
    assert again == job
    for field in fields(Job):
        assert type(getattr(again, field.name)) is type(getattr(job, field.name)), field.name


@given(st.lists(EVENTS, max_size=20))
def test_every_reachable_job_round_trips(events: list[Event]) -> None:
    for job in _walk(events):
        assert decode(encode(job)) == job


FULL = replace(_after(*TRANSFERRING, Failed(ERROR)), holder="x")


def test_members_of_a_newer_version_are_ignored() -> None:
    raw: dict[str, Any] = json.loads(encode(FULL))
    for part in (raw, raw["request"], raw["answer"], raw["error"]):
        part["fromTheFuture"] = {"x": 1}
    assert decode(json.dumps(raw).encode()) == FULL


def test_a_record_of_version_0_1_0_opens() -> None:
    """Later members have defaults."""
    raw = json.loads(encode(FULL))
    for later in (
        "aliases",
        "origin",
        "joined",
        "detached",
        "client",
        "delivery",
        "timeline",
        "unshown",
    ):
        del raw[later]
    del raw["answer"]["last_modified"], raw["answer"]["reason"], raw["answer"]["lines"]
    del raw["request"]["host"]
    again = decode(json.dumps(raw).encode())
    assert again == replace(FULL, timeline=())
    assert again.owners == (FULL.owner,)


@pytest.mark.parametrize(
    "name",
    [
        "id",
        "version",
        "owner",
        "request",
        "created",
        "status",
        "phase",
        "answer",
        "result",
        "error",
    ],
)
def test_a_record_without_a_required_member_is_invalid(name: str) -> None:
    raw = json.loads(encode(FULL))
    del raw[name]
    with pytest.raises(ValueError, match="not a job record"):
        decode(json.dumps(raw).encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "Skipped"),
        ("phase", None),
        ("result", ""),
        ("request", None),
        ("request", {}),
        ("answer", []),
        ("answer", {"size": 1}),
        ("error", {"code": "Nonsense"}),
        ("error", "x"),
        ("origin", "Other"),
        ("delivery", 7),
        ("timeline", [[1]]),
    ],
)
def test_a_record_with_a_wrong_member_is_invalid(name: str, value: object) -> None:
    with pytest.raises(ValueError):
        decode(json.dumps(json.loads(encode(FULL)) | {name: value}).encode())


@given(
    st.binary()
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
        lambda v: json.dumps(v).encode()
    )
)
def test_other_data_is_a_value_error(data: bytes) -> None:
    """Corrupted records are detected, never read in part."""
    with pytest.raises(ValueError):
        decode(data)


@given(st.integers(0, len(encode(FULL)) - 1))
def test_a_truncated_record_is_a_value_error(length: int) -> None:
    with pytest.raises(ValueError):
        decode(encode(FULL)[:length])


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
    named = _after(Identified("identity"), Identified("identity"), job=DONE)
    assert named.owners == ("me", "identity")
    assert (named.status, named.phase, named.accepted) == (DONE.status, DONE.phase, True)

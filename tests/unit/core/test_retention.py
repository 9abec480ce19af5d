"""When results and records end, which may be removed, and what ended jobs keep (CONTRACT §3.5,
§7).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from proxy.core.digests import shortened
from proxy.core.events import (
    Answered,
    Cancelled,
    CancelRequested,
    Claimed,
    Event,
    Expired,
    Extended,
    Failed,
    Finalizing,
    Forgotten,
    Identified,
    Interrupted,
    Released,
    Succeeded,
)
from proxy.core.job import ErrorCode, FileFacts, Job, JobError, Message, ResultState, Status
from proxy.core.job_codec import decode, encode
from proxy.core.job_document import document
from proxy.core.paths import Links
from proxy.core.retention import (
    Retention,
    Stage,
    as_of,
    file_expired,
    keeps_bytes,
    spent,
    stage,
)
from proxy.core.transitions import advance
from tests.support.fakes import new_job

RETENTION = Retention(result=1000.0, record=5000.0)
PATH = "/v8/RestoreSessions/s1/organization/mailboxes/m1/exportToPst"


def error(status: int | None = 401, **more: Any) -> JobError:
    return JobError(code=ErrorCode.REJECTED, message="no", retryable=False, status=status, **more)


def failed(given: JobError, *, accepted: bool = False, **request: Any) -> Job:
    return advance(running(**request), Failed(given, accepted), 3.0)


def running(**request: Any) -> Job:
    return advance(new_job(1, **request), Claimed("r"), 2.0)


def exported() -> Job:
    """A job that ended at 3 and whose file expires at 900."""
    facts = FileFacts(media_type="x/y", file_name="f", size=1, etag=None)
    events = (Claimed("r"), Answered(facts), Finalizing(1), Succeeded(1, "d", 900.0, "Zip"))
    job = new_job(1)
    for event in events:
        job = advance(job, event, 3.0)
    return job


def test_a_file_expires_before_the_sweeper_marks_it() -> None:
    """§7: an expired file is never served, even if the sweeper does not run."""
    done = exported()
    assert [file_expired(done, now) for now in (899.9, 900.0, 1e12)] == [False, True, True]
    assert file_expired(advance(done, Expired(), 4.0), 0.0)
    assert not file_expired(advance(done, Released(), 4.0), 1e12)
    assert not file_expired(new_job(1), 1e12)
    assert not file_expired(replace(done, expires=None), 1e12)


def test_an_expired_file_is_shown_as_expired_before_the_sweeper_marks_it() -> None:
    """§7: `result.state` is Expired from that second; nothing else changes."""
    done = exported()
    assert as_of(done, 899.9) is done
    late = as_of(done, 900.0)
    assert (late.result, late.status) == (ResultState.EXPIRED, Status.SUCCESS)
    assert as_of(late, 999.0) is late
    assert as_of(new_job(1), 1e12).result is None


def test_bytes_stay_until_the_job_has_ended_and_while_its_file_is_available() -> None:
    """The sweeper, the reconciler and the runner remove the bytes of all other jobs."""
    done, cancelling = exported(), advance(new_job(1), CancelRequested(), 2.0)
    assert [keeps_bytes(job) for job in (new_job(1), cancelling, done)] == [True, True, True]
    ended = (
        advance(cancelling, Cancelled(), 3.0),
        failed(error(500)),
        advance(done, Expired(), 4.0),
        advance(done, Released(), 4.0),
        advance(done, Forgotten(), 4.0),
        advance(new_job(1), Forgotten(), 4.0),
    )
    assert not any(map(keeps_bytes, ended))


def test_a_record_ends_after_result_ttl_and_record_ttl() -> None:
    """§7: `record_ttl` follows `result_ttl`, a tombstone lives 24 h, and the record of a running
    job does not end.
    """
    assert RETENTION.record_ends(exported()) == 6003.0
    assert RETENTION.record_ends(new_job(1)) is None
    assert RETENTION.record_ends(advance(exported(), Forgotten(), 9.0)) == 9.0 + 86400
    assert [RETENTION.record_over(exported(), now) for now in (6002.9, 6003.0)] == [False, True]
    assert not RETENTION.record_over(new_job(1), 1e12)


def test_the_record_of_an_extended_file_outlives_the_file() -> None:
    """Otherwise the file would go with its record before its time."""
    extended = advance(exported(), Extended(9000.0), 4.0)
    assert RETENTION.record_ends(extended) == 9000.0 + RETENTION.record


def accepted_job() -> Job:
    return advance(new_job(1), Identified("alice"), 1.0)


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (new_job(1), None),
        (advance(new_job(1), Claimed("r"), 2.0), None),
        (advance(new_job(1), Interrupted(), 2.0), (Stage.SUSPENDED, 2.0)),
        (advance(new_job(1), Interrupted(denied=True), 2.0), (Stage.REJECTED, 2.0)),
        (advance(accepted_job(), Interrupted(denied=True), 2.0), (Stage.SUSPENDED, 2.0)),
        (advance(new_job(1), CancelRequested(), 2.0), (Stage.CANCELLING, 2.0)),
        (
            advance(advance(new_job(1), CancelRequested(), 2.0), Cancelled(), 3.0),
            (Stage.ENDED, 3.0),
        ),
        (failed(error(500)), (Stage.ENDED, 3.0)),
        (failed(error(401), accepted=True), (Stage.ENDED, 3.0)),
        (failed(error(401)), (Stage.REFUSED, 3.0)),
        (advance(running(), Failed(error(400), denied=True), 3.0), (Stage.REFUSED, 3.0)),
        (advance(running(), Failed(error(None), denied=True), 3.0), (Stage.ENDED, 3.0)),
        (
            replace(failed(error(500)), result=ResultState.AVAILABLE, expires=9.0),
            (Stage.AVAILABLE, 9.0),
        ),
        (advance(failed(error(401)), Forgotten(), 7.0), (Stage.FORGOTTEN, 7.0)),
    ],
)
def test_every_job_has_its_stage(job: Job, expected: tuple[Stage, float] | None) -> None:
    assert stage(job) == expected
    may_stay = expected is None or expected[0] in (
        Stage.CANCELLING,
        Stage.SUSPENDED,
        Stage.REJECTED,
        Stage.AVAILABLE,
    )
    assert (spent(job) is None) == may_stay


def test_a_sweep_finds_each_record_when_it_ends() -> None:
    """`Retention.due` and `record_ends` agree."""
    for job in (
        failed(error(500)),
        failed(error(401)),
        advance(failed(error(500)), Forgotten(), 7.0),
    ):
        ends, found = RETENTION.record_ends(job), stage(job)
        assert ends is not None
        assert found is not None
        assert found[1] <= RETENTION.due(ends, suspend_ttl=1.0)[found[0]]
        assert found[1] > RETENTION.due(ends - 1, suspend_ttl=1.0)[found[0]]


def test_the_record_of_a_refused_job_ends_after_ten_minutes() -> None:
    """§3.5: VB365 answered 401 and never accepted its caller."""
    assert RETENTION.record_ends(failed(error(401))) == 603.0
    assert RETENTION.record_ends(failed(error(401), accepted=True)) == 6003.0
    assert RETENTION.record_ends(failed(error(403))) == 6003.0
    response = FileFacts(media_type="x/y", file_name="f", size=1, etag=None)
    answered = advance(advance(new_job(1), Claimed("r"), 2.0), Answered(response), 2.0)
    assert RETENTION.record_ends(advance(answered, Failed(error(401)), 3.0)) == 6003.0


def test_a_suspended_job_can_be_a_refused_one() -> None:
    """§3.5: a 401 suspends a job that was queued, and after `suspend_ttl` it fails as
    interrupted.
    """
    interrupted = Failed(JobError(code=ErrorCode.INTERRUPTED, message="late", retryable=True))
    for denied, ends in ((True, 603.0), (False, 6003.0)):
        suspended = advance(new_job(1), Interrupted(denied=denied), 2.0)
        assert RETENTION.record_ends(advance(suspended, interrupted, 3.0)) == ends


def test_a_suspension_ends_after_ten_minutes_if_vb365_never_accepted_the_caller() -> None:
    """§3.5, §9: `suspend_ttl` is for callers that VB365 has accepted, and is never exceeded."""
    unknown = advance(new_job(1), Interrupted(denied=True), 2.0)
    accepted = advance(accepted_job(), Interrupted(denied=True), 2.0)
    for job, ttl, ends in ((unknown, 3600, 602), (unknown, 60, 62), (accepted, 3600, 3602)):
        over = [RETENTION.suspension_over(job, now, suspend_ttl=ttl) for now in (ends - 0.1, ends)]
        assert over == [False, True]
    assert not RETENTION.suspension_over(new_job(1), 1e12, suspend_ttl=1)


def test_a_long_target_is_shortened_to_its_beginning_and_a_digest() -> None:
    """§3.5: when the job ends; the document shows the shortened path."""
    target = "/v8/RestoreSessions/s/organization/" + "a/" * 2000 + "exportToPst?" + "q" * 9999
    running = new_job(1, target=target)
    assert running.request.target == target
    kept = decode(encode(failed(error(500), target=target))).request
    assert kept.target == f"{target[:1024]}…sha256:{hashlib.sha256(target.encode()).hexdigest()}"
    assert (
        document(failed(error(500), target=target), Links("http://x"))["request"]["path"]
        == kept.target
    )
    short = failed(error(500), target=PATH + "?" + "q" * (2047 - len(PATH)))
    assert len(short.request.target) == 2048
    assert document(short, Links("http://x"))["request"]["path"] == PATH


def test_a_non_ascii_path_is_shown_as_sent() -> None:
    assert (
        document(new_job(1, target="/v8/\xff\xe4?\xff"), Links("http://x"))["request"]["path"]
        == "/v8/\xff\xe4"
    )


def test_the_error_body_is_shortened_only_for_refused_jobs() -> None:
    """§5: bodies of accepted callers are kept, up to 64 KiB."""
    body = "x" * 60_000
    for job in (failed(error(401, body=body), accepted=True), failed(error(400, body=body))):
        assert job.error is not None
        assert (job.error.body, job.error.truncated) == (body, False)
    refused = failed(error(401, body=body)).error
    assert refused is not None
    assert refused.truncated
    assert refused.body == f"{body[:1024]}…sha256:{hashlib.sha256(body.encode()).hexdigest()}"


@pytest.mark.parametrize("character", ["x", "\xff", '"', "\x01", "\U0001f600"])
def test_no_record_of_a_refused_job_is_large(character: str) -> None:
    """§3.5: whatever the caller sent in any field."""
    long = character * 60_000
    request: dict[str, Any] = {
        "target": long,
        "content_type": long,
        "accept": long,
        "accept_language": long,
        "title": "t" * 9999,
    }
    request |= {"api": "v" + "8" * 60_000, "session": "s" * 60_000, "key": "k" * 255}
    job = failed(error(401, body=long, content_type="c" * 9999), **request)
    assert len(encode(job)) < 8000
    assert json.loads(encode(job))["request"]["api"] == "v" + "8" * 15
    ascii_only = failed(error(401, body="x" * 60_000), target="x" * 60_000)
    assert len(encode(ascii_only)) < 4096


@pytest.mark.parametrize(
    "events",
    [
        [Claimed("r"), Failed(error(None))],
        [CancelRequested(), Cancelled()],
        [Claimed("r"), CancelRequested(), Cancelled()],
        [Forgotten()],
    ],
)
def test_no_record_of_a_job_that_vb365_never_answered_is_large(events: list[Event]) -> None:
    """§3.5: anybody can create them while VB365 is away, and they last as long as any other."""
    long = "\xff" * 60_000
    job = new_job(1, target=long, api="v" + "8" * 60_000, session=long, title=long, key="k" * 255)
    for event in events:
        job = advance(job, event, 3.0)
    assert job.terminal or job.forgotten
    assert len(encode(job)) < 8000
    assert job.request.session == f"sha256-{hashlib.sha256(long.encode('latin-1')).hexdigest()}"
    assert job.request.api == "v" + "8" * 15


def test_what_a_job_was_about_is_kept_if_it_is_not_long() -> None:
    session = "s" * 255
    assert failed(error(500), session=session).request.session == session
    assert advance(new_job(1, session=session), Forgotten(), 3.0).request.session == session


def test_records_of_unknown_callers_go_first_however_they_ended() -> None:
    """§3.5: a stranger may cancel or delete its job while VB365 is away."""
    honest = advance(replace(running(), accepted=True), Failed(error(None)), 3.0)
    cancelled = advance(advance(new_job(1), CancelRequested(), 2.0), Cancelled(), 9.0)
    deleted = advance(new_job(1), Forgotten(), 9.0)
    first = spent(honest)
    assert first is not None
    for each in (cancelled, deleted):
        rank = spent(each)
        assert rank is not None
        assert rank < first


def test_short_texts_are_unchanged() -> None:
    assert shortened("a" * 10, limit=10) == "a" * 10
    assert shortened("a" * 11, limit=10, keep=5).startswith("aaaaa…sha256:")


def test_a_record_of_version_0_1_0_has_the_normal_retention() -> None:
    raw = json.loads(encode(failed(error(401))))
    del raw["accepted"]
    assert stage(decode(json.dumps(raw).encode())) == (Stage.ENDED, 3.0)


def test_a_record_waits_a_day_for_the_delivery_of_its_messages() -> None:
    """§17: it does not exist any more for callers, and is removed as soon as it is delivered."""
    job = failed(error(500))
    telling = replace(job, outbox=(Message("failed", "a", 3.0, 2),))
    end = RETENTION.record_ends(job)
    assert end == 6003.0
    assert not RETENTION.removable(telling, end - 1)
    assert not RETENTION.removable(telling, end + 86_399.0)
    assert RETENTION.record_over(telling, end)
    assert RETENTION.removable(telling, end + 86_400.0)
    assert RETENTION.removable(job, end)
    planned = replace(job, outbox=(Message("expiring", "", 3.0),))
    assert RETENTION.removable(planned, end)


def test_a_record_that_anyone_can_create_does_not_wait() -> None:
    telling = replace(failed(error(401)), outbox=(Message("failed", "a", 3.0),))
    assert RETENTION.removable(telling, 603.0)


def test_a_record_of_an_unfinished_job_is_not_removable() -> None:
    assert not RETENTION.removable(new_job(1), 1e12)

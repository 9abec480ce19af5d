"""The log's events of a job: which change is which event, and what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.core.events import (
    Answered,
    CancelRequested,
    Claimed,
    Event,
    Expired,
    Failed,
    Finalizing,
    Forgotten,
    Identified,
    Interrupted,
    Received,
    Released,
    Restarted,
    Resumed,
    Succeeded,
)
from proxy.core.job import ErrorCode, FileFacts, Job, JobError
from proxy.core.job_events import changes, described
from proxy.core.transitions import advance
from tests.support.export_requests import export_request

FACTS = FileFacts(media_type="application/x", file_name=None, size=9, etag=None)
ERROR = JobError(code=ErrorCode.ERROR, message="no", retryable=False, status=500)
TARGET = "/v8/RestoreSessions/s1/organization/mailboxes/m1/exportToPst?secret=1"
REQUEST = export_request(target=TARGET, session="s1")
NEW = Job(id="j", version=1, owner="0123456789ab", request=REQUEST, created=10.0, updated=10.0)


def names(*events: Event) -> list[str]:
    """The events of these changes, each a second after the one before."""
    job, found = NEW, []
    for moment, event in enumerate(events, start=11):
        changed = advance(job, event, float(moment))
        found += [each.name.removeprefix("job.") for each in changes(job, changed)]
        job = changed
    return found


CLAIMED = Claimed("runner")
DONE = Succeeded(9, "AAAA", 99.0, "Pst")


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([CLAIMED, Restarted(), Answered(FACTS), Received(3, 1, None)], "started first_byte"),
        ([CLAIMED, Answered(FACTS), Restarted()], "started first_byte"),
        ([CLAIMED, Failed(ERROR)], "started ended"),
        ([Identified("x")], ""),
        ([CancelRequested(), Identified("x")], "cancelled"),
        ([Interrupted(), Interrupted(), Resumed()], "suspended resumed"),
        ([Forgotten(), Forgotten()], "ended deleted"),
    ],
)
def test_changes_and_their_events(events: list[Event], expected: str) -> None:
    """An attempt that starts over within its run is no event of the job."""
    assert names(*events) == expected.split()


def test_the_end_says_how_long_each_part_took() -> None:
    job = advance(NEW, CLAIMED, 12.0)
    job = advance(job, Answered(FACTS), 15.0)
    job = advance(job, Finalizing(9), 18.0)
    (ended,) = changes(job, advance(job, DONE, 18.0))
    assert ended.fields == {
        "outcome": "Success",
        "code": None,
        "status": None,
        "message": None,
        "seconds_queued": 2.0,
        "seconds_generating": 3.0,
        "seconds_transferring": 3.0,
        "bytes": 9,
        "rate": 3,
        "attempts": 1,
        "sha256": "000000",
    }
    assert not ended.warning


def test_a_job_that_was_never_sent_spent_its_time_in_the_queue() -> None:
    (ended,) = changes(NEW, advance(NEW, Failed(ERROR), 13.0))
    assert ended.warning
    times = [ended.fields[f"seconds_{name}"] for name in ("queued", "generating", "transferring")]
    assert times == [3.0, None, None]
    assert ended.fields["rate"] is None


def test_the_first_byte_is_that_of_the_attempt() -> None:
    """It stays after a continuation with Range, and is forgotten with the attempt's bytes."""
    job = NEW
    for event in (CLAIMED, Answered(FACTS), Interrupted(), Resumed(), Claimed("runner", 5)):
        job = advance(job, event, job.updated + 1)
    assert job.answered == 12.0
    assert advance(job, Answered(FACTS), 99.0).answered == 12.0
    assert advance(job, Restarted(), 99.0).answered is None


def test_a_report_has_no_session_and_no_object() -> None:
    request = replace(REQUEST, session=None, title="generateX", target="/v8/Reports/generateX?a=b")
    fields = described(replace(NEW, request=request))
    assert fields == {"job": "j", "export": "generateX", "session": None, "caller": "01234567"}


def test_the_export_is_named_by_verb_and_object() -> None:
    """Never by its query, and never by 256 KiB of path."""
    assert described(NEW)["export"] == "exportToPst organization/mailboxes/m1"
    long = replace(REQUEST, target=f"/v8/RestoreSessions/s/organization/{'x' * 9999}/save")
    assert len(described(replace(NEW, request=long))["export"]) == 300


@pytest.mark.parametrize(
    ("event", "name"), [(Released(), "job.released"), (Expired(), "job.expired")]
)
def test_a_file_ends_once(event: Event, name: str) -> None:
    job = NEW
    for done in (CLAIMED, Answered(FACTS), Finalizing(9), DONE):
        job = advance(job, done, 20.0)
    gone = advance(job, event, 21.0)
    (over,) = changes(job, gone)
    assert (over.name, over.fields) == (name, {"bytes": 9})
    assert changes(gone, advance(gone, event, 22.0)) == []

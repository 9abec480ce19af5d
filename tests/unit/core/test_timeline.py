"""The time line of a job (CONTRACT §16)."""

from __future__ import annotations

import json

import pytest

from proxy.core import timeline
from proxy.core.events import (
    Answered,
    Assigned,
    Cancelled,
    CancelRequested,
    Claimed,
    Delivered,
    Event,
    Expired,
    Failed,
    Finalizing,
    Forgotten,
    Interrupted,
    Received,
    Released,
    Restarted,
    Resumed,
    Succeeded,
)
from proxy.core.job import ErrorCode, FileFacts, Job, JobError, Moment
from proxy.core.job_codec import encode
from proxy.core.transitions import advance
from tests.support.export_requests import export_request

REQUEST = export_request(
    target="/v8/RestoreSessions/s/organization/exportToPst", fingerprint="f00d"
)
QUEUED = Job(id="1", version=1, owner="me", request=REQUEST, created=100.0, updated=100.0)
FILE = FileFacts(media_type="a/b", file_name=None, size=10, etag=None)
STORED = (Claimed("r"), Answered(FILE), Received(5, 1, "Pst"))
SUCCESS = Succeeded(size=10, digest="ZGln", expires=900.0, format="Pst")
DONE = (*STORED, Finalizing(10), SUCCESS)


def _line(*events: Event) -> list[tuple[str, str]]:
    job = QUEUED
    for step, event in enumerate(events, 1):
        job = advance(job, event, 100.0 + step)
    return [(moment.event, moment.detail) for moment in timeline.whole(job)][2:]


def test_a_line_begins_with_the_kick_off() -> None:
    assert timeline.whole(QUEUED) == (Moment(100.0, "accepted"), Moment(100.0, "queued"))


def test_a_line_says_what_happened_when() -> None:
    job = advance(QUEUED, Claimed("r"), 107.12345)
    assert timeline.whole(job)[2:] == (
        Moment(107.123, "claimed"),
        Moment(107.123, "requested", "attempt 1"),
    )


@pytest.mark.parametrize(
    ("events", "line"),
    [
        (
            DONE,
            [
                ("claimed", ""),
                ("requested", "attempt 1"),
                ("firstByte", ""),
                ("formatKnown", "Pst"),
                ("finished", "Success"),
            ],
        ),
        (
            (Assigned("replica"), Claimed("r")),
            [("claimed", "replica"), ("requested", "attempt 1")],
        ),
        (
            (*STORED, Interrupted(), Resumed(), Claimed("r", 5), Answered(FILE)),
            [
                ("interrupted", ""),
                ("resumed", ""),
                ("requested", "from byte 5"),
                ("firstByte", ""),
            ],
        ),
        (
            (Claimed("r"), Interrupted(expired=True)),
            [("interrupted", "credentials needed")],
        ),
        ((*STORED, Answered(FILE)), [("resumed", "after 5 bytes")]),
        ((*STORED, Received(6, 1, "Pst")), [("formatKnown", "Pst")]),
        (
            (Claimed("r"), Answered(FILE), Restarted()),
            [("firstByte", ""), ("interrupted", ""), ("requested", "attempt 2")],
        ),
        (
            (Failed(JobError(code=ErrorCode.STORAGE_FULL, message="", retryable=True)),),
            [("finished", "StorageFull")],
        ),
        ((CancelRequested(), Cancelled()), [("finished", "Cancelled")]),
        (
            (
                *DONE,
                Delivered(4, whole=False),
                Delivered(6, whole=False),
                Delivered(1, whole=False, count=0),
                Expired(),
                Expired(),
            ),
            [("finished", "Success"), ("delivered", "6 bytes"), ("expired", "")],
        ),
        ((*DONE, Released(), Released()), [("finished", "Success"), ("deleted", "file")]),
    ],
)
def test_events_have_moments(events: tuple[Event, ...], line: list[tuple[str, str]]) -> None:
    """The end of each line is as given."""
    assert _line(*events)[-len(line) :] == line


def test_a_tombstone_has_no_line() -> None:
    assert _line(*DONE, Forgotten()) == []


def test_a_long_line_keeps_its_beginning_and_its_end_in_a_kilobyte() -> None:
    events: list[Event] = [Assigned("a" * 40), Claimed("r"), Answered(FILE)]
    for _ in range(40):
        events += [Interrupted(expired=True), Resumed(), Assigned("a" * 40), Claimed("r", 5)]
    job = QUEUED
    for step, event in enumerate(events, 1):
        job = advance(job, event, 1_790_000_000.12345 + step)
    names = [moment.event for moment in job.timeline]
    assert names[:3] == ["claimed", "requested", "firstByte"]
    assert names[-2:] == ["claimed", "requested"]
    assert len(names) == timeline.LONGEST
    line = json.loads(encode(job))["timeline"]
    assert len(json.dumps(line, separators=(",", ":"))) < 1024

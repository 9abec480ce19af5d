"""Jobs as stored records: what is written opens again, whatever version has written it."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import job_codec
from proxy.core.events import (
    Event,
    Failed,
)
from proxy.core.job import (
    ExportRequest,
    Job,
    JobError,
    Phase,
    ResultState,
    Status,
)
from proxy.core.job_codec import decode, encode
from tests.unit.core.job_samples import (
    ANSWERS,
    COUNTS,
    ERROR,
    EVENTS,
    TRANSFERRING,
    job_after,
    walk,
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
    for job in walk(events):
        assert decode(encode(job)) == job


FULL = replace(job_after(*TRANSFERRING, Failed(ERROR)), holder="x")


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


@given(JOBS)
def test_a_record_has_all_members_under_their_names(job: Job) -> None:
    """As `asdict` has them; `answer` is the name of `file` since version 0.1.0."""
    expected = asdict(job)
    expected["answer"] = expected.pop("file")
    assert encode(job) == json.dumps(expected, separators=(",", ":")).encode()


def test_decode_passes_the_names_of_the_parameters_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An equal text that is another object makes the call of `Job` slow."""
    passed: list[str] = []

    class Recorder:
        def __init__(self, **members: object) -> None:
            passed.extend(members)

    names = tuple(member.name for member in fields(Job))
    monkeypatch.setitem(job_codec._NAMES, Recorder, names)
    job_codec._revive(Recorder, json.loads(json.dumps(dict.fromkeys(names))), id="1")
    assert sorted(map(id, passed)) == sorted(map(id, names))

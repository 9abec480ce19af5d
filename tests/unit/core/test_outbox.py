"""Which change tells webhooks what, and when it is tried again (CONTRACT §17)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.core import outbox
from proxy.core.events import (
    Answered,
    Cancelled,
    CancelRequested,
    Claimed,
    Event,
    Expired,
    Failed,
    Finalizing,
    Forgotten,
    Interrupted,
    Released,
    Succeeded,
)
from proxy.core.job import ErrorCode, FileFacts, Job, JobError, Message
from proxy.core.job_codec import decode, encode
from proxy.core.outbox import DELAYS, PLANNED, Subscription, Topic
from proxy.core.transitions import advance
from tests.support.fakes import new_job

TO = Subscription(endpoints=("a", "b"), topics=frozenset(Topic), ahead=100.0)
ERROR = JobError(code=ErrorCode.INTERNAL, message="it broke", retryable=False)
FILE = FileFacts(media_type="a/b", file_name=None, size=10, etag=None)
STORED = (Claimed("r"), Answered(FILE), Finalizing(10))


def succeeded(*, warning: bool = False, expires: float = 1000.0) -> Succeeded:
    return Succeeded(10, "ZGln", expires, "Pst", warning)


def noted(*events: Event, to: Subscription = TO) -> Job:
    """The job after the events, a second each, with all messages still in its outbox."""
    job = outbox.noted(None, new_job(), to, 0.0)
    for second, event in enumerate(events, 1):
        job = outbox.noted(job, advance(job, event, float(second)), to, float(second))
    return job


def topics(job: Job) -> list[tuple[str, str]]:
    return [(each.topic, each.endpoint) for each in job.outbox]


@pytest.mark.parametrize(
    ("events", "topic"),
    [
        ((*STORED, succeeded()), "succeeded"),
        ((*STORED, succeeded(warning=True)), "warning"),
        ((Failed(ERROR),), "failed"),
        ((CancelRequested(), Cancelled()), "cancelled"),
        ((Forgotten(),), "cancelled"),
    ],
)
def test_each_end_has_a_message_to_every_endpoint(events: tuple[Event, ...], topic: str) -> None:
    job = noted(*events)
    assert topics(job)[:4] == [
        ("accepted", "a"),
        ("accepted", "b"),
        (topic, "a"),
        (topic, "b"),
    ]
    assert [each.due for each in job.outbox[2:4]] == [float(len(events))] * 2
    assert len(job.outbox) == (5 if topic in ("succeeded", "warning") else 4)


def test_what_is_no_end_has_no_message() -> None:
    assert noted(Interrupted()).outbox == noted().outbox


def test_an_available_file_is_announced_ahead_of_its_expiry() -> None:
    (planned,) = noted(*STORED, succeeded()).outbox[4:]
    assert planned == Message("expiring", PLANNED, 900.0)


def test_a_file_that_expires_soon_is_announced_at_once() -> None:
    assert noted(*STORED, succeeded(expires=50.0)).outbox[4].due == 4.0


def test_an_extended_file_is_announced_again() -> None:
    job = noted(*STORED, succeeded())
    longer = replace(job, expires=5000.0, version=job.version + 1)
    again = outbox.noted(job, longer, TO, 10.0)
    assert [each for each in again.outbox if each.topic == "expiring"] == [
        Message("expiring", PLANNED, 4900.0)
    ]
    message = Message("expiring", "a", 0.0)
    assert outbox.message_id(job, message) != outbox.message_id(longer, message)


def test_without_the_topic_nothing_is_planned() -> None:
    some = replace(TO, topics=frozenset({Topic.SUCCEEDED}))
    job = noted(*STORED, succeeded(), to=some)
    assert topics(job) == [("succeeded", "a"), ("succeeded", "b")]


@pytest.mark.parametrize("event", [Released(), Forgotten(), Expired()])
def test_a_file_that_is_gone_is_not_announced(event: Event) -> None:
    job = noted(*STORED, succeeded(), event)
    expired = [("expired", "a"), ("expired", "b")] if isinstance(event, Expired) else []
    assert topics(job)[4:] == expired


def test_a_planned_message_is_given_to_the_endpoints_when_it_is_due() -> None:
    job = replace(noted(*STORED, succeeded()), outbox=(Message("expiring", PLANNED, 900.0),))
    assert outbox.announced(job, TO, 899.0).outbox == job.outbox
    ready = outbox.announced(job, TO, 901.0)
    assert ready.outbox == (Message("expiring", "a", 901.0), Message("expiring", "b", 901.0))
    assert outbox.announced(job, TO, 1000.0).outbox == (), "it has expired"


def test_a_message_of_another_version_has_a_type_and_no_topic() -> None:
    message = Message("archived", PLANNED, 0.0)
    assert outbox.known(message) is None
    assert outbox.known(Message("failed", "a", 0.0)) is Topic.FAILED
    assert outbox.type_of(message.topic) == "export.archived"
    job = replace(noted(), outbox=(message,))
    assert outbox.announced(job, TO, 1.0).outbox == ()


def test_a_rebuilt_record_announces_its_end() -> None:
    """The record was lost with its outbox: at least once, with the same id."""
    ended = replace(noted(*STORED, succeeded()), outbox=())
    rebuilt = outbox.noted(None, ended, TO, 50.0)
    assert topics(rebuilt) == [("succeeded", "a"), ("succeeded", "b"), ("expiring", PLANNED)]


def test_the_id_is_that_of_job_topic_and_endpoint() -> None:
    job = noted(Failed(ERROR))
    ids = {outbox.message_id(job, each) for each in job.outbox}
    assert len(ids) == 4
    later = outbox.claimed(job, job.outbox[0], 77.0)
    assert outbox.message_id(later, later.outbox[0]) == outbox.message_id(job, job.outbox[0])
    other = new_job()
    assert outbox.message_id(other, job.outbox[0]) not in ids


def test_a_failed_try_is_repeated_as_the_schedule_says() -> None:
    message = Message("failed", "a", 0.0)
    waits = []
    while (later := outbox.retried(message, 1000.0)) is not None:
        waits.append(later.due - 1000.0)
        message = later
    assert waits == [5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0] == list(DELAYS)


def test_a_change_of_the_outbox_is_not_shown() -> None:
    """The document has the same ETag and time, and jobs that differ by it alone are equal."""
    job = noted(Failed(ERROR))
    (message, *rest) = job.outbox
    done = outbox.changed(job, message, None)
    assert done.outbox == tuple(rest)
    assert (done.version, done.shown_version) == (job.version + 1, job.shown_version)
    assert done.updated == job.updated
    assert outbox.found(done, message) is None
    assert outbox.found(job, replace(message, due=9.0)) == message
    assert replace(job, outbox=()) == job


def test_the_last_message_is_sent_again_to_all() -> None:
    queued, failed = noted(), noted(Failed(ERROR))
    expired = noted(*STORED, succeeded(), Expired())
    assert [outbox.latest(job).value for job in (queued, failed, expired)] == [
        "accepted",
        "failed",
        "expired",
    ]
    some = replace(TO, topics=frozenset())
    again = outbox.again(failed, some, 60.0)
    assert again.outbox[2:] == (Message("failed", "a", 60.0), Message("failed", "b", 60.0))
    assert again.outbox[:2] == failed.outbox[:2]


def test_stores_order_by_the_first_message_of_each_endpoint() -> None:
    messages = (Message("x", "a", 5.0), Message("y", "a", 3.0), Message("x", PLANNED, 9.0))
    job = replace(new_job(), outbox=messages)
    assert outbox.pending(replace(job, accepted=True)) == {"a": 3.0, PLANNED: 9.0}
    assert outbox.pending(job) == {"a:unaccepted": 3.0, PLANNED: 9.0}
    assert outbox.undelivered(job)
    assert not outbox.undelivered(replace(job, outbox=messages[2:]))


@pytest.mark.parametrize(
    ("topic", "moment"),
    [
        (Topic.ACCEPTED, 0.0),
        (Topic.SUCCEEDED, 4.0),
        (Topic.EXPIRING, 900.0),
        (Topic.EXPIRED, 1000.0),
    ],
)
def test_a_message_has_the_time_of_what_happened(topic: Topic, moment: float) -> None:
    assert outbox.happened(noted(*STORED, succeeded()), topic, 100.0) == moment


def test_a_message_about_a_job_without_an_end_has_its_last_change() -> None:
    assert outbox.happened(noted(), Topic.EXPIRED, 100.0) == 0.0
    assert outbox.happened(noted(), Topic.EXPIRING, 100.0) == 0.0


def test_an_outbox_takes_less_than_a_kibibyte() -> None:
    """With all 6 endpoints that the settings allow, none of which has got anything."""
    keys = tuple(outbox.endpoint_key(f"https://h/{number}") for number in range(6))
    job = noted(*STORED, succeeded(), Expired(), to=replace(TO, endpoints=keys))
    times = [replace(each, due=1764123456.789, failures=6) for each in job.outbox]
    assert len(times) == 18
    full = encode(replace(job, outbox=tuple(times)))
    assert len(full) - len(encode(replace(job, outbox=()))) < 900
    assert decode(full).outbox == tuple(times)


def test_the_types_are_those_of_the_contract() -> None:
    ends = ("succeeded", "warning", "failed", "cancelled")
    names = ("accepted", *ends, "expiring", "expired")
    assert [topic.type for topic in Topic] == [f"export.{name}" for name in names]


def test_an_outbox_is_bounded() -> None:
    many = replace(TO, endpoints=tuple(map(str, range(40))))
    assert len(noted(Failed(ERROR), to=many).outbox) == 18


def test_records_of_version_0_1_0_have_no_outbox() -> None:
    data = encode(new_job()).replace(b',"outbox":[]', b"")
    assert b"outbox" not in data
    assert decode(data).outbox == ()


@pytest.mark.parametrize("outbox_", ["3", '[["a","b"]]', '[["a","b","x",0]]', '[["a","b",1,[]]]'])
def test_a_damaged_outbox_is_not_a_record(outbox_: str) -> None:
    data = encode(new_job()).replace(b'"outbox":[]', f'"outbox":{outbox_}'.encode())
    with pytest.raises(ValueError, match=r"not a job|could not convert|values to unpack"):
        decode(data)

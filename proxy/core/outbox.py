"""The messages of webhooks about a job (CONTRACT §17): which change causes which message,
when a message is tried again, and its id. The record of the job is the outbox.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from proxy.core.job import Job, Message, ResultState, Status

#: Seconds from a failed try to the next one. After the last of them the message is given up.
DELAYS = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0)
#: The endpoint of a message that is sent to nobody before it is due.
PLANNED = ""
#: Messages that a record keeps: under 1 KiB of JSON.
_LONGEST = 18


class Topic(StrEnum):
    """What a message is about."""

    ACCEPTED = "accepted"
    SUCCEEDED = "succeeded"
    WARNING = "warning"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRING = "expiring"
    EXPIRED = "expired"

    @property
    def type(self) -> str:
        """The event type as receivers and `webhooks.events` name it."""
        return type_of(self.value)


def type_of(topic: str) -> str:
    """The event type of a topic, which may be one of another version."""
    return f"export.{topic}"


def known(message: Message) -> Topic | None:
    """The topic of the message, None if only another version can make its body."""
    return Topic(message.topic) if message.topic in frozenset(Topic) else None


_ENDS = {
    Status.SUCCESS: Topic.SUCCEEDED,
    Status.WARNING: Topic.WARNING,
    Status.FAILED: Topic.FAILED,
    Status.CANCELLED: Topic.CANCELLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """Who gets which messages: the hashes of the endpoints, the topics, and how many seconds
    before its expiry a file is reported as expiring.
    """

    endpoints: tuple[str, ...]
    topics: frozenset[Topic]
    ahead: float


def noted(old: Job | None, new: Job, to: Subscription, now: float) -> Job:
    """Add the messages that the change from `old` to `new` causes to the outbox of `new`. `old` is
    None for a new record. `now` is in Unix seconds.
    """
    outbox = [each for each in new.outbox if each.topic != Topic.EXPIRING or _available(new)]
    for topic in _caused(old, new):
        outbox += _messages(topic, to, now)
    expires = new.expires
    if expires is not None and _available(new) and (old is None or old.expires != expires):
        # an extended file is reported before its new expiry, too
        outbox = [each for each in outbox if each.topic != Topic.EXPIRING]
        if Topic.EXPIRING in to.topics:
            due = max(now, expires - to.ahead)
            outbox.append(Message(Topic.EXPIRING.value, PLANNED, round(due, 3)))
    return replace(new, outbox=tuple(outbox[-_LONGEST:]))


def _available(job: Job) -> bool:
    return job.result is ResultState.AVAILABLE


def _caused(old: Job | None, new: Job) -> list[Topic]:
    if old is None:
        # a record that was rebuilt from its file has ended
        return [_ENDS.get(new.status, Topic.ACCEPTED)]
    if new.terminal and not old.terminal:
        return [_ENDS[new.status]]
    expired = _available(old) and new.result is ResultState.EXPIRED
    return [Topic.EXPIRED] if expired else []


def _messages(topic: Topic, to: Subscription, now: float) -> list[Message]:
    if topic not in to.topics:
        return []
    return [Message(topic.value, endpoint, round(now, 3)) for endpoint in to.endpoints]


def latest(job: Job) -> Topic:
    """The topic of the last message that the job has caused, without the announced expiry."""
    if job.result is ResultState.EXPIRED:
        return Topic.EXPIRED
    return _ENDS.get(job.status, Topic.ACCEPTED)


def again(job: Job, to: Subscription, now: float) -> Job:
    """The job with its last message in the outbox again, for all endpoints."""
    topic = latest(job)
    rest = tuple(each for each in job.outbox if each.topic != topic)
    wanted = replace(to, topics=frozenset({topic}))
    return _with(job, (*rest, *_messages(topic, wanted, now)))


def announced(job: Job, to: Subscription, now: float) -> Job:
    """The job, whose planned messages that are due by now are for all endpoints. A file that has
    expired is not announced any more.
    """
    ready = [each for each in job.outbox if each.endpoint == PLANNED and each.due <= now]
    rest = tuple(each for each in job.outbox if each not in ready)
    over = job.expires is not None and job.expires <= now
    topics = [] if over else [topic for each in ready if (topic := known(each)) is not None]
    more = [message for topic in topics for message in _messages(topic, to, now)]
    return _with(job, (*rest, *more))


def claimed(job: Job, message: Message, until: float) -> Job:
    """The job, whose message nobody else tries before the Unix second `until`."""
    return changed(job, message, replace(message, due=round(until, 3)))


def retried(message: Message, now: float) -> Message | None:
    """The message after a failed try, None if it is given up."""
    if message.failures >= len(DELAYS):
        return None
    due = round(now + DELAYS[message.failures], 3)
    return replace(message, due=due, failures=message.failures + 1)


def found(job: Job, message: Message) -> Message | None:
    """The message with the same topic and endpoint, as it is in the outbox now."""
    return next((each for each in job.outbox if _key(each) == _key(message)), None)


def _key(message: Message) -> tuple[str, str]:
    return message.topic, message.endpoint


def changed(job: Job, message: Message, new: Message | None) -> Job:
    """The job with `new` in place of the message; None removes it."""
    outbox = (new if _key(each) == _key(message) else each for each in job.outbox)
    return _with(job, tuple(each for each in outbox if each is not None))


def _with(job: Job, outbox: tuple[Message, ...]) -> Job:
    """The next version of the job, which is shown as the one before."""
    return replace(job, outbox=outbox, version=job.version + 1, unshown=job.unshown + 1)


def line(endpoint: str, *, accepted: bool) -> str:
    """What stores find jobs with a message for the endpoint by: those of callers that VB365 never
    accepted apart. Anyone can cause any number of these, which must not delay the others.
    """
    return endpoint if accepted or endpoint == PLANNED else f"{endpoint}:unaccepted"


def pending(job: Job) -> dict[str, float]:
    """The earliest due second of the messages of each `line`. Stores order jobs by it."""
    earliest: dict[str, float] = {}
    for each in job.outbox:
        name = line(each.endpoint, accepted=job.accepted)
        earliest[name] = min(each.due, earliest.get(name, each.due))
    return earliest


def undelivered(job: Job) -> bool:
    """Whether an endpoint is still to get a message that has been due."""
    return any(each.endpoint != PLANNED for each in job.outbox)


def message_id(job: Job, message: Message) -> str:
    """The id of the message, the same for every try, after every restart and on every replica."""
    parts: Iterable[str] = (job.id, message.topic, message.endpoint)
    if message.topic == Topic.EXPIRING:
        parts = (*parts, str(job.expires))  # an extended file expires more than once
    return f"msg_{hashlib.sha256(':'.join(parts).encode()).hexdigest()[:32]}"


def happened(job: Job, topic: Topic, ahead: float) -> float:
    """The Unix second of what the message is about. `ahead` is that of `Subscription`."""
    ended = job.updated if job.ended is None else job.ended
    match topic:
        case Topic.ACCEPTED:
            return job.created
        case Topic.EXPIRING:
            return ended if job.expires is None else max(ended, job.expires - ahead)
        case Topic.EXPIRED:
            return ended if job.expires is None else job.expires
        case _:
            return ended


def endpoint_key(url: str) -> str:
    """The short stable hash of an endpoint's URL: records and logs never have the URL, which may
    hold a secret.
    """
    return hashlib.sha256(url.encode()).hexdigest()[:8]

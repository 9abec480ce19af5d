"""The time line of a job: what happened to it and when, for the operator (CONTRACT §16).

It is part of the record, so it survives restarts. It never holds a credential, a query or a body.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy.core.events import (
    Answered,
    Assigned,
    Cancelled,
    Claimed,
    Delivered,
    Event,
    Expired,
    Failed,
    Interrupted,
    Received,
    Released,
    Restarted,
    Resumed,
    Succeeded,
)
from proxy.core.job import Job, Moment, Phase

_Named = tuple[str, str]

#: Moments that a record keeps, and how many of them are the first ones: under 1 KiB of JSON.
LONGEST, FIRST = 16, 8
#: Characters of a detail.
_DETAIL = 32


def continued(old: Job, new: Job, event: Event, now: float) -> tuple[Moment, ...]:
    """The time line after `event` has changed `old` to `new` at the Unix second `now`.

    Moments in the middle of a long one are dropped. Deliveries in a row are one moment, that of the
    last.
    """
    line = old.timeline
    named = _NAMED.get(type(event))
    for name, detail in [] if named is None else named(old, new, event):
        if name == "delivered" and line and line[-1].event == name:
            line = line[:-1]
        line = (*line, Moment(round(now, 3), name, detail[:_DETAIL]))
    if len(line) > LONGEST:
        line = (*line[:FIRST], *line[FIRST - LONGEST :])
    return line


def whole(job: Job) -> tuple[Moment, ...]:
    """The time line with its beginning, which every job has and no record stores."""
    created = round(job.created, 3)
    return (Moment(created, "accepted", ""), Moment(created, "queued", ""), *job.timeline)


def _assigned(old: Job, new: Job, event: Assigned) -> list[_Named]:
    return [("claimed", event.holder)]


def _claimed(old: Job, new: Job, event: Claimed) -> list[_Named]:
    if event.offset:
        return [("requested", f"from byte {event.offset}")]
    claimed = [] if old.fence else [("claimed", "")]
    return [*claimed, ("requested", f"attempt {new.attempt}")]


def _answered(old: Job, new: Job, event: Answered) -> list[_Named]:
    if old.phase is Phase.TRANSFERRING:
        return [("resumed", f"after {old.received} bytes")]
    return [("firstByte", "")]


def _received(old: Job, new: Job, event: Received) -> list[_Named]:
    return [] if new.format is None or old.format is not None else [("formatKnown", new.format)]


def _restarted(old: Job, new: Job, event: Restarted) -> list[_Named]:
    return [("interrupted", ""), ("requested", f"attempt {new.attempt}")]


def _interrupted(old: Job, new: Job, event: Interrupted) -> list[_Named]:
    return [("interrupted", "credentials needed" if event.expired else "")]


def _resumed(old: Job, new: Job, event: Resumed) -> list[_Named]:
    return [("resumed", "")]


def _finished(old: Job, new: Job, event: Succeeded | Failed | Cancelled) -> list[_Named]:
    return [("finished", new.status.value if new.error is None else new.error.code.value)]


def _delivered(old: Job, new: Job, event: Delivered) -> list[_Named]:
    # what broke off is no delivery
    return [("delivered", f"{event.sent} bytes")] if event.count else []


def _expired(old: Job, new: Job, event: Expired) -> list[_Named]:
    return [] if new.result is old.result else [("expired", "")]


def _released(old: Job, new: Job, event: Released) -> list[_Named]:
    return [] if new.result is old.result else [("deleted", "file")]


#: The moments of each event, named as CONTRACT §16 lists them, with details. Other events have
#: none.
_NAMED: dict[type[Event], Callable[[Job, Job, Any], list[_Named]]] = {
    Assigned: _assigned,
    Claimed: _claimed,
    Answered: _answered,
    Received: _received,
    Restarted: _restarted,
    Interrupted: _interrupted,
    Resumed: _resumed,
    Succeeded: _finished,
    Failed: _finished,
    Cancelled: _finished,
    Delivered: _delivered,
    Expired: _expired,
    Released: _released,
}

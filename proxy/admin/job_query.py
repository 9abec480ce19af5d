"""The query of /api/jobs: which jobs, in which order, from where on (CONTRACT §16)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from proxy.admin.responses import bad_request
from proxy.core.job import Phase, Status

DEFAULT_LIMIT, MAX_LIMIT = 50, 1000
#: Characters of a search, and words in it.
_LONGEST, _WORDS = 200, 16

_T = TypeVar("_T", Status, Phase)


@dataclass(slots=True, kw_only=True)
class Entry:
    """What queries need to know of a job. Times are in Unix seconds, sizes in bytes.

    `text` is what a search looks at, in lower case; `ends` is when the record is over. `delivered`
    counts the downloads of a job that has a file, or had one, and `fetched` says whether all of the
    file was sent; both are None for others.
    """

    id: str
    version: int
    created: float
    started: float
    ended: float | None
    updated: float
    expires: float | None
    ends: float | None
    status: Status
    phase: Phase
    title: str
    owner: str
    size: int | None
    received: int
    delivered: int | None
    fetched: bool | None
    text: str


#: The orders by name: members of a row, and short names.
SORTS: dict[str, Callable[[Entry, float], Any]] = {
    "creationTime": lambda entry, now: entry.created,
    "startTime": lambda entry, now: entry.started,
    "endTime": lambda entry, now: entry.ended,
    "lastUpdateTime": lambda entry, now: entry.updated,
    "expirationTime": lambda entry, now: entry.expires,
    "itemSizeBytes": lambda entry, now: entry.size,
    "bytesReceived": lambda entry, now: entry.received,
    "duration": lambda entry, now: (entry.ended or now) - entry.created,
    "delivered": lambda entry, now: entry.delivered,
    "id": lambda entry, now: entry.id,
    "owner": lambda entry, now: entry.owner,
    "phase": lambda entry, now: entry.phase.value,
    "status": lambda entry, now: entry.status.value,
    "title": lambda entry, now: entry.title.lower(),
}
_SHORT = {
    "created": "creationTime",
    "started": "startTime",
    "ended": "endTime",
    "updated": "lastUpdateTime",
    "expires": "expirationTime",
    "size": "itemSizeBytes",
    "received": "bytesReceived",
}
PHASES = tuple(phase for phase in Phase if phase is not Phase.FORGOTTEN)
PARAMETERS = ("offset", "limit", "status", "phase", "delivered", "q", "sort")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query. Empty filters select everything; a search selects what has all of its words."""

    offset: int = 0
    limit: int = DEFAULT_LIMIT
    statuses: Collection[Status] = field(default_factory=frozenset)
    phases: Collection[Phase] = field(default_factory=frozenset)
    delivered: bool | None = None
    words: tuple[str, ...] = ()
    sort: str = "creationTime"
    descending: bool = True

    @property
    def newest_first(self) -> bool:
        """Whether the order is that of the index itself."""
        return self.sort == "creationTime" and self.descending

    @property
    def selects_all(self) -> bool:
        """Whether there is no filter and no search."""
        return not (self.statuses or self.phases or self.words) and self.delivered is None

    def selects(self, entry: Entry) -> bool:
        """Whether the query selects the job."""
        return (
            (not self.statuses or entry.status in self.statuses)
            and (not self.phases or entry.phase in self.phases)
            and (self.delivered is None or entry.fetched is self.delivered)
            and (not self.words or all(word in entry.text for word in self.words))
        )

    def ordered(self, entries: list[Entry], now: float) -> list[Entry]:
        """Sort entries, which are newest first. Those without a value are last."""
        if self.newest_first:
            return entries
        value = SORTS[self.sort]
        # without a tuple for each: thousands of them start a garbage collection of everything
        known = [entry for entry in entries if value(entry, now) is not None]
        known.sort(key=lambda entry: value(entry, now), reverse=self.descending)
        return known + [entry for entry in entries if value(entry, now) is None]


def parse(parameters: Iterable[tuple[str, str]]) -> Query:
    """Return the query of a request. Filters by status and phase may be repeated. Raises a
    `Refusal` that names the parameter, its value and what it may be.
    """
    found: dict[str, str] = {}
    for name, value in parameters:
        if name not in PARAMETERS:
            raise bad_request(f"There is no parameter {name!r}: use {', '.join(PARAMETERS)}.")
        if name in found and name not in ("status", "phase"):
            raise bad_request(f"{name}={value[:40]!r} is its second value. Send {name} once.")
        found[name] = f"{found[name]},{value}" if name in found else value
    sort, descending = _sort(found.get("sort", "-creationTime"))
    return Query(
        offset=_number("offset", found.get("offset", "0")),
        limit=min(MAX_LIMIT, _number("limit", found.get("limit", str(DEFAULT_LIMIT)))),
        statuses=_values("status", found.get("status", ""), tuple(Status)),
        phases=_values("phase", found.get("phase", ""), PHASES),
        delivered=_delivered(found.get("delivered", "")),
        words=_words(found.get("q", "")),
        sort=sort,
        descending=descending,
    )


def _number(name: str, text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise bad_request(f"{name}={text[:40]!r} is no whole number. Send one from 0 on.")
    return int(text)


def _values(name: str, text: str, known: tuple[_T, ...]) -> frozenset[_T]:
    by_name = {value.value.lower(): value for value in known}
    found = set()
    for part in filter(None, (each.strip() for each in text.split(","))):
        if part.lower() not in by_name:
            names = ", ".join(value.value for value in known)
            raise bad_request(f"{name}={part[:40]!r} is unknown. Send one or more of {names}.")
        found.add(by_name[part.lower()])
    return frozenset(found)


def _delivered(text: str) -> bool | None:
    if text not in ("", "true", "false"):
        raise bad_request(f"delivered={text[:40]!r} is unknown. Send true or false.")
    return None if not text else text == "true"


def _words(text: str) -> tuple[str, ...]:
    if len(text) > _LONGEST:
        raise bad_request(f"q has {len(text)} characters: {text[:20]!r}…. Send at most {_LONGEST}.")
    words = text.lower().split()
    if len(words) > _WORDS:
        raise bad_request(f"q={text[:40]!r}… has {len(words)} words. Send at most {_WORDS}.")
    return tuple(words)


def _sort(text: str) -> tuple[str, bool]:
    name = text.removeprefix("-")
    name = _SHORT.get(name, name)
    if name not in SORTS:
        names = ", ".join(SORTS)
        raise bad_request(
            f"sort={text[:40]!r} is unknown. Send one of {names}, with - before it for the "
            "opposite order."
        )
    return name, text.startswith("-")

"""What each package counts for the metrics (CONTRACT §16): plain numbers of one process since its
start, which `admin.readings` reads when the metrics are requested. Nothing here is shared between
threads.

Seconds are those of the event loop's clock.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from proxy.core.histogram import Histogram

#: Bounds in seconds of requests, of exports and of the event loop's lag, and in bytes of files.
REQUEST_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0),
)
EXPORT_SECONDS = (
    *(0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0),
    *(1800.0, 3600.0, 7200.0, 14400.0, 43200.0, 86400.0),
)
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
FILE_BYTES = tuple(
    float(1 << power) for power in (16, 20, 22, 24, 26, 28, 30, 31, 32, 33, 34, 35, 36, 38)
)

#: The code of a request that got no response: its client left, or was too slow (nginx's code).
NO_RESPONSE = 499


class LaneCounts:
    """The requests of one lane (CONTRACT §16), by the status of their response.

    A response that was written in one piece has one duration for its first and its last byte, and
    is in `at_once` alone. Such durations wait in `pending`, because the relay has no time to sort
    them into buckets: call `settle` from time to time.
    """

    __slots__ = ("at_once", "codes", "first_byte", "last_byte", "name", "pending")

    def __init__(self, name: str) -> None:
        self.name = name
        self.codes: defaultdict[int, int] = defaultdict(int)
        self.pending: list[float] = []
        self.at_once = Histogram(REQUEST_SECONDS)
        self.first_byte = Histogram(REQUEST_SECONDS)
        self.last_byte = Histogram(REQUEST_SECONDS)

    def ended(self, code: int, since: float, first: float, now: float) -> None:
        """Count a request whose first byte arrived at `since`, and whose response began at `first`
        (0: all of it was written now, or there is none).
        """
        self.codes[code] += 1
        if not first:
            self.pending.append(now - since)
        else:
            self.first_byte.observe(first - since)
            self.last_byte.observe(now - since)

    def settle(self) -> None:
        """Sort the pending durations into buckets."""
        if self.pending:
            self.at_once.observe_all(self.pending)
            self.pending.clear()


@dataclass(slots=True)
class ClientCounts:
    """Client connections, the requests on them by lane, and bytes without those of TLS.

    The bytes of an open connection are those of its last `settle`: see `downstream.server`.
    `refusals` is the lane of connections and requests that got an error before they were read.
    """

    accepted: int = 0
    rejected: int = 0
    refused: int = 0
    timed_out: int = 0
    broken: int = 0
    received: int = 0
    sent: int = 0
    relay: LaneCounts = field(default_factory=lambda: LaneCounts("relay"))
    kickoff: LaneCounts = field(default_factory=lambda: LaneCounts("kickoff"))
    own: LaneCounts = field(default_factory=lambda: LaneCounts("own"))
    rescue: LaneCounts = field(default_factory=lambda: LaneCounts("rescue"))
    refusals: LaneCounts = field(default_factory=lambda: LaneCounts("refused"))

    @property
    def lanes(self) -> dict[str, LaneCounts]:
        """The lanes by their names."""
        lanes = (self.relay, self.kickoff, self.own, self.rescue, self.refusals)
        return {lane.name: lane for lane in lanes}

    def settle(self) -> None:
        """As `LaneCounts.settle`, for all lanes."""
        for lane in self.lanes.values():
            lane.settle()


@dataclass(slots=True)
class UpstreamCounts:
    """Bytes of the connections to VB365, without those of TLS, and its failures by kind."""

    received: int = 0
    sent: int = 0
    connect: int = 0
    timeout: int = 0
    reset: int = 0
    malformed: int = 0
    truncated: int = 0
    tls: int = 0


@dataclass(slots=True)
class AccessCounts:
    """Outcomes of access checks (CONTRACT §9)."""

    cached: int = 0
    allowed: int = 0
    denied: int = 0
    unauthorized: int = 0
    unreachable: int = 0


def _seconds_by_verb() -> defaultdict[str, Histogram]:
    return defaultdict(lambda: Histogram(EXPORT_SECONDS))


@dataclass(slots=True)
class JobCounts:
    """Jobs that ended, by status and error code ("" without one), and the durations and sizes of
    exports by verb.

    `joined` counts kick-offs that were given an existing job, `rescued` those of CONTRACT §14.
    """

    joined: int = 0
    resumed: int = 0
    rescued: int = 0
    finished: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    queue: defaultdict[str, Histogram] = field(default_factory=_seconds_by_verb)
    generation: defaultdict[str, Histogram] = field(default_factory=_seconds_by_verb)
    transfer: defaultdict[str, Histogram] = field(default_factory=_seconds_by_verb)
    size: defaultdict[str, Histogram] = field(
        default_factory=lambda: defaultdict(lambda: Histogram(FILE_BYTES))
    )


@dataclass(slots=True)
class FileCounts:
    """Bytes of files that were sent to clients."""

    served: int = 0


@dataclass(slots=True)
class WebhookCounts:
    """Messages to webhook endpoints that were delivered or given up, and tries that failed.

    `backlog` is the number of jobs with messages that an endpoint has not got yet, summed over the
    endpoints.
    """

    delivered: int = 0
    failed: int = 0
    given_up: int = 0
    backlog: int = 0

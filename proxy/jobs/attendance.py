"""Who waits for the first response of VB365, and whether the job stays (CONTRACT §3.7).

Theory of operation. A kick-off may wait for VB365's first response to its export. While it waits, a
response other than 200 is not recorded: it goes to the kick-off, and there is no job.

    WAITING ── end ──────────────────────────→ ENDED      the job stays, whatever VB365 responds
       │                                         ↑
       └─ decide ─→ DROPPING ── withdraw ────────┘        its record cannot be removed
                        └────── deliver ──────→ DROPPED   its record is removed

`end` is called when the kick-off leaves or its grace is over, when VB365 responds with 200, when
the job ends, and before the job is shown to anybody: a job that was shown is never dropped. `first`
is resolved on entry to ENDED (None) and DROPPED (the response).
"""

from __future__ import annotations

import asyncio
from enum import Enum

from proxy.core.errors import Problem
from proxy.ports import WholeResponse

#: Seconds for which the response is held back until the record of a dropped job is removed, which
#: takes milliseconds.
_REMOVAL_PATIENCE = 5.0


class Stage(Enum):
    """See the theory of operation."""

    WAITING = "waiting"
    DROPPING = "dropping"
    DROPPED = "dropped"
    ENDED = "ended"


class Attendance:
    """The wait of a job's kick-off, and of those with the same Idempotency-Key, for the first
    response. Whoever makes one that is `waiting` calls `end` at last, whatever happens.
    """

    def __init__(self, *, waiting: bool) -> None:
        self.first: asyncio.Future[WholeResponse | Problem | None] = asyncio.Future()
        #: What goes to the kick-off in place of a job; None unless DROPPING or DROPPED.
        self.verdict: WholeResponse | Problem | None = None
        self.stage = Stage.WAITING
        if not waiting:
            self._resolve(Stage.ENDED)

    def __repr__(self) -> str:
        return f"<Attendance {self.stage.value}>"

    @property
    def waiting(self) -> bool:
        """Whether a response other than 200 may still drop the job."""
        return self.stage is Stage.WAITING

    def end(self) -> None:
        """Nobody waits any more, or somebody was shown the job. It is not dropped from now on,
        unless that is decided already.
        """
        if self.stage is Stage.WAITING:
            self._resolve(Stage.ENDED)

    def decide(self, verdict: WholeResponse | Problem) -> None:
        """Drop the job, because of `verdict`. Its record is to be removed next."""
        self.stage, self.verdict = Stage.DROPPING, verdict

    def withdraw(self) -> None:
        """Keep the job after all, because its record cannot be removed."""
        self.verdict = None
        self._resolve(Stage.ENDED)

    def deliver(self) -> None:
        """Hand over the verdict of a job that is being dropped, or that there is none."""
        if self.stage is Stage.DROPPING:
            self._resolve(Stage.DROPPED)
        self.end()

    def _resolve(self, stage: Stage) -> None:
        self.stage = stage
        if not self.first.done():
            self.first.set_result(self.verdict)

    async def first_response(self, grace: float) -> WholeResponse | Problem | None:
        """Wait at most `grace` seconds for the response that the caller gets in place of a job;
        None if the job stays. A record that is being removed is waited for some seconds more.
        """
        await asyncio.wait([self.first], timeout=grace)
        self.end()
        await asyncio.wait([self.first], timeout=_REMOVAL_PATIENCE)
        return self.first.result() if self.first.done() else self.verdict

"""Who waits for VB365's first response to an export, and whether the job is kept (CONTRACT §3.7).

Theory of operation. A kick-off may wait for VB365's first response to its export. While it waits, a
response other than 200 is not recorded: it goes to the kick-off, and there is no job.

    WAITING ── end ──────────────────────────→ ENDED      the job is kept, whatever VB365 responds
       │                                         ↑
       └─ decide ─→ DROPPING ── withdraw ────────┘        its record cannot be removed
                        └────── deliver ──────→ DROPPED   its record is removed

`end` is called when the kick-off leaves or its grace is over, when VB365 responds with 200, when
the job ends, and before the job is shown to any caller: a job that was shown is never dropped.
`first` is resolved on entry to ENDED (None) and to DROPPED (the response).
A rescued export (CONTRACT §14) is `held`: a response other than 200 is never recorded, whoever has
left or seen the job, and only `close` ends the wait. Its clients do not wait for the removal of the
record: `first` is resolved on entry to DROPPING.
"""

from __future__ import annotations

import asyncio
import math
from enum import Enum

from proxy.core.errors import Problem
from proxy.ports import WholeResponse

#: Seconds to wait for the removal of a dropped job's record before its response is sent. A removal
#: takes milliseconds.
_REMOVAL_PATIENCE = 5.0


class State(Enum):
    """See the theory of operation."""

    WAITING = "waiting"
    DROPPING = "dropping"
    DROPPED = "dropped"
    ENDED = "ended"


class Attendance:
    """The wait of a job's kick-off, and of those with the same Idempotency-Key, for the first
    response. Whoever creates one that is `waiting` must call `end`, whatever happens.
    """

    def __init__(self, *, waiting: bool, held: bool = False) -> None:
        self.first: asyncio.Future[WholeResponse | Problem | None] = asyncio.Future()
        #: What goes to the kick-off in place of a job; None unless DROPPING or DROPPED.
        self.verdict: WholeResponse | Problem | None = None
        #: When `verdict` was decided, in the time of the event loop.
        self.decided = math.inf
        self._held = held
        self.state = State.WAITING
        if not waiting:
            self._resolve(State.ENDED)

    def __repr__(self) -> str:
        return f"<Attendance {self.state.value}>"

    @property
    def ended(self) -> bool:
        """Whether nobody waits and the job is kept."""
        return self.state is State.ENDED

    @property
    def waiting(self) -> bool:
        """Whether a response other than 200 may still drop the job."""
        return self.state is State.WAITING

    def end(self) -> None:
        """Stop waiting, or note that a caller was shown the job. From now on it is not dropped,
        unless that is already decided.
        """
        if not self._held:
            self.close()

    def close(self) -> None:
        """Keep the job, unless it is already decided that it is dropped."""
        if self.state is State.WAITING:
            self._resolve(State.ENDED)

    def decide(self, verdict: WholeResponse | Problem) -> None:
        """Drop the job because of `verdict`. The caller removes its record next."""
        self.state, self.verdict = State.DROPPING, verdict
        self.decided = asyncio.get_running_loop().time()
        if self._held:
            self.first.set_result(verdict)

    def withdraw(self) -> None:
        """Keep the job after all, because its record cannot be removed."""
        self.verdict = None
        self._resolve(State.ENDED)

    def deliver(self) -> None:
        """Give the verdict of a job that is being dropped, or None, to those who wait."""
        if self.state is State.DROPPING:
            self._resolve(State.DROPPED)
        self.close()

    def _resolve(self, state: State) -> None:
        self.state = state
        if not self.first.done():
            self.first.set_result(self.verdict)

    async def first_response(self, grace: float) -> WholeResponse | Problem | None:
        """Wait at most `grace` seconds for the response that the caller gets in place of a job.
        Returns None if the job is kept. While a record is being removed, wait a few seconds more.
        """
        for patience in (grace, _REMOVAL_PATIENCE):
            if not self.first.done():
                await asyncio.wait([self.first], timeout=patience)
            self.end()
        return self.first.result() if self.first.done() else self.verdict

    async def verdict_of_all(self) -> WholeResponse | Problem | None:
        """Wait, however long, for the response that all requests get in place of a job. Returns
        None if the job is kept.
        """
        await asyncio.wait([self.first])
        return self.first.result()

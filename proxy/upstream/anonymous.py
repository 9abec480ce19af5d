"""The identity check without credentials (CONTRACT §2): if it succeeds too, a success proves
nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from proxy.core.errors import Problem
from proxy.upstream.credentials import Credentials
from proxy.upstream.questions import Questions
from proxy.upstream.verdict import UNDECIDED, is_success

log = structlog.get_logger(__name__)

#: Seconds for which a result is valid.
_LIFETIME = 120.0
_NOBODY = Credentials((), ())
#: For operators, in the log and in /readyz.
NOTE = (
    "access checks succeed without credentials too, so the claims of tokens are not used: set "
    "upstream.host to the Host for which the server at upstream.url selects VB365"
)


class AnonymousCheck:
    """Sends the identity check without credentials. `now` returns seconds.

    A server in front of VB365 may answer 2xx to any request whose Host it does not know. Each
    token would be valid then, also a forged one.
    """

    def __init__(self, questions: Questions, now: Callable[[], float]) -> None:
        self._questions = questions
        self._now = now
        #: By target: whether the check succeeded, and until when that is valid.
        self._results: dict[str, tuple[bool, float]] = {}

    @property
    def succeeds(self) -> bool:
        """Whether the check has succeeded, for any target."""
        return any(success for success, _ in self._results.values())

    async def run(self, target: str) -> bool | None:
        """Report whether the identity check at this target succeeds without credentials.

        Returns None if that is not known, because VB365 does not respond.
        """
        success, until = self._results.get(target, (None, float("-inf")))
        if self._now() < until:
            return success
        try:
            status = await self._questions.status(target, _NOBODY)
        except Problem:
            return success
        if status in UNDECIDED:
            # it is no success, but the next one may be
            self._store(target, bool(success), self._now())
        else:
            self._store(target, is_success(status), self._now() + _LIFETIME)
        return self._results[target][0]

    def _store(self, target: str, success: bool, until: float) -> None:
        before = self.succeeds
        self._results[target] = (success, until)
        if self.succeeds and not before:
            log.error(NOTE)
        elif before and not self.succeeds:
            log.info("access checks without credentials fail again: claims of tokens are used")

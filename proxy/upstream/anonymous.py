"""The identity check without credentials (CONTRACT §2): if it succeeds too, a success proves
nothing.
"""

from __future__ import annotations

import structlog

from proxy.core.errors import Problem
from proxy.upstream.credentials import Credentials
from proxy.upstream.questions import Questions
from proxy.upstream.turns import Standing
from proxy.upstream.verdict import UNDECIDED, is_success

log = structlog.get_logger(__name__)

_NOBODY = Credentials((), ())
#: For operators, in the log and in /readyz.
NOTE = (
    "access checks succeed without credentials too, so the claims of tokens are not used: set "
    "upstream.host to the Host for which the server at upstream.url selects VB365"
)


class AnonymousCheck:
    """Sends the identity check without credentials.

    A server in front of VB365 may answer 2xx to any request whose Host it does not know. Each
    token would be valid then, also a forged one.
    """

    def __init__(self, questions: Questions) -> None:
        self._questions = questions
        #: Whether the check has succeeded the last time that VB365 responded.
        self.succeeds = False

    async def run(self, target: str) -> bool:
        """Send the check to `target`, and report whether what VB365 has accepted until now proves
        nothing: the check succeeds, or did so the last time that VB365 responded.
        """
        before = self.succeeds
        try:
            status = await self._questions.status(target, _NOBODY, standing=Standing.KNOWN)
        except Problem:
            return before
        if status not in UNDECIDED:
            self._store(is_success(status))
        return before or self.succeeds

    def _store(self, success: bool) -> None:
        before, self.succeeds = self.succeeds, success
        if success and not before:
            log.error(NOTE)
        elif before and not success:
            log.info("access checks without credentials fail again: claims of tokens are used")

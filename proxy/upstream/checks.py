"""The two access checks (CONTRACT §2 "Caller", §9). See `upstream.access` for what they show."""

from __future__ import annotations

from proxy.core.errors import Problem
from proxy.ports.counts import AccessCounts
from proxy.upstream.credentials import Credentials
from proxy.upstream.decisions import Decisions
from proxy.upstream.identities import Identities
from proxy.upstream.problems import unauthorized, unreachable
from proxy.upstream.questions import Questions, Statuses
from proxy.upstream.turns import Standing
from proxy.upstream.verdict import UNKNOWN, is_decision, is_success

#: API versions that have the checked resources, in the order in which they are tried.
_VERSIONS = ("v8", "v7", "v6")


class Checks:
    """Sends the checks, unless a cached success decides, and notes the successes."""

    def __init__(self, questions: Questions, decisions: Decisions, identities: Identities) -> None:
        self._questions = questions
        self._decisions = decisions
        self._identities = identities
        self._served: str | None = None
        self.counts = AccessCounts()

    def is_cached(self, credentials: Credentials, kind: str, subject: str) -> bool:
        """Report whether a cached success decides, and count that."""
        cached = self._decisions.has(credentials, kind, subject)
        self.counts.cached += cached
        return cached

    def allows(self, credentials: Credentials, session: str, api: str | None) -> bool:
        """Report whether a cached success decides the check of the session, and count that."""
        target = _session_target(self._versions(api)[0], session)
        return self.is_cached(credentials, "session", target)

    async def session(
        self,
        credentials: Credentials,
        session: str,
        statuses: Statuses | None = None,
        api: str | None = None,
    ) -> int:
        """Return VB365's status for a session: 2xx, 400, 403 or 404. Raises `Problem` 401 or 503
        for any other.

        `api` is tried first if it is one of `_VERSIONS`: any other one could make the response for
        a job differ from that for an unknown id. `session` is sent byte for byte, because VB365 may
        treat another case or encoding as another session.
        """
        status = 404
        for version in self._versions(api):
            target = _session_target(version, session)
            if self.is_cached(credentials, "session", target):
                return 200
            status = await self._ask(version, target, credentials, statuses)
            if is_success(status):
                self._decisions.put(credentials, "session", target)
                self._identities.confirm(credentials)
            if status != 400 or version == self._served:
                break
        if status == 401:
            raise unauthorized()
        if not is_decision(status):
            raise unreachable()
        return status

    async def identity(
        self,
        credentials: Credentials,
        statuses: Statuses | None = None,
        *,
        fresh: bool = False,
        standing: Standing = Standing.UNKNOWN,
    ) -> int:
        """Return VB365's status for the identity check with exactly these credentials, in a version
        that it serves. With `fresh` no cached success counts. Credentials that VB365 has accepted
        have more than the `standing`. Raises `Problem` 503.
        """
        status = 404
        for version in self._versions():
            target = _identity_target(version)
            if not fresh and self.is_cached(credentials, "identity", target):
                return 200
            status = await self._ask(version, target, credentials, statuses, standing)
            if is_success(status):
                self._served = version
                if self._identities.confirm_identity(credentials):
                    self._decisions.put(credentials, "identity", target)
            if status not in UNKNOWN:
                break
        return status

    @property
    def identity_target(self) -> str:
        """The target of the identity check in the version that is tried first."""
        return _identity_target(self._versions()[0])

    def forget(self) -> None:
        """Drop what responses have shown until now, also those that are still to come: whoever
        waits for one waits for another.
        """
        self._questions.repeat()
        self._identities.clear()
        self._decisions.clear()
        self._served = None

    def _versions(self, first: str | None = None) -> list[str]:
        """Return the API versions to try, in order, `first` only if it is one of `_VERSIONS`: the
        caller can write anything into its URLs.
        """
        wanted = (first, self._served, *_VERSIONS)
        return list(dict.fromkeys(version for version in wanted if version in _VERSIONS))

    async def _ask(
        self,
        version: str,
        target: str,
        credentials: Credentials,
        statuses: Statuses | None,
        standing: Standing = Standing.UNKNOWN,
    ) -> int:
        """Return VB365's status for a GET. Raises `Problem` 503."""
        if self._identities.knows(credentials):
            standing = Standing.KNOWN
        try:
            status = await self._questions.status(target, credentials, statuses, standing=standing)
        except Problem:
            self.counts.unreachable += 1
            raise
        self._count(status)
        if is_success(status) or status in (401, 403):
            self._served = self._served or version
        return status

    def _count(self, status: int) -> None:
        """Count what VB365's status decides."""
        if is_success(status):
            self.counts.allowed += 1
        elif status == 401:
            self.counts.unauthorized += 1
        elif is_decision(status):
            self.counts.denied += 1
        else:
            self.counts.unreachable += 1


def _session_target(version: str, session: str) -> str:
    return f"/{version}/RestoreSessions/{session}"


def _identity_target(version: str) -> str:
    return f"/{version}/RestoreSessions?limit=1"

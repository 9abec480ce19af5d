"""Access checks: VB365 decides who may see a job, and its decisions are cached (CONTRACT §2
"Caller", §9).

There are two checks. Each sends nothing of the caller's but Authorization and Cookie.

- The session check, `GET /v{N}/RestoreSessions/{sid}`, shows whether the credentials may see that
  session. It proves no identity, because the caller of a kick-off chose the `sid`.
- The identity check, `GET /v{N}/RestoreSessions?limit=1`, shows whether VB365 accepts the
  credentials. Sent with a JWT alone, a success makes the token's claims valid, unless the same
  request is known to succeed without credentials too (`upstream.anonymous`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.core.errors import Problem
from proxy.core.job import Job
from proxy.ports import Fields, Upstream
from proxy.ports.counts import AccessCounts
from proxy.upstream.anonymous import NOTE, AnonymousCheck
from proxy.upstream.checks import Checks
from proxy.upstream.credentials import Credentials
from proxy.upstream.decisions import Decisions
from proxy.upstream.identities import Identities
from proxy.upstream.owner_hashes import OwnerHashes
from proxy.upstream.problems import not_found, unauthorized, unreachable
from proxy.upstream.questions import Questions
from proxy.upstream.questions import Statuses as Statuses
from proxy.upstream.turns import Standing, Turns
from proxy.upstream.verdict import DENIED, UNDECIDED, UNKNOWN, is_decision, is_success

#: VB365's responses to a token that it, or a server in front of it, finds too long.
_TOO_LONG = (413, 414, 431)
#: Seconds from the start to the first check without credentials, and between two of them.
_ANONYMOUS_START, _ANONYMOUS_INTERVAL = 30.0, 60.0


class Access:
    """Checks with VB365 who may see which job.

    `cache` and `timeout` are in seconds; `key` keys all hashes; `turns` are those of the checks;
    `now` returns seconds. Successes are cached. Denials are not, so that a newly granted permission
    takes effect at once.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        key: bytes,
        cache: float,
        timeout: float,
        turns: Turns,
        now: Callable[[], float],
    ) -> None:
        questions = Questions(upstream, timeout=timeout, turns=turns)
        self._anonymous = AnonymousCheck(questions)
        self._hashes = OwnerHashes(key)
        self._identities = Identities(self._hashes, self._anonymous)
        self._decisions = Decisions(self._hashes, lifetime=cache, now=now)
        self._checks = Checks(questions, self._decisions, self._identities)
        self._timeout = timeout

    @property
    def counts(self) -> AccessCounts:
        """What VB365 decided."""
        return self._checks.counts

    # who the caller is

    def owners(self, credentials: Credentials) -> tuple[str, ...]:
        """Return every owner that the credentials identify, as keyed hashes.

        The identity comes first if VB365 has accepted the token, then the hashes of the
        credentials: jobs that were created before VB365 accepted the token, or before a restart,
        belong to those. A new job's `owner` is the first.
        """
        return self._identities.owners(credentials)

    def hashes(self, credentials: Credentials) -> tuple[str, ...]:
        """Return the owners that the credentials identify by themselves, without VB365.

        The hash of the exact Authorization and Cookie is for `_needed`.
        """
        return self._hashes.all(credentials)

    def claimed(self, credentials: Credentials) -> str | None:
        """Return the owner that a JWT claims to be, None without claims.

        It proves nothing: `check` must pass before anything is disclosed.
        """
        return self._identities.claimed(credentials)

    def knows(self, fields: Fields) -> bool:
        """Report whether VB365 has accepted the credentials in these request fields at least once
        since the proxy started.
        """
        credentials = Credentials.of(fields)
        return credentials is not None and self._identities.knows(credentials)

    async def learn(
        self, credentials: Credentials, *, fresh: bool = False, remembered: bool = False
    ) -> bool | None:
        """Check a JWT with VB365, so that its claims become valid if VB365 accepts it. With `fresh`
        no cached result counts. `remembered` is for `turns.Standing`.

        Returns False if VB365 rejects it, if there are no claims, or if they cannot be proved; None
        if VB365 does not respond.
        """
        if credentials.claims is None:
            return False
        standing = Standing.REMEMBERED if remembered else Standing.UNKNOWN
        try:
            async with asyncio.timeout(self._timeout):
                status = await self._checks.identity(
                    credentials.parts()[0], fresh=fresh, standing=standing
                )
        except (Problem, TimeoutError):
            return None
        if is_success(status):
            return self.claimed(credentials) in self.owners(credentials)
        return False if is_decision(status) or status in _TOO_LONG else None

    async def accepts(self, credentials: Credentials) -> bool:
        """Report whether VB365 accepts the credentials. It is asked unless it has accepted them
        since the proxy started; no response counts as no.
        """
        return is_success(await self._acceptance(credentials))

    async def refuses(self, credentials: Credentials) -> bool:
        """Report whether VB365 responds 401 to credentials that it has not accepted since the proxy
        started. It is asked; no response counts as no.
        """
        return await self._acceptance(credentials) == 401

    async def rejects(self, fields: Fields) -> bool:
        """As `refuses`, for the credentials in these request fields."""
        credentials = Credentials.of(fields)
        return credentials is not None and await self.refuses(credentials)

    async def _acceptance(self, credentials: Credentials) -> int:
        """Return VB365's status for the credentials, 200 if it has accepted them before; 503 if it
        does not respond.
        """
        if self._identities.knows(credentials):
            return 200
        try:
            async with asyncio.timeout(self._timeout):
                return await self._checks.identity(credentials)
        except (Problem, TimeoutError):
            return 503

    @property
    def note(self) -> str | None:
        """What an operator must correct, because VB365's responses do not prove who a caller is."""
        return NOTE if self._anonymous.succeeds else None

    async def watch(self) -> None:
        """Repeat the identity check without credentials until cancelled. What was learnt while it
        succeeded is dropped, and what was learnt before: it may have been wrong already.
        """
        await asyncio.sleep(_ANONYMOUS_START)
        while True:
            if await self._anonymous.run(self._checks.identity_target):
                self._checks.forget()
            await asyncio.sleep(_ANONYMOUS_INTERVAL)

    async def owns(self, credentials: Credentials, job: Job) -> bool:
        """Report whether the job is this caller's own. Raises `Problem` 503 if that depends on a
        check that VB365 does not answer.
        """
        needed = self._needed(credentials, job)
        if needed == credentials and not set(job.owners).isdisjoint(self.owners(credentials)):
            return True
        if needed is None:
            return False
        status = await self._owner_status(needed, credentials)
        return is_success(status) and not set(job.owners).isdisjoint(self.owners(credentials))

    def _needed(self, credentials: Credentials, job: Job) -> Credentials | None:
        """Return the part of the credentials that VB365 must accept for this caller to be the job's
        owner, None if another caller owns the job.

        It is the exact pair of Authorization and Cookie of the kick-off, else Authorization alone:
        a server in front of VB365 may require the same Authorization of every user, and a cookie
        then decides who the user is. Next to a sufficient Authorization, cookies may change.
        """
        if self._hashes.exact(credentials) in job.owners:
            return credentials
        known = {*self.owners(credentials), self.claimed(credentials)}
        return None if known.isdisjoint(job.owners) else credentials.parts()[0]

    # what VB365 has allowed

    def allow(self, credentials: Credentials, job: Job) -> None:
        """Let a kick-off's own credentials see its job for the cache's lifetime without a check
        (CONTRACT §9).

        This applies to that job alone: VB365 has not yet confirmed that the credentials may see the
        restore session.
        """
        self._decisions.put(credentials, "job", job.id)

    def distrust(self, fields: Fields) -> None:
        """Drop this caller's cached decisions, because VB365 rejected a job's request with these
        credentials.

        Otherwise a caller that polls with an expired token would resume the job over and over, only
        for VB365 to reject it again.
        """
        credentials = Credentials.of(fields)
        if credentials is not None:
            self._decisions.drop(credentials)

    # who may see what

    async def identify(self, credentials: Credentials) -> tuple[str, ...]:
        """Return the caller's owners for a request that names no job, once VB365 accepts the
        credentials.

        Raises `Problem` 401 or 503.
        """
        status = 401
        if credentials.claims is not None:
            status = await self._checks.identity(credentials.parts()[0])
        if not is_success(status) and (credentials.cookie or credentials.claims is None):
            status = await self._checks.identity(credentials)
        if not is_success(status):
            raise unauthorized() if status in DENIED else unreachable()
        return self.owners(credentials)

    def allows(self, credentials: Credentials, job: Job) -> bool:
        """Report whether a cached success lets the credentials see the job, so that `check` returns
        without asking VB365.
        """
        # not for a job that has since run with another caller's credentials
        if not job.borrowed and self._checks.is_cached(credentials, "job", job.id):
            return True
        session = job.request.session
        return session is not None and self._checks.allows(credentials, session, job.request.api)

    async def check(
        self, credentials: Credentials, job: Job, statuses: Statuses | None = None
    ) -> None:
        """Return if the credentials may see the job now (CONTRACT §9), else raise `Problem` 401,
        404 or 503.

        `statuses` is shared by the checks of one list.
        """
        if self.allows(credentials, job):
            return
        session = job.request.session
        if session is None:
            # The same request as for an unknown id, so that the time does not disclose the job. A
            # list has no report of another caller.
            if statuses is None:
                await self._checks.session(credentials, job.id)
            await self._check_owner(credentials, job, statuses)
            return
        status = await self._checks.session(credentials, session, statuses, job.request.api)
        if status in UNKNOWN:
            await self._check_owner(credentials, job, statuses)
        elif not is_success(status):
            raise await self._foreign(credentials, statuses)

    async def unknown(self, credentials: Credentials, id: str) -> Problem:
        """Return the problem for an id without a job: the same as for a job in a session that these
        credentials may not see.

        VB365 gets the same requests, so that neither the response nor its timing discloses which
        ids exist (CONTRACT §9).
        """
        try:
            await self._checks.session(credentials, id)
            return await self._foreign(credentials)
        except Problem as why:
            return why

    async def _foreign(self, credentials: Credentials, statuses: Statuses | None = None) -> Problem:
        """Return the problem for another caller's job.

        VB365 is asked about Authorization alone wherever that might have proved an owner, so that
        the number of requests does not disclose which callers have jobs. Raises `Problem` 503.
        """
        token = credentials.parts()[0]
        if token != credentials or credentials.claims is not None:
            status = await self._owner_status(token, credentials, statuses)
            if status == 401 and token == credentials:
                return unauthorized()
        return not_found()

    async def _check_owner(
        self, credentials: Credentials, job: Job, statuses: Statuses | None
    ) -> None:
        """Check a job whose session no longer exists at VB365, or that has none: its owner may see
        it while VB365 accepts the owner's credentials.

        A job that ran with another caller's credentials is excluded: an owner that could not see
        the session must not get its contents by way of a caller that can.
        """
        needed = self._needed(credentials, job)
        if job.borrowed or needed is None:
            raise await self._foreign(credentials, statuses)
        status = await self._owner_status(needed, credentials, statuses)
        if status == 401 and needed == credentials:
            raise unauthorized()
        if not is_success(status) or set(job.owners).isdisjoint(self.owners(credentials)):
            raise not_found()
        self._decisions.put(credentials, "job", job.id)

    async def _owner_status(
        self, needed: Credentials, sent: Credentials, statuses: Statuses | None = None
    ) -> int:
        """Return VB365's status for the `needed` part of what was sent. Raises `Problem` 503 for
        one that decides nothing. A server in front of VB365 may redirect a request without its
        cookie.
        """
        status = await self._checks.identity(needed, statuses)
        if status in UNDECIDED or (needed == sent and not is_decision(status)):
            raise unreachable()
        return status

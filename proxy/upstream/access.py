"""Who may see a job: VB365 is asked, and its answers are cached (CONTRACT §2 "Caller", §9).

Two questions are asked, each with nothing of the caller's but Authorization and Cookie. The session
question, `GET /v{N}/RestoreSessions/{sid}`, tells whether the credentials may see that session, and
nothing else: the caller of a kick-off wrote the `sid`. The identity question, `GET
/v{N}/RestoreSessions?limit=1`, tells whether VB365 takes the credentials; asked with a JWT alone,
it makes the token's claims count.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from proxy.core.errors import Problem
from proxy.core.job import Job
from proxy.ports import Fields, Upstream, UpstreamFailure
from proxy.upstream.credentials import Credentials

#: Entries of each table at most; the oldest go first, so that hostile tokens cannot grow memory.
_ENTRIES = 10_000
_RETRY_AFTER = 5
#: API versions with the resources that are asked for, in the order in which they are tried.
_VERSIONS = ("v8", "v7", "v6")
#: VB365 answers so for what is not there, for a version that it does not serve, and for an id that
#: it cannot read.
_UNKNOWN = (400, 404)
_REFUSED = (401, 403, *_UNKNOWN)

_K = TypeVar("_K")
_V = TypeVar("_V")

#: Answers of one list of jobs, refusals too: a session is asked for once however many jobs it has.
Round = dict[tuple[str, str], "asyncio.Task[int]"]


class _Table(OrderedDict[_K, _V]):
    """A bounded dictionary."""

    def put(self, key: _K, value: _V) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > _ENTRIES:
            self.popitem(last=False)


class Access:
    """Asks VB365 who may see what. `cache` and `timeout` in seconds; `now` a monotonic clock; `key`
    keys all hashes.

    Positive answers are cached; refusals are not, so that a right that was just granted counts.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        key: bytes,
        cache: float,
        timeout: float,
        now: Callable[[], float],
    ) -> None:
        self._upstream = upstream
        self._key = key
        self._cache = cache
        self._timeout = timeout
        self._now = now
        # A verdict is about the exact Authorization and Cookie lines that VB365 saw together,
        # because it may need both, or look at one of them only: under the token alone a cookie
        # would vouch for the token beside it, under the caller one cookie's rights would pass to
        # another cookie. Key: caller, those lines, kind, what was asked.
        self._verdicts: _Table[tuple[str, str, str, str], float] = _Table()
        # Not bounded by `cache`: what VB365 once accepted stays true of a token, and no right
        # follows from it.
        self._identities: _Table[str, str] = _Table()
        self._known: _Table[str, bool] = _Table()
        self._served: str | None = None
        self._asking: Round = {}

    # who a caller is

    def owners(self, credentials: Credentials) -> tuple[str, ...]:
        """Every owner that the credentials stand for, as keyed hashes; a new job's `owner` is the
        first.

        The identity, if VB365 accepted the token, then the hashes of the credentials: jobs that
        began before VB365 accepted the token, or before a restart, belong to those.
        """
        identity = self._identities.get(self._caller(credentials))
        return (*(() if identity is None else (identity,)), *self.hashes(credentials))

    def hashes(self, credentials: Credentials) -> tuple[str, ...]:
        """The owners that the credentials stand for by themselves, whatever VB365 says of them."""
        return tuple(dict.fromkeys((self._caller(credentials), self._as_sent(credentials))))

    def claimed(self, credentials: Credentials) -> str | None:
        """The owner that a JWT claims to stand for. It proves nothing: `check` must pass before
        anything is told.
        """
        claims = credentials.claims
        return None if claims is None else self._keyed("identity", claims)

    def knows(self, fields: Fields) -> bool:
        """True if VB365 has accepted the credentials among these request fields at least once since
        the start.
        """
        credentials = Credentials.of(fields)
        return credentials is not None and self._caller(credentials) in self._known

    async def learn(self, credentials: Credentials) -> bool | None:
        """Make a JWT's claims count if VB365 accepts it. False: it does not, or there are none;
        None: no answer.
        """
        if credentials.claims is None:
            return False
        try:
            async with asyncio.timeout(self._timeout):
                status = await self._identity(credentials.parts()[0])
        except (Problem, TimeoutError):
            return None
        return _good(status) if _good(status) or status in _REFUSED else None

    async def owns(self, credentials: Credentials, job: Job) -> bool:
        """True if the job is this caller's own. Raises `Problem` 503 when VB365 would have to say
        so and does not.
        """
        if not set(job.owners).isdisjoint(self.owners(credentials)):
            return True
        if self.claimed(credentials) not in job.owners:
            return False
        if await self.learn(credentials) is None:
            raise unreachable()
        return not set(job.owners).isdisjoint(self.owners(credentials))

    def _caller(self, credentials: Credentials) -> str:
        """The hash of Authorization, and only without one that of Cookie: a balancer's cookie
        changes all the time.

        A token is the same however its scheme is spelled.
        """
        bearer = credentials.bearer
        if bearer is not None:
            return self._hash(((b"Bearer " + bearer,), ()))
        return self._as_sent(credentials)

    def _as_sent(self, credentials: Credentials) -> str:
        """The same of the bytes as they were sent, as version 0.1.0 did it."""
        return self._hash(
            (credentials.authorization, () if credentials.authorization else credentials.cookie)
        )

    def _exactly(self, credentials: Credentials) -> str:
        return self._hash((credentials.authorization, credentials.cookie))

    def _hash(self, lines: tuple[tuple[bytes, ...], tuple[bytes, ...]]) -> str:
        return self._keyed("credentials", repr(lines))

    def _keyed(self, kind: str, text: str) -> str:
        return hmac.new(self._key, f"{kind}\0{text}".encode(), hashlib.sha256).hexdigest()

    # what VB365 said

    def allow(self, credentials: Credentials, job: Job) -> None:
        """The kick-off's own credentials see this job for the cache's lifetime without asking
        (CONTRACT §9).

        This job alone: that they may see the restore session is not known before VB365 said so.
        """
        self._note(credentials, "job", job.id)

    def distrust(self, fields: Fields) -> None:
        """VB365 refused a job's request with these credentials: what it said of this caller before
        counts no more.

        Else a caller that polls with an expired token would bring the job back over and over, to be
        refused again.
        """
        credentials = Credentials.of(fields)
        if credentials is not None:
            caller = self._caller(credentials)
            for key in [key for key in self._verdicts if key[0] == caller]:
                del self._verdicts[key]

    def _note(self, credentials: Credentials, kind: str, about: str) -> None:
        key = (self._caller(credentials), self._exactly(credentials), kind, about)
        self._verdicts.put(key, self._now() + self._cache)

    def _noted(self, credentials: Credentials, kind: str, about: str) -> bool:
        key = (self._caller(credentials), self._exactly(credentials), kind, about)
        return self._now() < self._verdicts.get(key, float("-inf"))

    # who may see what

    async def identify(self, credentials: Credentials | None) -> tuple[str, ...]:
        """The owners that the caller of a request that names no job stands for, once VB365 accepts
        the credentials.

        Raises `Problem` 401 or 503.
        """
        if credentials is None:
            raise unauthorized()
        status = 401
        if credentials.claims is not None:
            status = await self._identity(credentials.parts()[0])
        if not _good(status) and (credentials.cookie or credentials.claims is None):
            status = await self._identity(credentials)
        if not _good(status):
            raise unauthorized() if status in _REFUSED else unreachable()
        return self.owners(credentials)

    async def check(
        self, credentials: Credentials | None, job: Job, answers: Round | None = None
    ) -> None:
        """Return iff the credentials may see the job now (CONTRACT §9). Raises `Problem` 401, 404
        or 503.

        `answers` holds what VB365 said to earlier checks of the same request.
        """
        if credentials is None:
            raise unauthorized()
        if self._noted(credentials, "job", job.id):
            return
        session = job.request.session
        if session is None:
            await self._check_owner(credentials, job, answers)
            return
        status = await self._sees(credentials, session, answers, job.request.api)
        if status in _UNKNOWN:
            await self._check_owner(credentials, job, answers)
        elif status == 403:
            raise not_found()

    async def unknown(self, credentials: Credentials, id: str) -> Problem:
        """The answer for an id that is no job's: what one would be whose session these credentials
        do not see.

        VB365 is asked the same, so that neither the answer nor the time it takes tells which ids
        exist (CONTRACT §9).
        """
        try:
            await self._sees(credentials, id)
        except Problem as why:
            return why
        return not_found()

    async def _sees(
        self,
        credentials: Credentials,
        session: str,
        answers: Round | None = None,
        api: str | None = None,
    ) -> int:
        """VB365's status for a session: 2xx, 400, 403 or 404. Raises `Problem` 401 or 503 for
        anything else.

        `api` is asked first, if it is known to us: its answer to a version that it does not serve
        must not tell a job from an id that is none. The session is asked for byte for byte: whether
        VB365 tells cases and encodings apart is not for us to say.
        """
        status = 404
        for version in self._versions(api):
            target = f"/{version}/RestoreSessions/{session}"
            if self._noted(credentials, "session", target):
                return 200
            status = await self._ask(version, target, credentials, answers)
            if _good(status):
                self._note(credentials, "session", target)
                self._known.put(self._caller(credentials), True)
            if status != 400 or version == self._served:
                break
        if status == 401:
            raise unauthorized()
        if status not in _REFUSED and not _good(status):
            raise unreachable()
        return status

    async def _check_owner(self, credentials: Credentials, job: Job, answers: Round | None) -> None:
        """The session is gone at VB365, or there was none: the kick-off's own caller, while VB365
        accepts it.

        Not of a job that ran with another caller's credentials: who could not see the session
        itself must not get with their help what it holds.
        """
        if job.borrowed or set(job.owners).isdisjoint(
            {*self.owners(credentials), self.claimed(credentials)}
        ):
            raise not_found()
        status = await self._accepted(credentials, answers)
        if status == 401:
            raise unauthorized()
        if status not in _REFUSED and not _good(status):
            raise unreachable()
        if not _good(status) or set(job.owners).isdisjoint(self.owners(credentials)):
            raise not_found()
        self._note(credentials, "job", job.id)

    async def _accepted(self, credentials: Credentials, answers: Round | None) -> int:
        """VB365's status for the caller: for what names it, which is the token if there is one, not
        a cookie beside.

        A token may need its cookie. It is not accepted if the cookie would have been without it.
        """
        token, *cookie = credentials.parts()
        status = await self._identity(token, answers)
        if not cookie or _good(status):
            return status
        status = await self._identity(credentials, answers)
        if not _good(status):
            return status
        alone = await self._identity(cookie[0], answers)
        if _good(alone):
            return 403
        return status if alone in _REFUSED else alone

    # questions

    async def _identity(self, credentials: Credentials, answers: Round | None = None) -> int:
        """VB365's status for the identity question with these very credentials, in a version that
        it serves.
        """
        status = 404
        for version in self._versions():
            target = f"/{version}/RestoreSessions?limit=1"
            if self._noted(credentials, "identity", target):
                return 200
            status = await self._ask(version, target, credentials, answers)
            if _good(status):
                self._served = version
                self._note(credentials, "identity", target)
                self._learnt(credentials)
            if status not in _UNKNOWN:
                break
        return status

    def _versions(self, first: str | None = None) -> list[str]:
        """The API versions to ask, in order. None is the caller's alone: it writes what it likes
        into its URLs.
        """
        wanted = (first, self._served, *_VERSIONS)
        return list(dict.fromkeys(version for version in wanted if version in _VERSIONS))

    def _learnt(self, credentials: Credentials) -> None:
        self._known.put(self._caller(credentials), True)
        claimed = self.claimed(credentials)
        if claimed is not None and not credentials.cookie:
            self._identities.put(self._caller(credentials), claimed)

    async def _ask(
        self, version: str, target: str, credentials: Credentials, answers: Round | None
    ) -> int:
        """VB365's status for a GET; concurrent equal questions share one request. Raises `Problem`
        503.
        """
        key = (self._exactly(credentials), target)
        task = (answers or {}).get(key) or self._asking.get(key)
        if task is None:
            task = asyncio.create_task(self._get(target.encode("latin-1"), credentials))
            self._asking[key] = task
            task.add_done_callback(lambda done: self._asked(key, done))
        if answers is not None:
            answers[key] = task
        try:
            status = await asyncio.shield(task)
        except UpstreamFailure as why:
            raise unreachable() from why
        if _good(status) or status in (401, 403):
            self._served = self._served or version
        return status

    def _asked(self, key: tuple[str, str], task: asyncio.Task[int]) -> None:
        del self._asking[key]
        if not task.cancelled():
            task.exception()  # every caller may have left: nobody else would take note of it

    async def _get(self, target: bytes, credentials: Credentials) -> int:
        response = await self._upstream.send(
            b"GET", target, credentials.fields, timeout=self._timeout, stall=self._timeout
        )
        try:
            # read a short body to its end, so that the connection can be used again
            async with asyncio.timeout(self._timeout):
                for _ in range(8):
                    if not await response.read():
                        break
        except (UpstreamFailure, TimeoutError):
            pass  # the status alone is the answer; close() drops the connection
        finally:
            response.close()
        return response.status


def _good(status: int) -> bool:
    return 200 <= status < 300


def unauthorized() -> Problem:
    """401: no credentials, or U does not take them."""
    return Problem(
        "unauthorized",
        (
            "Send the credentials (Authorization or Cookie) with which Veeam Backup for "
            "Microsoft 365 is used."
        ),
        headers=(("WWW-Authenticate", "Bearer"),),
    )


def not_found() -> Problem:
    """404, the same for unknown jobs and for those of others (CONTRACT §9)."""
    return Problem(
        "job-not-found", "There is no export job with this id among those that you may see."
    )


def unreachable() -> Problem:
    """503: nobody can say now whether the caller may see the job."""
    return Problem(
        "upstream-unreachable",
        "Veeam Backup for Microsoft 365 cannot be asked whether you may see this job. Try again.",
        retry_after=_RETRY_AFTER,
        status=503,
    )

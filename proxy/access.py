"""Who may see a job: VB365 is asked, and its answers are cached (CONTRACT §2 "Caller", §9)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.core.errors import Problem
from proxy.core.jobs import Job
from proxy.ports import Fields, Upstream, UpstreamFailure

#: Cached answers at most; the oldest go first, so that hostile tokens cannot grow memory.
_CACHE_ENTRIES = 10_000
_RETRY_AFTER = 5


@dataclass(frozen=True, slots=True)
class Credentials:
    """The Authorization and Cookie lines of one request, and the Host they were sent to. In memory only."""

    authorization: tuple[bytes, ...]
    cookie: tuple[bytes, ...]
    host: tuple[bytes, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, fields: Fields) -> Credentials | None:
        """The credentials among a request's fields, None without any (CONTRACT §3.2)."""

        def lines(name: bytes) -> tuple[bytes, ...]:
            return tuple(value for key, value in fields if key.lower() == name)

        found = cls(lines(b"authorization"), lines(b"cookie"), lines(b"host"))
        return found if found.authorization or found.cookie else None

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """The request fields of an access check with these credentials."""
        return [
            *((b"Host", value) for value in self.host),
            *((b"Authorization", value) for value in self.authorization),
            *((b"Cookie", value) for value in self.cookie),
            (b"Accept", b"application/json"),
        ]

    @property
    def identity(self) -> str | None:
        """What the bearer token claims to be: its `iss` and subject. Counts only once U accepted the token itself."""
        if len(self.authorization) != 1:
            return None
        scheme, _, token = self.authorization[0].partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        return _claimed_identity(token.strip())

    def without_cookie(self) -> Credentials:
        """The bearer token alone: what U accepts then, it accepts for the token and not for a cookie beside it."""
        return Credentials(self.authorization, (), self.host)


def _claimed_identity(token: bytes) -> str | None:
    parts = token.split(b".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    if not isinstance(claims, dict):
        return None
    issuer = claims.get("iss")
    subjects = (claims.get(name) for name in ("sub", "unique_name", "nameid", "upn"))
    subject = next((value for value in subjects if isinstance(value, str) and value), None)
    if not isinstance(issuer, str) or not issuer or subject is None:
        return None
    return json.dumps([issuer, subject])


class _Answers:
    """Positive answers of U with the moment until which they count; bounded."""

    def __init__(self, lifetime: float, now: Callable[[], float]) -> None:
        self._until: OrderedDict[tuple[str, ...], float] = OrderedDict()
        self._lifetime = lifetime
        self._now = now

    def add(self, *key: str) -> None:
        self._until[key] = self._now() + self._lifetime
        self._until.move_to_end(key)
        if len(self._until) > _CACHE_ENTRIES:
            self._until.popitem(last=False)

    def forget(self, caller: str) -> None:
        for key in [key for key in self._until if key[0] == caller]:
            del self._until[key]

    def __contains__(self, key: tuple[str, ...]) -> bool:
        return self._now() < self._until.get(key, float("-inf"))


class Access:
    """Asks U who may see what. `cache` and `timeout` in seconds; `now` a monotonic clock; `key` keys all hashes.

    Answers are cached per credential and restore session; refusals are not, so that a right just granted counts.
    """

    def __init__(
        self, upstream: Upstream, *, key: bytes, cache: float, timeout: float, now: Callable[[], float]
    ) -> None:
        self._upstream = upstream
        self._key = key
        self._timeout = timeout
        self._allowed = _Answers(cache, now)
        self._accepted = _Answers(cache, now)
        self._asking: dict[tuple[str, str], asyncio.Task[int]] = {}

    def owner(self, credentials: Credentials) -> str:
        """The caller as a keyed hash: of the token's identity if U accepted that token, else of the credentials."""
        return self._identity(credentials) or self._hash(credentials)

    def owners(self, credentials: Credentials) -> set[str]:
        """Every owner under which jobs of this caller may stand: also of those begun before U accepted the token."""
        return {self.owner(credentials), self._hash(credentials)}

    def owns(self, credentials: Credentials | None, job: Job) -> bool:
        """True if the job is this caller's own, as far as is known without asking U."""
        return credentials is not None and job.owner in self.owners(credentials)

    def _identity(self, credentials: Credentials) -> str | None:
        identity = credentials.identity
        if identity is None or (self._hash(credentials.without_cookie()),) not in self._accepted:
            return None
        return self._keyed("identity", identity)

    def _hash(self, credentials: Credentials) -> str:
        return self._keyed("credentials", repr((credentials.authorization, credentials.cookie)))

    def _keyed(self, kind: str, text: str) -> str:
        return hmac.new(self._key, f"{kind}\0{text}".encode(), hashlib.sha256).hexdigest()

    def allow(self, credentials: Credentials, job: Job) -> None:
        """The kick-off's own credentials see this job for the cache's lifetime without asking (CONTRACT §9).

        This job alone: that they may see the restore session is not known before U said so.
        """
        self._allowed.add(self._hash(credentials), job.id)

    def distrust(self, fields: Fields) -> None:
        """U refused a job's request with these credentials: what they were allowed before counts no more.

        Else a caller that polls with an expired token would bring the job back over and over, to be refused again.
        """
        credentials = Credentials.of(fields)
        if credentials is not None:
            self._allowed.forget(self._hash(credentials))
            self._accepted.forget(self._hash(credentials))

    async def accepted(self, credentials: Credentials, target: bytes) -> None:
        """U answered 2xx to `target` with these credentials: note it for `owner`.

        A cookie may be what U accepted. The token's claims count only if U takes the token alone.
        """
        self._accepted.add(self._hash(credentials))
        if not credentials.cookie or credentials.identity is None:
            return
        alone = credentials.without_cookie()
        if (self._hash(alone),) not in self._accepted and 200 <= await self._status(target, alone) < 300:
            self._accepted.add(self._hash(alone))

    async def identify(self, credentials: Credentials | None, api: str) -> set[str]:
        """The owners that the caller of a request that names no job stands for, once U takes the credentials.

        Raises `Problem` 401 or 503."""
        if credentials is None:
            raise unauthorized()
        if (self._hash(credentials),) not in self._accepted:
            status = await self._ask_sessions(credentials, api)
            if status == 401:
                raise unauthorized()
        return self.owners(credentials)

    async def check(self, credentials: Credentials | None, job: Job) -> None:
        """Return iff the credentials may see the job now (CONTRACT §9). Raises `Problem` 401, 404 or 503."""
        if credentials is None:
            raise unauthorized()
        caller, session = self._hash(credentials), job.request.session
        if (caller, job.id) in self._allowed:
            return
        if session is None:
            await self._check_owner(credentials, job)
        # byte for byte: whether U tells cases and encodings of an id apart is not for us to say
        elif (caller, target := _session_target(job.request.api, session)) not in self._allowed:
            await self._check_session(credentials, job, target)

    async def _check_session(self, credentials: Credentials, job: Job, target: str) -> None:
        status = await self._sees(credentials, target)
        if status == 404:
            await self._check_owner(credentials, job)
        elif status == 403:
            raise not_found()
        else:
            self._allowed.add(self._hash(credentials), target)
            await self.accepted(credentials, target.encode("latin-1"))

    async def unknown(self, credentials: Credentials, api: str, id: str) -> Problem:
        """The answer for an id that is no job's: what one would be whose session these credentials do not see.

        U is asked the same, so that neither the answer nor the time it takes tells which ids exist (CONTRACT §9).
        """
        try:
            await self._sees(credentials, _session_target(api, id))
        except Problem as why:
            return why
        return not_found()

    async def _sees(self, credentials: Credentials, target: str) -> int:
        """U's status for a restore session: 2xx, 403 or 404. Raises `Problem` 401 or 503 for anything else."""
        status = await self._ask(target.encode("latin-1"), credentials)
        if status == 401:
            raise unauthorized()
        if status not in (403, 404) and not 200 <= status < 300:
            raise unreachable()
        return status

    async def _check_owner(self, credentials: Credentials, job: Job) -> None:
        """The session is gone at U, or there was none: the kick-off's own caller, while U takes its credentials.

        Not of a job that ran with another caller's credentials: who could not see the session itself must not get
        with their help what it holds.
        """
        if job.borrowed:
            raise not_found()
        identity = credentials.identity
        candidates = {self._hash(credentials)} | ({self._keyed("identity", identity)} if identity else set())
        if job.owner not in candidates:
            raise not_found()
        status = await self._ask_sessions(credentials, job.request.api)
        if status == 401:
            raise unauthorized()
        if not 200 <= status < 300 or job.owner not in self.owners(credentials):
            raise not_found()
        self._allowed.add(self._hash(credentials), job.id)

    async def _ask_sessions(self, credentials: Credentials, api: str) -> int:
        target = f"/{api}/RestoreSessions?limit=1".encode()
        status = await self._ask(target, credentials)
        if 200 <= status < 300:
            await self.accepted(credentials, target)
        elif status not in (401, 403, 404):
            raise unreachable()
        return status

    async def _ask(self, target: bytes, credentials: Credentials) -> int:
        try:
            return await self._status(target, credentials)
        except UpstreamFailure as why:
            raise unreachable() from why

    async def _status(self, target: bytes, credentials: Credentials) -> int:
        """U's status for a GET; concurrent equal questions share one request."""
        key = (self._hash(credentials), target.decode("latin-1"))
        task = self._asking.get(key)
        if task is None:
            task = asyncio.create_task(self._get(target, credentials))
            self._asking[key] = task
            task.add_done_callback(lambda done: self._asked(key, done))
        return await asyncio.shield(task)

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


def _session_target(api: str, session: str) -> str:
    return f"/{api}/RestoreSessions/{session}"


def unauthorized() -> Problem:
    """401: no credentials, or U does not take them."""
    return Problem(
        "unauthorized",
        "Send the credentials (Authorization or Cookie) with which Veeam Backup for Microsoft 365 is used.",
        headers=(("WWW-Authenticate", "Bearer"),),
    )


def not_found() -> Problem:
    """404, the same for unknown jobs and for those of others (CONTRACT §9)."""
    return Problem("job-not-found", "There is no export job with this id among those that you may see.")


def unreachable() -> Problem:
    """503: nobody can say now whether the caller may see the job."""
    return Problem(
        "upstream-unreachable",
        "Veeam Backup for Microsoft 365 cannot be asked whether you may see this job. Try again.",
        retry_after=_RETRY_AFTER,
        status=503,
    )

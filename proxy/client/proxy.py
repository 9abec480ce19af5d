"""The proxy as seen from outside: the calls of CONTRACT §2, with credentials and bounded
patience.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import Any

import aiohttp
from yarl import URL

from proxy.client.display import duration
from proxy.client.faults import Fault, Refused, Unreachable
from proxy.client.job import Job
from proxy.client.wire import Answer, Credentials, Http, refusal

#: Tries in a row before a call is given up: some two minutes for a job under way (more than a
#: restart of the proxy takes), seconds for a first contact (a wrong address should not look like
#: patience).
TRIES = 8
FIRST_TRIES = 4
#: Answers of a proxy or balancer that is restarting or busy.
BUSY = frozenset({429, 502, 503, 504})
#: Those by which a proxy asks to come back: a quota, a full queue.
ASKED = frozenset({429, 503})
#: The longest Retry-After, in seconds, that is waited for without being told to.
UNASKED_WAIT = 60.0
_JOB_PATH = re.compile(r"(?:/v\d+)?/[^/]+/exports/[0-9a-f-]{36}$", re.IGNORECASE)
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

Sleep = Callable[[float], Awaitable[Any]]
Notice = Callable[[str], None]


class Proxy:
    """A running proxy. `path` arguments begin with "/" and are sent as they are, behind the base
    URL.

    `notice` is told, in a sentence, why a call is made again.
    """

    sleep: Sleep = staticmethod(asyncio.sleep)

    def __init__(
        self, http: Http, credentials: Credentials, *, notice: Notice = lambda _: None
    ) -> None:
        self._http = http
        self._credentials = credentials
        self._notice = notice
        self._known = False

    def url(self, path: str) -> str:
        """The whole URL of `path`."""
        return self._http.base + path

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer whose body is still to be read. A 401 renews the credentials, once."""
        async with self._http.open(method, path, await self._authorized(fields), body) as response:
            if response.status != 401 or not await self._credentials.renew(self._http):
                yield response
                return
        async with self._http.open(method, path, await self._authorized(fields), body) as response:
            yield response

    async def call(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """One exchange, its answer whole."""
        async with self.open(method, path, fields, body) as response:
            return Answer(response.status, response.headers.copy(), await response.read())

    async def persist(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        busy: Container[int] = BUSY,
        tries: int = TRIES,
        longest: float = inf,
        patient: bool = False,
    ) -> Answer:
        """As `call`, again after a broken connection or a `busy` status: at most `tries` times.

        A Retry-After of more than `longest` seconds is not waited for. `patient` waits as often and
        as long as a 429 or 503 asks.
        """
        failures = 0
        while True:
            try:
                answer = await self.call(method, path, fields, body)
            except Unreachable as why:
                failures += 1
                if failures >= tries:
                    raise
                await self.pause(str(why), backoff(failures))
                continue
            if answer.status not in busy:
                return answer
            asked = patient and answer.status in ASKED
            failures += 1
            if not asked and (failures >= tries or (answer.retry_after or 0) > longest):
                return answer
            await self.pause(str(refusal(answer)), answer.retry_after or backoff(failures))

    async def pause(self, why: str, seconds: float) -> None:
        """Tell why, and wait."""
        self._notice(f"{why}; trying again in {seconds:.0f} s")
        await self.sleep(seconds)

    async def kick_off(
        self,
        path: str,
        body: bytes | None,
        *,
        content_type: str,
        key: str | None,
        patient: bool = False,
    ) -> tuple[Job, str]:
        """Start an export: the job and its path. With a `key` a broken connection is no reason to
        give up (§8).

        `patient` waits as long as a 429 or 503 asks.
        """
        fields = {"Prefer": "respond-async"}
        if body is not None:
            fields["Content-Type"] = content_type
        if key is not None:
            fields["Idempotency-Key"] = key
        # Without a key only an answer that refused the kick-off allows another.
        tries, busy = (FIRST_TRIES, ASKED) if key is not None else (1, frozenset({429}))
        answer = await self.persist(
            "POST",
            path,
            fields,
            body,
            busy=busy,
            tries=tries,
            longest=UNASKED_WAIT,
            patient=patient,
        )
        if answer.status in ASKED and answer.retry_after:
            wait = f"it asks to come back in {duration(answer.retry_after)}, which --wait waits for"
            raise Refused(f"{refusal(answer)}; {wait}", answer.status)
        if answer.status >= 300:
            raise refusal(answer)
        if answer.status != 202:
            raise Fault(
                f"The server answered {answer.status}, not 202: no proxy at --url, or --path "
                "is no export"
            )
        self._known = True
        return Job(answer.document()), job_path(answer.fields.get("Location", ""))

    async def check(self, segment: str) -> None:
        """Raise `Fault` if the server is VB365 itself: there a kick-off would be a synchronous
        export.

        Asks for the proxy's description, without credentials (§2). A broken connection is left to
        the call that follows, which is repeated.
        """
        path = f"/{segment}/openapi.json"
        with suppress(Unreachable):
            answer = await self._http.call("GET", path, {"Accept": "application/json"})
            self._must_be_a_proxy(path, answer)

    def sent(self, method: str, path: str) -> bool:
        """Whether such a request may have reached the server."""
        return self._http.sent(method, path)

    def _must_be_a_proxy(self, path: str, answer: Answer) -> None:
        """A proxy marks its own errors; 404 without the mark at its own path is VB365's (§11)."""
        if self._known or answer.status not in (404, 405) or answer.of_a_proxy:
            return
        raise Fault(
            f"{self.url('')} is VB365 itself, not the proxy: it answered {answer.status} to "
            f"{path}. Give the proxy's "
            "address as --url, and its public.segment as --segment if that is another one",
            code=2,
        )

    async def job(self, path: str, etag: str | None = None) -> tuple[Job | None, Answer]:
        """The job, or None when it is as `etag` says; the answer is for its ETag and
        Retry-After.
        """
        fields = {"Accept": "application/json"} | ({"If-None-Match": etag} if etag else {})
        answer = await self.persist("GET", path, fields)
        if answer.status == 304:
            return None, answer
        if answer.status not in (200, 202):
            self._must_be_a_proxy(path, answer)
            raise refusal(answer)
        self._known = True
        return Job(answer.document()), answer

    async def ask(self, method: str, path: str) -> Answer:
        """A call that must be answered with 2xx."""
        answer = await self.persist(method, path, {"Accept": "application/json"}, tries=FIRST_TRIES)
        if not 200 <= answer.status < 300:
            self._must_be_a_proxy(path, answer)
            raise refusal(answer)
        return answer

    async def _authorized(self, fields: Mapping[str, str] | None) -> dict[str, str]:
        token = await self._credentials.token(self._http)
        return {"Authorization": f"Bearer {token}", **(fields or {})}


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return float(min(2 ** (failures - 1), 60))


def job_path(location: str) -> str:
    """The job's path behind the base URL: from `Location`, of which only the path is used.

    The credentials so never go to another host than the user's, and a balancer that rewrites URLs
    does no harm (§2).
    """
    match = _JOB_PATH.search(URL(location, encoded=True).raw_path)
    if match is None:
        raise Fault(f"{location!r} is not the address of an export job")
    return match[0]


def named_job(name: str, api: str, segment: str) -> str:
    """The path of the job that a user names by its id or its URL."""
    if _ID.fullmatch(name):
        return f"/{api}/{segment}/exports/{name.lower()}"
    return job_path(name)

"""A client of the proxy's resources (CONTRACT §2), with credentials and retries."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import Any

import aiohttp
from yarl import URL

from proxy.client.display import format_duration
from proxy.client.errors import CommandError, ErrorResponse, Unreachable
from proxy.client.job import Job
from proxy.client.wire import Credentials, Http, WholeResponse, error_from, read_whole
from proxy.core.paths import Links, description_url, find_links, job_links

#: Maximum number of consecutive tries: about two minutes for a known job, which is longer than a
#: restart of the proxy, and seconds for the first call, where the address may be wrong.
TRIES = 8
FIRST_TRIES = 4
#: Statuses of a proxy or load balancer that is restarting or busy.
BUSY = frozenset({429, 502, 503, 504})
#: Statuses that ask for a later try: a quota or a full queue.
RETRY_LATER = frozenset({429, 503})
#: Seconds that a poll may wait for a change: less than the time-outs of load balancers.
LONG_POLL = 20
#: Maximum Retry-After in seconds to wait for without --wait.
MAX_RETRY_AFTER = 60.0
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

Sleep = Callable[[float], Awaitable[Any]]
Notice = Callable[[str], None]


class Proxy:
    """A running proxy.

    `path` arguments begin with "/" and are appended to the base URL unchanged. `notice` is called
    with the reason of each retry.
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
        """Return the URL of `path`."""
        return self._http.base + path

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield a response before its body is read. A 401 renews the credentials once."""
        token = await self._token()
        async with self._http.open(method, path, _authorized(token, fields), body) as response:
            if response.status != 401 or not await self._credentials.renew(self._http, token):
                yield response
                return
        token = await self._token()
        async with self._http.open(method, path, _authorized(token, fields), body) as response:
            yield response

    async def call(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> WholeResponse:
        """Send a request and return the complete response."""
        async with self.open(method, path, fields, body) as response:
            return await read_whole(response)

    async def call_with_retries(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        busy: Container[int] = BUSY,
        tries: int = TRIES,
        longest: float = inf,
        wait: bool = False,
    ) -> WholeResponse:
        """Call, and retry after a broken connection or a `busy` status, at most `tries` times.

        A Retry-After of more than `longest` seconds ends the retries. With `wait`, a 429 or 503 is
        always retried, after any Retry-After.
        """
        failures = 0
        while True:
            try:
                response = await self.call(method, path, fields, body)
            except Unreachable as error:
                failures += 1
                if failures >= tries:
                    raise
                await self.pause(str(error), backoff(failures))
                continue
            if response.status not in busy:
                return response
            asked = wait and response.status in RETRY_LATER
            failures += 1
            if not asked and (failures >= tries or (response.retry_after or 0) > longest):
                return response
            await self.pause(str(error_from(response)), response.retry_after or backoff(failures))

    async def pause(self, error: str, seconds: float) -> None:
        """Report the reason of a retry and wait."""
        self._notice(f"{error}; trying again in {seconds:.0f} s")
        await self.sleep(seconds)

    async def kick_off(
        self,
        path: str,
        body: bytes | None,
        *,
        content_type: str,
        key: str | None,
        wait: bool = False,
    ) -> tuple[Job, Links]:
        """Start an export. Return the job and its paths.

        With a `key`, the request is repeated after a broken connection (CONTRACT §8). With `wait`,
        a 429 or 503 is always retried.
        """
        fields = {"Prefer": "respond-async"}
        if body is not None:
            fields["Content-Type"] = content_type
        if key is not None:
            fields["Idempotency-Key"] = key
        # Without a key, a kick-off can be repeated only if it was certainly rejected.
        tries, busy = (FIRST_TRIES, RETRY_LATER) if key is not None else (1, frozenset({429}))
        response = await self.call_with_retries(
            "POST",
            path,
            fields,
            body,
            busy=busy,
            tries=tries,
            longest=MAX_RETRY_AFTER,
            wait=wait,
        )
        if response.status in RETRY_LATER and response.retry_after:
            after = format_duration(response.retry_after)
            hint = f"try again in {after}, or use --wait"
            raise ErrorResponse(f"{error_from(response)}; {hint}", response.status)
        if response.status >= 300:
            raise error_from(response)
        if response.status != 202:
            raise CommandError(
                f"The server responded with {response.status}, not 202: --url is not the address "
                "of the proxy, or --path is not an export"
            )
        self._known = True
        return Job(response.document()), links_at(response.fields.get("Location", ""))

    async def check(self, segment: str) -> None:
        """Raise `CommandError` if the server is VB365 itself, which would run a synchronous export.

        It requests the proxy's OpenAPI description, without credentials (CONTRACT §2). A broken
        connection is ignored here, since the next call is repeated.
        """
        path = description_url("", segment)
        with suppress(Unreachable):
            response = await self._http.call("GET", path, {"Accept": "application/json"})
            self._check_is_proxy(path, response)

    def sent(self, method: str, path: str) -> bool:
        """Return whether such a request may have reached the server."""
        return self._http.sent(method, path)

    def _check_is_proxy(self, path: str, response: WholeResponse) -> None:
        """Raise `CommandError` for a 404 without the mark of the proxy's errors (CONTRACT §11)."""
        if self._known or response.status not in (404, 405) or response.from_proxy:
            return
        raise CommandError(
            f"{self.url('')} is VB365 itself, not the proxy: it responded with {response.status} "
            f"to {path}. Set --url to the address of the proxy, and --segment to its "
            "public.segment",
            code=2,
        )

    async def job(self, path: str, etag: str | None = None) -> tuple[Job | None, WholeResponse]:
        """Return the job, or None if its ETag is still `etag`, and the response.

        With an `etag`, the proxy responds when the job has changed, or after a while (CONTRACT §4).
        """
        fields = {"Accept": "application/json"}
        if etag:
            fields |= {"If-None-Match": etag, "Prefer": f"wait={LONG_POLL}"}
        response = await self.call_with_retries("GET", path, fields)
        if response.status == 304:
            return None, response
        if response.status not in (200, 202):
            self._check_is_proxy(path, response)
            raise error_from(response)
        self._known = True
        return Job(response.document()), response

    async def ask(self, method: str, path: str) -> WholeResponse:
        """Call and return the response. Raises `ErrorResponse` unless it is 2xx."""
        response = await self.call_with_retries(
            method, path, {"Accept": "application/json"}, tries=FIRST_TRIES
        )
        if not 200 <= response.status < 300:
            self._check_is_proxy(path, response)
            raise error_from(response)
        return response

    async def _token(self) -> str:
        token = await self._credentials.token(self._http)
        if not token.isascii() or not token.isprintable():
            raise CommandError("The token has characters that no token has", code=2)
        return token


def _authorized(token: str, fields: Mapping[str, str] | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", **(fields or {})}


def backoff(failures: int) -> float:
    """Return the seconds to wait after consecutive failures."""
    return float(min(2 ** (failures - 1), 60))


def links_at(location: str) -> Links:
    """Return the paths of the job at a `Location`. Raises `CommandError` if it is not a job's URL.

    The rest of the URL is ignored: credentials are sent only to the host that the user named, even
    behind a balancer that rewrites URLs (CONTRACT §2).
    """
    links = find_links(URL(location, encoded=True).raw_path)
    if links is None:
        raise CommandError(f"{location!r} is not the URL of an export job")
    return links


def links_of(name: str, api: str, segment: str) -> Links:
    """Return the paths of a job, given its id or its URL."""
    if _ID.fullmatch(name):
        return job_links("", api, segment, name.lower())
    return links_at(name)

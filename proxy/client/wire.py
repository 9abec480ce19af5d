"""One HTTP exchange as the client makes it: aiohttp set up so that what arrives is what was
sent.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
from yarl import URL

from proxy.client.causes import cause
from proxy.client.faults import Fault, Refused
from proxy.core.outcome import said

#: Called with the head of every answer, for those who want to see the wire.
Trace = Callable[[aiohttp.ClientResponse], None]

#: No total limit: a download may take hours. A silence of 90 s is a broken connection.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=90)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: `fields` look up case-insensitively."""

    status: int
    fields: Mapping[str, str]
    body: bytes

    def document(self) -> dict[str, Any]:
        """The JSON object in the body. Raises `Fault` when there is none."""
        try:
            document = json.loads(self.body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise Fault(
                f"The server answered {self.status} without a JSON document: is --url the "
                "proxy's address?"
            )
        return document

    @property
    def of_a_proxy(self) -> bool:
        """Whether the error was made by a proxy: its own mark, or its type (CONTRACT §11)."""
        return "X-VB365-Async" in self.fields or b'"urn:vb365-async:' in self.body

    @property
    def retry_after(self) -> int | None:
        """Retry-After in whole seconds; None when absent or a date."""
        value = self.fields.get("Retry-After", "")
        return int(value) if value.isascii() and value.isdigit() else None


class Credentials(Protocol):
    """Where bearer tokens come from."""

    async def token(self, http: Http) -> str:
        """The token to send now."""

    async def renew(self, http: Http) -> bool:
        """The server said 401: get another token. False when there is none to be had."""


class Http:
    """Requests to one base URL (scheme, authority, optional path prefix), without credentials and
    without retries.

    `tls` is an SSL context, True for the system's CAs, False for no verification.
    """

    def __init__(self, base: str, *, tls: Any = True, trace: Trace | None = None) -> None:
        url = URL(base)
        if url.scheme not in ("http", "https") or not url.host:
            raise Fault(f"--url must be like https://vb365.example.com:4443, not {base!r}", code=2)
        self.base = base.rstrip("/")
        self._tls = tls
        self._trace = trace
        self._answered = False
        self._sent: set[tuple[str, URL]] = set()

    async def __aenter__(self) -> Http:
        async def note(
            session: object, context: object, params: aiohttp.TraceRequestHeadersSentParams
        ) -> None:
            self._sent.add((params.method, params.url))

        traces = aiohttp.TraceConfig()
        traces.on_request_headers_sent.append(note)
        self._session = aiohttp.ClientSession(
            trace_configs=[traces],
            connector=aiohttp.TCPConnector(ssl=self._tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=_TIMEOUT,
            read_bufsize=2**20,
            max_line_size=2**16,
            max_field_size=2**16,
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()

    @asynccontextmanager
    async def open(
        self, method: str, path: str, fields: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer whose body is still to be read. Raises `Unreachable` when it breaks, also
        inside the block.

        Raises `Fault` with exit code 2 for what another try cannot help.
        """
        url = URL(self.base + path, encoded=True)  # anything else would change odd targets
        sent = {"Accept-Encoding": "identity", **fields}
        try:
            async with self._session.request(
                method, url, headers=sent, data=body, allow_redirects=False
            ) as response:
                self._answered = True
                if self._trace is not None:
                    self._trace(response)
                yield response
        except (aiohttp.ClientError, TimeoutError) as why:
            raise await cause(why, url, self.base, connected=self._answered) from why

    def sent(self, method: str, path: str) -> bool:
        """Whether such a request may have reached the server: its head was written to a
        connection.
        """
        return (method, URL(self.base + path, encoded=True)) in self._sent

    async def call(
        self, method: str, path: str, fields: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """One exchange, its answer whole."""
        async with self.open(method, path, fields, body) as response:
            return Answer(response.status, response.headers.copy(), await response.read())


def refusal(answer: Answer) -> Refused:
    """The answer as an error, in the words of its body where there are any (CONTRACT §11)."""
    sentence = said(answer.fields.get("Content-Type"), answer.body)
    reason = f": {sentence}" if sentence else ""
    if answer.status == 401 and not reason:
        reason = ": the credentials are not accepted (any more)"
    if 300 <= answer.status < 400:
        reason = (
            f": redirected to {answer.fields.get('Location')}, which is not followed; "
            "is --url right?"
        )
    return Refused(f"The server answered {answer.status}{reason}", answer.status)

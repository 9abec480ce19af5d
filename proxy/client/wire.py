"""HTTP requests with aiohttp, set up to send and receive bytes unchanged."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self

import aiohttp
from yarl import URL

from proxy.client.address import parse_address
from proxy.client.diagnosis import diagnose
from proxy.client.errors import CommandError, ErrorResponse
from proxy.client.forward import forward_proxy
from proxy.core.errors import MARK, PROBLEM_TYPE
from proxy.core.outcome import message_of

#: Called with each response, for --verbose.
Trace = Callable[[aiohttp.ClientResponse], None]

#: There is no total limit, since a download may take hours. 90 s without a byte are an error.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=90)
#: The longest body, in bytes, of a response other than a file.
_MAX_BODY = 32 << 20


@dataclass(frozen=True, slots=True)
class WholeResponse:
    """A complete response. `fields` has case-insensitive names."""

    status: int
    fields: Mapping[str, str]
    body: bytes

    def document(self) -> dict[str, Any]:
        """Return the JSON object in the body. Raises `CommandError` if there is none."""
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise CommandError(
                f"The server responded with {self.status} without a JSON document: is --url the "
                "address of the proxy?"
            )
        return document

    @property
    def from_proxy(self) -> bool:
        """Whether a proxy generated the error, by its field or its type (CONTRACT §11)."""
        return MARK in self.fields or f'"{PROBLEM_TYPE}'.encode() in self.body

    @property
    def retry_after(self) -> int | None:
        """Retry-After in seconds; None if it is absent, a date, or longer than 30 years."""
        value = self.fields.get("Retry-After", "")
        return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None


class Credentials(Protocol):
    """A source of bearer tokens."""

    async def token(self, http: Http) -> str:
        """Return the token to send."""

    async def renew(self, http: Http, rejected: str) -> bool:
        """Get another token than the one that was rejected; return False if there is none."""


class Http:
    """Requests to a base URL with an optional path prefix, without credentials and retries.

    `tls` is an SSL context, True for the system's CA certificates, False for no verification, or
    the fingerprint of the server's certificate. HTTP_PROXY, HTTPS_PROXY and NO_PROXY apply.
    """

    def __init__(self, base: str, *, tls: Any = True, trace: Trace | None = None) -> None:
        url = parse_address(base)
        if url.user is not None or url.password is not None or url.query_string or url.fragment:
            raise CommandError(
                "--url must have neither credentials nor a query: it ends with the port, or the "
                "path of the proxy",
                code=2,
            )
        self.base = base.rstrip("/")
        #: As sent: the host name in ASCII.
        self._sent_base = str(url).rstrip("/")
        self._forward = forward_proxy(url)
        self._tls = tls
        self._trace = trace
        self._connected = False
        self._sent: set[tuple[str, URL]] = set()

    async def __aenter__(self) -> Self:
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
        """Yield a response before its body is read.

        Raises `Unreachable` if the connection breaks, also inside the block, and `CommandError` if
        another try cannot succeed.
        """
        url = URL(self._sent_base + path, encoded=True)  # otherwise yarl changes some targets
        to_proxy = self._forward.fields if url.scheme == "http" else {}
        sent = {"Accept-Encoding": "identity", **to_proxy, **fields}
        try:
            async with self._session.request(
                method,
                url,
                headers=sent,
                data=body,
                allow_redirects=False,
                proxy=self._forward.url,
                proxy_headers=self._forward.fields if url.scheme == "https" else None,
            ) as response:
                self._connected = True
                if self._trace is not None:
                    self._trace(response)
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            raise await diagnose(error, url, self.base, connected=self._connected) from error

    def sent(self, method: str, path: str) -> bool:
        """Return whether the head of such a request was written to a connection."""
        return (method, URL(self._sent_base + path, encoded=True)) in self._sent

    async def call(
        self, method: str, path: str, fields: Mapping[str, str], body: bytes | None = None
    ) -> WholeResponse:
        """Send a request and return the complete response."""
        async with self.open(method, path, fields, body) as response:
            return await read_whole(response)


async def read_whole(response: aiohttp.ClientResponse) -> WholeResponse:
    """Read the body. Raises `CommandError` if it is longer than any document of the proxy."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(2**16):
        body += chunk
        if len(body) > _MAX_BODY:
            raise CommandError(
                f"The response to {response.method} {response.url.raw_path} is longer than "
                f"{_MAX_BODY >> 20} MiB"
            )
    return WholeResponse(response.status, response.headers.copy(), bytes(body))


def error_from(response: WholeResponse) -> ErrorResponse:
    """Convert a response to an error, with the message of its body (CONTRACT §11)."""
    message = message_of(response.fields.get("Content-Type"), response.body)
    reason = f": {message}" if message else ""
    if response.status == 401 and not reason:
        reason = ": the credentials are not accepted"
    if 300 <= response.status < 400:
        reason = (
            f": redirected to {response.fields.get('Location')}, which is not followed; check --url"
        )
    return ErrorResponse(f"The server responded with {response.status}{reason}", response.status)

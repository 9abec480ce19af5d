"""One URL of the operator, and one signed POST to it (CONTRACT §17).

The URL is a secret: many receivers recognise the sender by its path or query. It is in no log line
and in no error.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from proxy import __version__
from proxy.core.outbox import endpoint_key
from proxy.webhooks.connector import MOST, BoundedConnector
from proxy.webhooks.signature import sign

#: Seconds that an endpoint has to respond.
TIMEOUT = 15.0
#: Seconds that the body of a response may take. It has no meaning.
_BODY_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a POST: the status of the response, or None and the `reason` why there is
    none, and how many seconds it took.
    """

    status: int | None
    reason: str
    seconds: float

    @property
    def delivered(self) -> bool:
        """Whether the endpoint has accepted the message."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """Whether the endpoint wants no more messages."""
        return self.status == 410

    def __str__(self) -> str:
        return self.reason if self.status is None else f"{self.status} {self.reason}".rstrip()


class Endpoint:
    """The endpoint at `url`. `keys` sign, `now` returns Unix seconds.

    `key` is the hash of the URL that records and logs have, `shown` its scheme, host and port.
    """

    def __init__(
        self,
        url: str,
        keys: Sequence[bytes],
        now: Callable[[], float],
        *,
        timeout: float = TIMEOUT,
    ) -> None:
        split = urlsplit(url)
        self.key = endpoint_key(url)
        self.shown = f"{split.scheme}://{split.netloc}"
        #: Not that of aiohttp: `serve` leaves it without certificates.
        self._tls = ssl.create_default_context() if split.scheme == "https" else None
        self._url = URL(url, encoded=True)  # as written: a signature in it must not change
        self._keys = tuple(keys)
        self._now = now
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<Endpoint {self.key} {self.shown}>"

    async def post(self, id: str, body: bytes) -> Outcome:
        """Post a message. Redirects are not followed."""
        started = time.monotonic()
        try:
            status, reason = await self._post(id, body)
        except (aiohttp.ClientError, OSError, ValueError) as why:  # TimeoutError is an OSError
            return Outcome(None, self._why(why), time.monotonic() - started)
        return Outcome(status, reason, time.monotonic() - started)

    async def _post(self, id: str, body: bytes) -> tuple[int, str]:
        timestamp = int(self._now())
        fields = {
            "Content-Type": "application/json",
            "User-Agent": f"vb365-async-proxy/{__version__}",
            "webhook-id": id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(self._keys, id, timestamp, body),
        }
        async with self._client().post(
            self._url, data=body, headers=fields, allow_redirects=False
        ) as response:
            # some servers report an error if the connection is closed before they have responded
            with contextlib.suppress(aiohttp.ClientError, OSError):
                async with asyncio.timeout(_BODY_TIMEOUT):
                    await _read(response.content)
            reason = response.reason or ""
            return response.status, "".join(filter(str.isprintable, reason))[:80]

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=BoundedConnector(self._tls),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                auto_decompress=False,
                skip_auto_headers=("Accept", "Accept-Encoding"),
            )
        return self._session

    def _why(self, why: Exception) -> str:
        """Return why there is no response. The text of an error of aiohttp may contain the URL."""
        match why:
            case TimeoutError():
                return f"no response within {self._timeout:g} s"
            case aiohttp.ClientConnectorCertificateError():
                return f"its certificate is not trusted: {why.certificate_error}"
            case aiohttp.ClientConnectorError():
                return f"cannot connect: {why.os_error.strerror or why.os_error}"
            case aiohttp.ServerDisconnectedError() | ConnectionError():
                return "it closed the connection"
            case aiohttp.ClientResponseError():
                return "its response is not HTTP"
            case _:
                return type(why).__name__

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


async def _read(content: aiohttp.StreamReader) -> None:
    count = 0
    while count < MOST and (piece := await content.read(MOST - count)):
        count += len(piece)

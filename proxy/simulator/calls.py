"""API requests, and the error responses of each API version (docs/upstream.md §4)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote_plus

from aiohttp import web

from proxy.simulator.responses import Response, json_response
from proxy.simulator.settings import User

#: The v8 errorCode by status; other statuses have HttpError.
_ERROR_CODES = {
    400: "ParameterValidationFailure",
    401: "ResourceAccessDenied",
    403: "ResourceAccessDenied",
    404: "ResourceNotFound",
    409: "OperationConflict",
    504: "Timeout",
}


@dataclass(slots=True)
class RecordedRequest:
    """A received request, kept for inspection by tests.

    `target` and `headers` are the raw request target and field lines. `time` is in Unix seconds.
    `length` and `sha256` describe the whole body; `body` holds its first 64 KiB. `complete` becomes
    True when the whole body has arrived, `status` is set when the response head is sent. `user` is
    the name of the caller, `faults` are the names of the effects on the request, and `outcome` is
    that of an export's delivery (`transfer.Delivery`). At the end, `sent` is the number of bytes
    sent after the head, and `seconds` the duration.
    """

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]
    time: float
    length: int = 0
    sha256: str = ""
    body: bytes = b""
    complete: bool = False
    status: int | None = None
    user: str = ""
    faults: tuple[str, ...] = ()
    outcome: str = ""
    sent: int = 0
    seconds: float = 0.0

    def header(self, name: str) -> str | None:
        """Return the value of a field, multiple lines joined with a comma, or None."""
        wanted = name.lower().encode()
        values = [value for key, value in self.headers if key.lower() == wanted]
        return b", ".join(values).decode("utf-8", "surrogateescape") if values else None


@dataclass(slots=True)
class Call:
    """A parsed API request.

    `version` is the API version, 0 if the path names none. `segments` are the raw path segments
    without empty ones and the version. `query` has lower-case names. `base` is the prefix of links:
    scheme and authority up to v5, empty later. Routing sets `user` and `ids`, the raw path segments
    that match the placeholders of the route.
    """

    request: web.BaseRequest
    record: RecordedRequest
    body: bytes
    version: int
    segments: list[str]
    path: str
    query: dict[str, str]
    base: str
    user: User | None = None
    ids: list[str] = field(default_factory=list)

    @property
    def caller(self) -> User:
        """The authenticated user. Raises RuntimeError for an anonymous call."""
        if self.user is None:
            raise RuntimeError("an anonymous call has no user")
        return self.user


def parse(request: web.BaseRequest, record: RecordedRequest, body: bytes) -> Call:
    """Parse the request target and return the call."""
    path, _, query = request.raw_path.partition("?")
    segments = [segment for segment in path.split("/") if segment]
    version = re.fullmatch(r"v(\d{1,4})", segments[0], re.IGNORECASE) if segments else None
    number = int(version[1]) if version else 0
    pairs = {name.lower(): value for name, value in parse_qsl(query, keep_blank_values=True)}
    authority = request.headers.get("Host", "localhost")
    base = f"{request.scheme}://{authority}" if 0 < number <= 5 else ""
    segments = segments[1:] if version else segments
    return Call(request, record, body, number, segments, path, pairs, base)


def error(version: int, status: int, message: str, code: str | None = None) -> Response:
    """Return an error response with the RESTExceptionInfo document of that API version.

    `code` is the errorCode of v8; by default it follows from the status. v7 defines only one
    errorCode, ProxyOffline, which does not apply here, so v7 documents have none.
    """
    document: dict[str, object] = {"message": message}
    if version >= 8:
        document |= {"errorCode": code or _ERROR_CODES.get(status, "HttpError"), "stackTrace": None}
    return json_response(status, document)


#: The response to a missing or rejected token; it has no body (docs/upstream.md §3).
UNAUTHORIZED = Response(401, b"", "", (("WWW-Authenticate", "Bearer"),))


def not_found(call: Call) -> Response:
    """Return the 404 response of the call's API version."""
    return error(call.version, 404, f"The resource {call.path} was not found")


def form(call: Call) -> Mapping[str, str]:
    """Return the members of a form or JSON body as strings.

    The body is a form unless Content-Type names JSON. Raises ValueError for a malformed body.
    """
    if "json" not in call.request.headers.get("Content-Type", ""):
        fields = (pair.partition(b"=") for pair in call.body.split(b"&") if pair)
        return {
            unquote_plus(name.decode()): unquote_plus(value.decode()) for name, _, value in fields
        }
    raw = json.loads(call.body)
    if not isinstance(raw, dict):
        raise ValueError("the body is not a JSON object")  # noqa: TRY004  # malformed input is always ValueError
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in raw.items()
    }

"""One request as the stand-in sees it, and the error bodies of each API version (docs/upstream.md §4)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote_plus

from aiohttp import web

from proxy.simulator.settings import User
from proxy.simulator.wire import Answer, json_answer

#: The v8 errorCode of a status; every other one is HttpError.
_CODES = {
    400: "ParameterValidationFailure",
    401: "ResourceAccessDenied",
    403: "ResourceAccessDenied",
    404: "ResourceNotFound",
    409: "OperationConflict",
    504: "Timeout",
}


@dataclass(slots=True)
class Recorded:
    """A request as it came: raw target, raw field lines, and the body's length, SHA-256 and first 64 KiB.

    `complete` once the whole body is in; `status` once the head of an answer is out.
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

    def header(self, name: str) -> str | None:
        """The field's value; its lines joined with a comma."""
        wanted = name.lower().encode()
        values = [value for key, value in self.headers if key.lower() == wanted]
        return b", ".join(values).decode("utf-8", "surrogateescape") if values else None


@dataclass(slots=True)
class Call:
    """A request on its way to its handler. `segments` are the raw path's, without empty ones and the version."""

    request: web.BaseRequest
    record: Recorded
    body: bytes
    version: int
    segments: list[str]
    path: str
    query: dict[str, str]
    base: str
    user: User | None = None
    ids: list[str] = field(default_factory=list)

    @property
    def who(self) -> User:
        """The user; handlers that need none do not ask."""
        if self.user is None:
            raise RuntimeError("an anonymous call has no user")
        return self.user


def parse(request: web.BaseRequest, record: Recorded, body: bytes) -> Call:
    """The call: its version is 0 when the path names none."""
    path, _, query = request.raw_path.partition("?")
    segments = [segment for segment in path.split("/") if segment]
    version = re.fullmatch(r"v(\d{1,4})", segments[0], re.IGNORECASE) if segments else None
    number = int(version[1]) if version else 0
    pairs = {name.lower(): value for name, value in parse_qsl(query, keep_blank_values=True)}
    base = f"{request.scheme}://{request.headers.get('Host', 'localhost')}" if 0 < number <= 5 else ""
    return Call(request, record, body, number, segments[1:] if version else segments, path, pairs, base)


def error(version: int, status: int, message: str, code: str | None = None) -> Answer:
    """RESTExceptionInfo of that version. v7 knows but one errorCode, for a fault of its own: left out."""
    document: dict[str, object] = {"message": message}
    if version >= 8:
        document |= {"errorCode": code or _CODES.get(status, "HttpError"), "stackTrace": None}
    return json_answer(status, document)


#: How a rejected token is answered: no body at all (docs/upstream.md §3).
UNAUTHORIZED = Answer(401, b"", "", (("WWW-Authenticate", "Bearer"),))


def not_found(call: Call) -> Answer:
    """404 in the version's shape."""
    return error(call.version, 404, f"The resource {call.path} was not found")


def form(call: Call) -> Mapping[str, str]:
    """The body's members as strings, from a form (the default, as curl -d sends it) or JSON. Raises ValueError."""
    if "json" not in call.request.headers.get("Content-Type", ""):
        fields = (pair.partition(b"=") for pair in call.body.split(b"&") if pair)
        return {unquote_plus(name.decode()): unquote_plus(value.decode()) for name, _, value in fields}
    raw = json.loads(call.body)
    if not isinstance(raw, dict):
        raise ValueError("the body is not a JSON object")  # noqa: TRY004  # bad input is one kind of error here
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in raw.items()}

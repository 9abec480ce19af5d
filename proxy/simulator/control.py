"""The control endpoint `/_control`, for tests in another process. It needs no credentials.

GET     /_control                     state: requests, generations, deliveries and faults
POST    /_control/faults              add a fault (a JSON object, see `faults.Fault`) or a list
PUT     /_control/faults              replace all faults with a fault or a list
DELETE  /_control/faults              remove all faults
POST    /_control/release             resume what `hold` and endless `stall_at` faults suspend
POST    /_control/tokens/expire       expire all access tokens, or those of ?user=
POST    /_control/sessions/{id}/stop  stop the restore session
DELETE  /_control/sessions/{id}       remove the restore session
"""

from __future__ import annotations

import json
from collections import Counter, deque
from dataclasses import asdict
from typing import Any, Protocol

from aiohttp import web

from proxy.simulator.calls import RecordedRequest
from proxy.simulator.faults import Fault, Faults, parse
from proxy.simulator.responses import Response, json_response
from proxy.simulator.sessions import Sessions
from proxy.simulator.tokens import Tokens
from proxy.simulator.transfer import Delivery

_PREFIX = "/_control"


class Controllable(Protocol):
    """The parts of a simulator that the control endpoint reads and changes."""

    @property
    def requests(self) -> deque[RecordedRequest]:
        """The recorded requests, oldest first."""

    @property
    def generations(self) -> Counter[str]:
        """The number of generations started, by raw path."""

    @property
    def deliveries(self) -> deque[Delivery]:
        """One entry per export request, oldest first."""

    @property
    def faults(self) -> Faults:
        """The active faults."""

    @property
    def tokens(self) -> Tokens:
        """The issued tokens."""

    @property
    def sessions(self) -> Sessions:
        """The restore sessions."""

    def release(self) -> None:
        """Resume everything that a fault suspends."""


def matches(request: web.BaseRequest) -> bool:
    """Return whether the request is for the control endpoint."""
    path = request.raw_path.partition("?")[0]
    return path == _PREFIX or path.startswith(_PREFIX + "/")


def handle(simulator: Controllable, request: web.BaseRequest, body: bytes) -> Response:
    """Carry out a request to the control endpoint and return the response."""
    path = request.raw_path.partition("?")[0].removeprefix(_PREFIX).strip("/")
    match (request.method, *path.split("/")):
        case ("GET", ""):
            return json_response(200, _state(simulator))
        case ("POST" | "PUT" | "DELETE", "faults"):
            return _change_faults(simulator.faults, request.method, body)
        case ("POST", "release"):
            simulator.release()
        case ("POST", "tokens", "expire"):
            simulator.tokens.expire(user=request.query.get("user"))
        case ("POST", "sessions", id, "stop") if session := simulator.sessions.get(id):
            simulator.sessions.stop(session)
        case ("DELETE", "sessions", id) if simulator.sessions.remove(id):
            pass
        case _:
            message = f"no such control endpoint: {request.method} {request.raw_path}"
            return json_response(404, {"message": message})
    return Response(204, b"", "")


def _change_faults(faults: Faults, method: str, body: bytes) -> Response:
    try:
        added = [] if method == "DELETE" else _parse_faults(body)
    except ValueError as error:
        return json_response(400, {"message": str(error)})
    if method != "POST":
        faults.clear()
    for fault in added:
        faults.add(fault)
    return json_response(201 if added else 200, [_without_nulls(fault) for fault in faults])


def _parse_faults(body: bytes) -> list[Fault]:
    raw = json.loads(body)
    return [parse(one) for one in (raw if isinstance(raw, list) else [raw])]


def _without_nulls(fault: Fault) -> dict[str, Any]:
    return {name: value for name, value in asdict(fault).items() if value is not None}


def _state(simulator: Controllable) -> dict[str, Any]:
    return {
        "requests": [
            {
                "method": request.method,
                "target": request.target,
                "length": request.length,
                "sha256": request.sha256,
                "status": request.status,
            }
            for request in simulator.requests
        ],
        "generations": dict(simulator.generations),
        "deliveries": [asdict(delivery) for delivery in simulator.deliveries],
        "faults": [_without_nulls(fault) for fault in simulator.faults],
    }

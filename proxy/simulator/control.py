"""The control endpoint `/_control/…`: what a test in another process may ask of the stand-in. No credentials needed.

GET     /_control                    what it has seen: requests, generations, deliveries, faults
POST    /_control/faults             add a fault (a JSON object, see `faults.Fault`) or a list of them
PUT     /_control/faults             replace all faults by a list (or an object)
DELETE  /_control/faults             behave
POST    /_control/release            let go on what `hold` and `stall_at` stopped
POST    /_control/tokens/expire      expire all access tokens, or those of ?user=
POST    /_control/sessions/{id}/stop
DELETE  /_control/sessions/{id}      forget the session
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aiohttp import web

from proxy.simulator.faults import Fault, parse
from proxy.simulator.wire import Answer, json_answer

if TYPE_CHECKING:
    from proxy.simulator.app import Simulator

_PREFIX = "/_control"


def owns(request: web.BaseRequest) -> bool:
    """True for requests to the control endpoint."""
    path = request.raw_path.partition("?")[0]
    return path == _PREFIX or path.startswith(_PREFIX + "/")


def answer(simulator: Simulator, request: web.BaseRequest, body: bytes) -> Answer:
    """Do what the request wants."""
    path = request.raw_path.partition("?")[0].removeprefix(_PREFIX).strip("/")
    match (request.method, *path.split("/")):
        case ("GET", ""):
            return json_answer(200, _state(simulator))
        case ("POST" | "PUT" | "DELETE", "faults"):
            return _faults(simulator, request.method, body)
        case ("POST", "release"):
            simulator.release()
        case ("POST", "tokens", "expire"):
            simulator.tokens.expire(user=request.query.get("user"))
        case ("POST", "sessions", id, "stop") if session := simulator.sessions.get(id):
            simulator.sessions.stop(session)
        case ("DELETE", "sessions", id) if simulator.sessions.remove(id):
            pass
        case _:
            return json_answer(404, {"message": f"there is no {request.method} {request.raw_path}"})
    return Answer(204, b"", "")


def _faults(simulator: Simulator, method: str, body: bytes) -> Answer:
    try:
        wanted = [] if method == "DELETE" else _parse(body)
    except ValueError as why:
        return json_answer(400, {"message": str(why)})
    if method != "POST":
        simulator.faults.clear()
    for fault in wanted:
        simulator.faults.add(fault)
    return json_answer(201 if wanted else 200, [_brief(fault) for fault in simulator.faults])


def _parse(body: bytes) -> list[Fault]:
    raw = json.loads(body)
    return [parse(one) for one in (raw if isinstance(raw, list) else [raw])]


def _brief(fault: Fault) -> dict[str, Any]:
    return {name: value for name, value in asdict(fault).items() if value is not None}


def _state(simulator: Simulator) -> dict[str, Any]:
    return {
        "requests": [
            {
                "method": one.method,
                "target": one.target,
                "length": one.length,
                "sha256": one.sha256,
                "status": one.status,
            }
            for one in simulator.requests
        ],
        "generations": dict(simulator.generations),
        "deliveries": [asdict(one) for one in simulator.deliveries],
        "faults": [_brief(fault) for fault in simulator.faults],
    }

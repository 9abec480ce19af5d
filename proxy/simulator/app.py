"""The stand-in itself: a server that reads requests, misbehaves if told to, and otherwise answers as VB365 does."""

from __future__ import annotations

import asyncio
import hashlib
import ssl as tls
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from aiohttp import web

from proxy.simulator import catalog, control, operations
from proxy.simulator.api import Api, Refusal
from proxy.simulator.bell import Bell, Gate
from proxy.simulator.calls import UNAUTHORIZED, Call, Recorded, not_found, parse
from proxy.simulator.content import Content
from proxy.simulator.exports import Exports
from proxy.simulator.faults import Effects, Fault, Faults
from proxy.simulator.sessions import Session, Sessions
from proxy.simulator.settings import SimulatorSettings
from proxy.simulator.tokens import Tokens
from proxy.simulator.transfer import Delivery
from proxy.simulator.wire import Answer, Wire, Written, altered

_KEPT_BODY = 64 * 1024
_FIELD_LIMIT = 1024 * 1024


class Simulator:
    """A VB365 stand-in. Nothing is shared between two of them; `now` gives Unix seconds.

    For tests: `requests` (newest last), `generations`, `deliveries`, `faults`, `tokens`, `sessions`, and `until` to
    wait for any of it to change.
    """

    def __init__(self, settings: SimulatorSettings | None = None, *, now: Callable[[], float] = time.time) -> None:
        self.settings = settings or SimulatorSettings()
        self._now = now
        self._bell = Bell()
        self._gate = Gate(self._bell)
        self.requests: deque[Recorded] = deque(maxlen=self.settings.records)
        self.faults = Faults()
        self.tokens = Tokens(self.settings, now)
        self.sessions = Sessions(self.settings, now, self._bell)
        self.exports = Exports(self.settings, self.sessions, self._bell, self._gate)
        self._api = Api(self.settings, self.tokens, self.sessions, self._bell)
        self._http: web.Server | None = None
        self._listener: asyncio.Server | None = None
        self._tls: tls.SSLContext | None = None
        self._host, self.port = "127.0.0.1", 0

    # -- its life -----------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http{'s' if self._tls else ''}://{host}:{self.port}"

    async def start(self, host: str = "127.0.0.1", port: int = 0, ssl: tls.SSLContext | None = None) -> None:
        """Listen; port 0 takes any free one. Raises OSError."""
        self._host, self._tls = host, ssl
        self._http = web.Server(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            max_line_size=_FIELD_LIMIT,
            max_field_size=_FIELD_LIMIT,
            max_headers=10_000,
        )
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._http, host, port, ssl=ssl, backlog=4096)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening, drop every connection, end every generation. Idempotent."""
        listener, http, self._listener, self._http = self._listener, self._http, None, None
        if listener is None or http is None:
            return
        listener.close()
        _abort(http)
        await http.shutdown(5.0)
        await self.exports.stop()

    async def restart(self, *, keep_files: bool = True) -> None:
        """As if the service were restarted: connections and generations are lost; port, tokens and sessions stay, and
        so do the generated files if `keep_files`."""
        await self.stop()
        if not keep_files:
            self.exports.forget_files()
        await self.start(self._host, self.port, self._tls)

    def drop_connections(self) -> None:
        """Reset every connection, whatever is on it."""
        if self._http is not None:
            _abort(self._http)

    # -- for tests ----------------------------------------------------------------------------------------------------

    @property
    def generations(self) -> Counter[str]:
        """How many generations were started, by raw path."""
        return self.exports.generations

    @property
    def deliveries(self) -> deque[Delivery]:
        """Every export request and what went out for it."""
        return self.exports.deliveries

    def fault(self, **fields: Any) -> None:
        """Add a `Fault`: `sim.fault(path="exportToPst", count=1, cut_at=1000)`."""
        self.faults.add(Fault(**fields))

    def release(self) -> None:
        """Let everything go on that a `hold` or an endless `stall_at` stopped."""
        self._gate.release()

    @property
    def held(self) -> int:
        """How many generations, answers and transfers a `hold` or an endless `stall_at` stops at the moment."""
        return self._gate.held

    async def until(self, predicate: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait for a change of the stand-in's state to make the predicate true. Raises TimeoutError."""
        if not await self._bell.until(predicate, timeout):
            raise TimeoutError("the stand-in did not get there")

    def login(self, user: str = "alice") -> dict[str, str]:
        """The header fields of that user's requests, with a token of its own."""
        return {"Authorization": f"Bearer {self.tokens.issue(user)}"}

    def open_session(self, user: str = "alice", type: str = "Vex") -> Session:
        """A restore session of that user."""
        return self.sessions.open(self.settings.user(user), type)

    def export_paths(self, session: Session, version: int = 8) -> list[str]:
        """The paths of that version's 29 exports in this session, with ids that exist."""
        tenant, count = session.user.tenant, self.settings.objects
        return [
            f"/v{version}/RestoreSessions/{session.id}/{catalog.fill(operation.template, tenant, count)}"
            for operation in operations.OPERATIONS
            if version in operation.versions
        ]

    def content(self, path: str) -> Content:
        """The file last generated at that raw path. Raises KeyError."""
        return self.exports.contents[path]

    # -- requests -----------------------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        wire = Wire(request)
        try:
            await self._serve(request, wire)
        except (ConnectionError, web.RequestPayloadError):  # the client is gone, or its body is malformed
            wire.keep_alive = False
        return Written(wire.keep_alive)

    async def _serve(self, request: web.BaseRequest, wire: Wire) -> None:
        record = Recorded(request.method, request.raw_path, tuple(request.raw_headers), self._now())
        if not control.owns(request):
            self.requests.append(record)
            self._bell.ring()
        body = await _read(request, record, wire)
        self._bell.ring()
        if control.owns(request):
            told = control.answer(self, request, body)
            await wire.send(told, told.fields)
            return
        call = parse(request, record, body)
        fx = self.faults.take(record.method, record.target)
        if await self._misbehave(call, wire, fx):
            return
        answer = await self._answer(call, wire, fx)
        if answer is not None:
            record.status = answer.status
            await wire.send(answer, altered(answer.fields, fx.headers, fx.set_cookies))
            self._bell.ring()

    async def _misbehave(self, call: Call, wire: Wire, fx: Effects) -> bool:
        """Do what the faults want before the true answer; True if there will be none."""
        if fx.expire_token:
            self.tokens.expire(authorization=call.request.headers.get("Authorization", ""))
        if fx.latency:
            await asyncio.sleep(fx.latency)
        if fx.hold and self._operation(call) is None:
            await self._gate.wait()
        if fx.hang:
            await asyncio.Event().wait()
        if fx.reset:
            await wire.reset()
            return True
        if fx.malformed is not None:
            wire.keep_alive = False
            await wire.write(fx.malformed.encode("latin-1"))
            return True
        if fx.status is not None:
            kind = fx.content_type if fx.content_type is not None else "application/json; charset=utf-8"
            refusal = Answer(fx.status, (fx.body or "").encode(), kind if fx.body else "")
            call.record.status = fx.status
            await wire.send(refusal, altered(refusal.fields, fx.headers, fx.set_cookies))
            return True
        return False

    async def _answer(self, call: Call, wire: Wire, fx: Effects) -> Answer | None:
        """The true answer; None once it is on the wire."""
        if call.version not in self.settings.versions:
            return not_found(call)
        operation, route = self._operation(call), self._api.route(call)
        if operation is None and route is None:
            return not_found(call)
        call.user = self.tokens.user(call.request.headers.get("Authorization", ""), _cookies(call.request))
        if call.user is None and not (route and route.anonymous):
            return UNAUTHORIZED
        try:
            if operation is None:
                return await route.handler(self._api, call) if route else None
            session = self._export_session(call)
        except Refusal as refusal:
            return refusal.answer
        await self.exports.serve(call, wire, operation, session, fx)
        return None

    def _operation(self, call: Call) -> operations.Operation | None:
        head = [segment.lower() for segment in call.segments[:2]]
        if call.request.method != "POST":
            return None
        if head[:1] == ["reports"] and len(call.segments) == 2 and call.version >= 6:
            return operations.report(call.version, head[1])
        return operations.find(call.version, call.segments[2:]) if head[:1] == ["restoresessions"] else None

    def _export_session(self, call: Call) -> Session | None:
        """The session an export runs in, its parent resource checked; None for a report. Raises `Refusal`."""
        if call.segments[0].lower() == "reports":
            return None
        call.ids = [call.segments[1]]
        session = self._api.working_session(call)
        self._api.place(call, session, call.segments[3:-1])
        return session


def _abort(http: web.Server) -> None:
    for connection in http.connections:
        if connection.transport is not None:
            connection.transport.abort()


async def _read(request: web.BaseRequest, record: Recorded, wire: Wire) -> bytes:
    """Read the body, at most its first 64 KiB kept on record."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await wire.interim()
    digest, kept = hashlib.sha256(), bytearray()
    async for chunk in request.content.iter_any():
        digest.update(chunk)
        record.length += len(chunk)
        kept += chunk[: max(0, _KEPT_BODY - len(kept))]
    record.sha256, record.body, record.complete = digest.hexdigest(), bytes(kept), True
    return record.body


def _cookies(request: web.BaseRequest) -> dict[str, str]:
    pairs = (pair.strip().partition("=") for line in request.headers.getall("Cookie", []) for pair in line.split(";"))
    return {name: value for name, _, value in pairs}


async def serve(
    settings: SimulatorSettings | None = None,
    host: str = "127.0.0.1",
    port: int = 4443,
    ssl: tls.SSLContext | None = None,
    *,
    ready: Callable[[Simulator], None] | None = None,
) -> None:
    """Run a stand-in until cancelled; `ready` is called once it listens. Raises OSError."""
    simulator = Simulator(settings)
    await simulator.start(host, port, ssl)
    try:
        if ready is not None:
            ready(simulator)
        await asyncio.Event().wait()
    finally:
        await simulator.stop()

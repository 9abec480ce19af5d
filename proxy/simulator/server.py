"""The simulator's HTTP server: it records requests, applies faults and dispatches to the API."""

from __future__ import annotations

import asyncio
import hashlib
import ssl as tls
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import web

from proxy.simulator import catalog, control, operations
from proxy.simulator.api import Api, HttpError
from proxy.simulator.calls import UNAUTHORIZED, Call, RecordedRequest, not_found, parse
from proxy.simulator.content import Content
from proxy.simulator.exports import Exports
from proxy.simulator.faults import Effects, Fault, Faults
from proxy.simulator.responses import JSON, Response, ResponseWriter, SentResponse, with_changes
from proxy.simulator.sessions import Session, Sessions
from proxy.simulator.settings import SimulatorSettings
from proxy.simulator.synchronization import HoldPoint, Notifier
from proxy.simulator.tokens import Tokens
from proxy.simulator.transfer import Delivery

#: How much of a request body is recorded, in bytes.
_RECORDED_BODY = 64 * 1024
#: Well above the field sizes and counts that the proxy must pass (CONTRACT §12).
_MAX_FIELD_SIZE = 1024 * 1024
_MAX_FIELDS = 10_000
_BACKLOG = 4096
#: How long `stop` waits for request handlers, in seconds.
_SHUTDOWN_TIMEOUT = 5.0


class Simulator:
    """A VB365 REST API server that shares no state with other instances.

    `now` returns the time in Unix seconds. `log` gets each request when it has ended. Tests read
    `requests` (oldest first), `generations`, `deliveries`, `faults`, `tokens` and `sessions`, and
    wait for a change of them with `until`.
    """

    def __init__(
        self,
        settings: SimulatorSettings | None = None,
        *,
        now: Callable[[], float] = time.time,
        log: Callable[[RecordedRequest], None] | None = None,
    ) -> None:
        self.settings = settings or SimulatorSettings()
        self._now = now
        self._log = log
        self._notifier = Notifier()
        self._hold_point = HoldPoint(self._notifier)
        self.requests: deque[RecordedRequest] = deque(maxlen=self.settings.records)
        self.faults = Faults()
        self.tokens = Tokens(self.settings, now)
        self.sessions = Sessions(self.settings, now, self._notifier)
        self.exports = Exports(self.settings, self.sessions, self._notifier, self._hold_point)
        self._api = Api(self.settings, self.tokens, self.sessions, self._notifier)
        self._http: web.Server | None = None
        self._listener: asyncio.Server | None = None
        self._tls: tls.SSLContext | None = None
        self._host, self.port = "127.0.0.1", 0

    # Life cycle

    @property
    def url(self) -> str:
        """The base URL, without a trailing slash."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http{'s' if self._tls else ''}://{host}:{self.port}"

    async def start(
        self, host: str = "127.0.0.1", port: int = 0, ssl: tls.SSLContext | None = None
    ) -> None:
        """Listen on this address; port 0 selects a free port. Raises OSError."""
        self._host, self._tls = host, ssl
        self._http = web.Server(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            max_line_size=_MAX_FIELD_SIZE,
            max_field_size=_MAX_FIELD_SIZE,
            max_headers=_MAX_FIELDS,
        )
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._http, host, port, ssl=ssl, backlog=_BACKLOG)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening, abort all connections and cancel all generations. Idempotent."""
        listener, http, self._listener, self._http = self._listener, self._http, None, None
        if listener is None or http is None:
            return
        listener.close()
        _abort_connections(http)
        await http.shutdown(_SHUTDOWN_TIMEOUT)
        await self.exports.stop()

    async def restart(self, *, keep_files: bool = True) -> None:
        """Simulate a restart of the VB365 service.

        Connections and running generations are lost. The port, tokens and sessions are kept, and
        so are the generated files unless `keep_files` is False.
        """
        await self.stop()
        if not keep_files:
            self.exports.forget_files()
        await self.start(self._host, self.port, self._tls)

    def drop_connections(self) -> None:
        """Abort all connections."""
        if self._http is not None:
            _abort_connections(self._http)

    # State and control, for tests

    @property
    def generations(self) -> Counter[str]:
        """The number of generations started, by raw path."""
        return self.exports.generations

    @property
    def deliveries(self) -> deque[Delivery]:
        """One entry per export request, oldest first."""
        return self.exports.deliveries

    def fault(self, **fields: Any) -> None:
        """Add a `Fault`, e.g. `sim.fault(path="exportToPst", count=1, cut_at=1000)`."""
        self.faults.add(Fault(**fields))

    def release(self) -> None:
        """Resume everything that a `hold` or an endless `stall_at` fault suspends."""
        self._hold_point.release()

    @property
    def held(self) -> int:
        """The number of generations, responses and transfers that a fault suspends now."""
        return self._hold_point.held

    async def until(self, predicate: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait up to `timeout` seconds until the predicate is true. Raises TimeoutError.

        The predicate is evaluated whenever the simulator's state changes.
        """
        if not await self._notifier.wait_for(predicate, timeout):
            raise TimeoutError("the simulator did not reach the expected state in time")

    def login(self, user: str = "alice") -> dict[str, str]:
        """Return the Authorization field of the user, with a new token."""
        return {"Authorization": f"Bearer {self.tokens.issue(user)}"}

    def open_session(self, user: str = "alice", type: str = "Vex") -> Session:
        """Start a restore session of the user."""
        return self.sessions.open(self.settings.user(user), type)

    def export_paths(self, session: Session, version: int = 8) -> list[str]:
        """Return the paths of the 29 exports of that API version, with existing object ids."""
        tenant, count = session.tenant, self.settings.objects
        base = f"/v{version}/RestoreSessions/{session.id}"
        return [
            f"{base}/{catalog.fill(operation.template, tenant, count)}"
            for operation in operations.OPERATIONS
            if version in operation.versions
        ]

    def content(self, path: str) -> Content:
        """Return the file that was last generated for that raw path. Raises KeyError."""
        return self.exports.contents[path]

    # Requests

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        writer = ResponseWriter(request)
        raw_headers = tuple(request.raw_headers)
        record = RecordedRequest(request.method, request.raw_path, raw_headers, self._now())
        began = time.monotonic()
        try:
            await self._serve(request, record, writer)
        except (ConnectionError, web.RequestPayloadError):  # disconnected, or a malformed body
            writer.keep_alive = False
        finally:
            record.sent, record.seconds = writer.sent, time.monotonic() - began
            if self._log is not None:
                self._log(record)
            self._notifier.notify()
        return SentResponse(writer.keep_alive)

    async def _serve(
        self, request: web.BaseRequest, record: RecordedRequest, writer: ResponseWriter
    ) -> None:
        for_control = control.matches(request)
        if not for_control:
            self.requests.append(record)
            self._notifier.notify()
        body = await _read_body(request, record, writer)
        self._notifier.notify()
        if for_control:
            control_response = control.handle(self, request, body)
            record.status = control_response.status
            await writer.write_response(control_response, control_response.fields)
            return
        call = parse(request, record, body)
        effects = self.faults.take(record.method, record.target)
        record.faults = effects.names
        if await self._apply_faults(call, writer, effects):
            return
        response = await self._respond(call, writer, effects)
        if response is not None:
            record.status = response.status
            fields = with_changes(response.fields, effects.headers, effects.set_cookies)
            await writer.write_response(response, fields)
            self._notifier.notify()

    async def _apply_faults(self, call: Call, writer: ResponseWriter, effects: Effects) -> bool:
        """Apply the effects that come before the normal response.

        Returns True if they replace the normal response.
        """
        if effects.expire_token:
            self.tokens.expire(authorization=call.request.headers.get("Authorization", ""))
        if effects.latency:
            await asyncio.sleep(effects.latency)
        if effects.hold and self._operation(call) is None:
            await self._hold_point.wait()
        if effects.hang:
            await asyncio.Event().wait()
        if effects.reset:
            await writer.reset()
            return True
        if effects.malformed is not None:
            writer.keep_alive = False
            await writer.write(effects.malformed.encode("latin-1"))
            return True
        if effects.status is not None:
            content_type = JSON if effects.content_type is None else effects.content_type
            body = (effects.body or "").encode()
            response = Response(effects.status, body, content_type if body else "")
            call.record.status = effects.status
            fields = with_changes(response.fields, effects.headers, effects.set_cookies)
            await writer.write_response(response, fields)
            return True
        return False

    async def _respond(
        self, call: Call, writer: ResponseWriter, effects: Effects
    ) -> Response | None:
        """Return the normal response, or None after an export has written its own."""
        if call.version not in self.settings.versions:
            return not_found(call)
        operation, route = self._operation(call), self._api.route(call)
        if operation is None and route is None:
            return not_found(call)
        authorization = call.request.headers.get("Authorization", "")
        call.user = self.tokens.user(authorization, _cookies(call.request))
        call.record.user = call.user.name if call.user else ""
        if call.user is None and not (route and route.anonymous):
            return UNAUTHORIZED
        try:
            if operation is None:
                return await route.handler(self._api, call) if route else None
            session = self._export_session(call)
        except HttpError as error:
            return error.response
        await self.exports.serve(call, writer, operation, session, effects)
        return None

    def _operation(self, call: Call) -> operations.Operation | None:
        """Return the export or report that the call requests; None for any other resource."""
        collection = call.segments[0].lower() if call.segments else ""
        if call.request.method != "POST":
            return None
        if collection == "reports" and len(call.segments) == 2 and call.version >= 6:
            return operations.find_report(call.version, call.segments[1].lower())
        if collection == "restoresessions":
            return operations.find(call.version, call.segments[2:])
        return None

    def _export_session(self, call: Call) -> Session | None:
        """Return the restore session of an export; None for a report.

        Raises `HttpError` if the session or the export's parent resource is not available.
        """
        if call.segments[0].lower() == "reports":
            return None
        call.ids = [call.segments[1]]
        session = self._api.working_session(call)
        self._api.resource(call, session, call.segments[3:-1])
        return session


def _abort_connections(http: web.Server) -> None:
    for connection in http.connections:
        if connection.transport is not None:
            connection.transport.abort()


async def _read_body(
    request: web.BaseRequest, record: RecordedRequest, writer: ResponseWriter
) -> bytes:
    """Read the whole body, record it, and return its first 64 KiB."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await writer.write_continue()
    digest, kept = hashlib.sha256(), bytearray()
    async for chunk in request.content.iter_any():
        digest.update(chunk)
        record.length += len(chunk)
        kept += chunk[: max(0, _RECORDED_BODY - len(kept))]
    record.sha256, record.body, record.complete = digest.hexdigest(), bytes(kept), True
    return record.body


def _cookies(request: web.BaseRequest) -> dict[str, str]:
    lines = request.headers.getall("Cookie", [])
    pairs = (pair.strip().partition("=") for line in lines for pair in line.split(";"))
    return {name: value for name, _, value in pairs}


async def serve(
    settings: SimulatorSettings | None = None,
    host: str = "127.0.0.1",
    port: int = 4443,
    ssl: tls.SSLContext | None = None,
    *,
    ready: Callable[[Simulator], None] | None = None,
    faults: Iterable[Fault] = (),
    log: Callable[[RecordedRequest], None] | None = None,
) -> None:
    """Run a simulator with these faults until cancelled.

    `ready` is called when it listens, `log` with each request that has ended. Raises OSError if
    it cannot listen.
    """
    simulator = Simulator(settings, log=log)
    for fault in faults:
        simulator.faults.add(fault)
    await simulator.start(host, port, ssl)
    try:
        if ready is not None:
            ready(simulator)
        await asyncio.Event().wait()
    finally:
        await simulator.stop()

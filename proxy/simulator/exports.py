"""Export operations: generate a file, keep it in a temporary folder, and send it.

See docs/upstream.md §1.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter, OrderedDict, deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import partial

from proxy.simulator.calls import Call, error
from proxy.simulator.content import Content, Kind, make
from proxy.simulator.faults import Effects
from proxy.simulator.operations import Operation
from proxy.simulator.responses import Response, ResponseWriter, json_response, with_changes
from proxy.simulator.sessions import Event, Session, Sessions
from proxy.simulator.settings import SimulatorSettings
from proxy.simulator.synchronization import HoldPoint, Notifier
from proxy.simulator.transfer import (
    UNSATISFIABLE,
    BodyTruncated,
    Delivery,
    Transfer,
    byte_range,
    if_range,
)

_OUTLOOK_MISSING = (
    "To perform export to PST, 64-bit version of Microsoft Outlook 2013 or later must be installed"
)
_SESSION_STOPPED = "The restore session has been stopped"


@dataclass(slots=True, eq=False)
class Generation:
    """The generation of one file.

    `done` is set when it ends. `failure` is then the error response if it failed.
    """

    content: Content
    name: str
    session: Session | None
    event: Event | None
    failure: Response | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def session_is_working(self) -> bool:
        """Return False if the restore session is stopped; a report needs no session."""
        return self.session is None or self.session.working


class Exports:
    """The exports of one simulator. A generation continues after its client disconnects.

    `generations` counts the generations started and `contents` has the last file generated, both
    by raw path. `deliveries` has one entry per export request, oldest first.
    """

    def __init__(
        self,
        settings: SimulatorSettings,
        sessions: Sessions,
        notifier: Notifier,
        hold_point: HoldPoint,
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._notifier = notifier
        self._hold_point = hold_point
        self._files: OrderedDict[str, Generation] = OrderedDict()
        self._running: dict[asyncio.Task[None], Generation] = {}
        self.generations: Counter[str] = Counter()
        self.contents: dict[str, Content] = {}
        self.deliveries: deque[Delivery] = deque(maxlen=settings.records)

    async def serve(
        self,
        call: Call,
        writer: ResponseWriter,
        operation: Operation,
        session: Session | None,
        effects: Effects,
    ) -> None:
        """Respond to an export request. Raises `ConnectionError` if the client disconnects."""
        delivery = Delivery(call.path)
        self.deliveries.append(delivery)
        try:
            if effects.accepted:
                await self._send_without_file(call, writer, _accepted(call), delivery, effects)
                return
            generation = self._find_or_start(call, operation, session, effects)
            await generation.done.wait()
            await self._send(call, writer, generation, delivery, effects)
        except BodyTruncated:
            delivery.outcome = "cut"
        except BaseException:
            delivery.outcome = "disconnected"
            raise
        finally:
            call.record.outcome = delivery.outcome
            self._notifier.notify()

    async def stop(self) -> None:
        """Cancel all running generations and remove their files."""
        running = dict(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for generation in running.values():
            if not generation.done.is_set():
                self._finish_event(generation, "Failed")
        finished = [(key, made) for key, made in self._files.items() if made.done.is_set()]
        self._files = OrderedDict(finished)

    def forget_files(self) -> None:
        """Empty the temporary folder."""
        self._files.clear()

    def _find_or_start(
        self, call: Call, operation: Operation, session: Session | None, effects: Effects
    ) -> Generation:
        """Return the generation that serves this request.

        A request with Range uses the file of an identical earlier request, even if that file is
        still being generated. A request without Range starts another generation, because a second
        POST to VB365 may do so (docs/upstream.md §1).
        """
        query = sorted(call.query.items())
        identity = f"{call.caller.name} {call.path.lower()} {query} {call.record.sha256}"
        key = hashlib.sha256(identity.encode()).hexdigest()
        known = self._files.get(key)
        if known is not None and known.failure is None and "Range" in call.request.headers:
            return known
        started = self._start(call, operation, session, effects)
        self._files[key] = started
        self._files.move_to_end(key)
        if len(self._files) > self._settings.files:
            self._files.popitem(last=False)
        return started

    def _start(
        self, call: Call, operation: Operation, session: Session | None, effects: Effects
    ) -> Generation:
        size = self._settings.size if effects.size is None else effects.size
        seed = self._settings.seed if effects.seed is None else effects.seed
        kind, members = operation.choose(call.body, size)
        if effects.kind:
            kind = Kind(effects.kind)
        content = make(kind, size, seed, effects.members or members)
        self.generations[call.path] += 1
        self.contents[call.path] = content
        event = None
        if session:
            event = self._sessions.begin(session, operation.event, operation.title, call.path)
        name = f"{operation.title}.{content.kind.rpartition('.')[2]}"
        generation = Generation(content, name, session, event)
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._generate(generation, call.version, effects))
        self._running[task] = generation
        task.add_done_callback(self._running.pop)
        return generation

    async def _generate(self, generation: Generation, version: int, effects: Effects) -> None:
        await self._wait_for_generation(generation.session, effects)
        if not generation.session_is_working():
            generation.failure = error(version, 500, _SESSION_STOPPED)
        elif effects.outlook_missing:
            generation.failure = error(version, 500, _OUTLOOK_MISSING)
        generation.done.set()
        self._finish_event(
            generation, effects.event or ("Failed" if generation.failure else "Success")
        )
        self._notifier.notify()

    def _finish_event(self, generation: Generation, status: str) -> None:
        """Set the final status of the session's event."""
        session, event = generation.session, generation.event
        if session and event:
            size = None if generation.failure else generation.content.size
            self._sessions.finish(session, event, status, f"{event.title}: {status}", size)

    async def _wait_for_generation(self, session: Session | None, effects: Effects) -> None:
        """Wait for the configured generation time, or until the session is stopped."""
        seconds = self._settings.generate if effects.generate is None else effects.generate
        stopped = session.stopped if session else asyncio.Event()
        if effects.stop_session and session:
            await asyncio.sleep(seconds / 2)
            self._sessions.stop(session)
        if effects.hold:
            await _wait_for_first(stopped.wait(), self._hold_point.wait())
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stopped.wait()

    async def _send_without_file(
        self,
        call: Call,
        writer: ResponseWriter,
        response: Response,
        delivery: Delivery,
        effects: Effects,
    ) -> None:
        delivery.status = call.record.status = response.status
        fields = with_changes(response.fields, effects.headers, effects.set_cookies)
        await writer.write_response(response, fields)
        delivery.outcome = "refused"

    async def _send(
        self,
        call: Call,
        writer: ResponseWriter,
        generation: Generation,
        delivery: Delivery,
        effects: Effects,
    ) -> None:
        """Send the file, the requested range of it, or an error response."""
        size = generation.content.size
        headers = call.request.headers
        requested = None
        if not effects.ignore_range and if_range(headers.get("If-Range"), effects.etag):
            requested = byte_range(headers.get("Range"), size)
        failure = generation.failure
        if failure is None and requested == UNSATISFIABLE:
            tag = () if effects.etag is None else (("ETag", effects.etag),)
            failure = Response(416, b"", "", (("Content-Range", f"bytes */{size}"), *tag))
        if failure is not None:
            await self._send_without_file(call, writer, failure, delivery, effects)
            return
        delivery.status = call.record.status = 206 if requested else 200
        delivery.start, stop = requested or (0, size)
        transfer = Transfer(
            writer=writer,
            delivery=delivery,
            content=generation.content,
            name=generation.name,
            stop=stop,
            effects=effects,
            rate=self._settings.rate if effects.rate is None else effects.rate,
            session_is_working=generation.session_is_working,
            stop_session=partial(self._stop_session, generation.session),
            wait_for_release=self._hold_point.wait,
        )
        await transfer.run()

    def _stop_session(self, session: Session | None) -> None:
        if session:
            self._sessions.stop(session)


def _accepted(call: Call) -> Response:
    location = f"/v{call.version}/RestoreSessions/tasks/1"
    return json_response(202, {"sessionId": "1"}, ("Location", location))


async def _wait_for_first(*waits: Coroutine[object, object, object]) -> None:
    """Return when the first of the coroutines returns; cancel the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()

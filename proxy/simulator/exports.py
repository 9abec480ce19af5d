"""Exports: generating a file, and keeping it in the temporary folder (docs/upstream.md §1)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter, OrderedDict, deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import partial

from proxy.simulator.bell import Bell, Gate
from proxy.simulator.calls import Call, error
from proxy.simulator.content import Content, Kind, make
from proxy.simulator.faults import Effects
from proxy.simulator.operations import Operation
from proxy.simulator.sessions import Event, Session, Sessions
from proxy.simulator.settings import SimulatorSettings
from proxy.simulator.transfer import UNSATISFIABLE, Cut, Delivery, Transfer, byte_range, if_range
from proxy.simulator.wire import Answer, Wire, altered, json_answer

OUTLOOK = "To perform export to PST, 64-bit version of Microsoft Outlook 2013 or later must be installed"


@dataclass(slots=True, eq=False)
class Generation:
    """The making of one file. `refusal` is the answer instead of it, if it failed."""

    content: Content
    name: str
    session: Session | None
    event: Event | None
    refusal: Answer | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def alive(self) -> bool:
        """False once the session it belongs to is stopped."""
        return self.session is None or self.session.working


class Exports:
    """The exports of one stand-in. Generations outlive the requests that started them.

    `generations` counts those started, `contents` holds the file of the last one, both by raw path; `deliveries` has
    every export request.
    """

    def __init__(self, settings: SimulatorSettings, sessions: Sessions, bell: Bell, gate: Gate) -> None:
        self._settings = settings
        self._sessions = sessions
        self._bell = bell
        self._gate = gate
        self._files: OrderedDict[str, Generation] = OrderedDict()
        self._running: dict[asyncio.Task[None], Generation] = {}
        self.generations: Counter[str] = Counter()
        self.contents: dict[str, Content] = {}
        self.deliveries: deque[Delivery] = deque(maxlen=settings.records)

    async def serve(self, call: Call, wire: Wire, operation: Operation, session: Session | None, fx: Effects) -> None:
        """Answer one export request. Raises `ConnectionError` when the client is gone."""
        delivery = Delivery(call.path)
        self.deliveries.append(delivery)
        try:
            if fx.accepted:
                await self._refuse(call, wire, _accepted(call), delivery, fx)
                return
            generation = self._file(call, operation, session, fx)
            await generation.done.wait()
            await self._answer(call, wire, generation, delivery, fx)
        except Cut:
            delivery.outcome = "cut"
        except BaseException:
            delivery.outcome = "disconnected"
            raise
        finally:
            self._bell.ring()

    async def stop(self) -> None:
        """End every generation that still runs; nothing of them stays in the temporary folder."""
        running = dict(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for generation in running.values():
            if not generation.done.is_set():
                self._record(generation, "Failed")
        self._files = OrderedDict((key, made) for key, made in self._files.items() if made.done.is_set())

    def forget_files(self) -> None:
        """Empty the temporary folder."""
        self._files.clear()

    def _file(self, call: Call, operation: Operation, session: Session | None, fx: Effects) -> Generation:
        """The file for this request. With Range an identical request's file serves, even one still in the making;
        without, it is made anew, as a blind second POST may do at U."""
        identity = f"{call.who.name} {call.path.lower()} {sorted(call.query.items())} {call.record.sha256}"
        key = hashlib.sha256(identity.encode()).hexdigest()
        known = self._files.get(key)
        if known is None or known.refusal is not None or "Range" not in call.request.headers:
            known = self._start(call, operation, session, fx)
            self._files[key] = known
            self._files.move_to_end(key)
            if len(self._files) > self._settings.files:
                self._files.popitem(last=False)
        return known

    def _start(self, call: Call, operation: Operation, session: Session | None, fx: Effects) -> Generation:
        size = self._settings.size if fx.size is None else fx.size
        seed = self._settings.seed if fx.seed is None else fx.seed
        kind, members = operation.choose(call.body, size)
        content = make(Kind(fx.kind) if fx.kind else kind, size, seed, fx.members or members)
        self.generations[call.path] += 1
        self.contents[call.path] = content
        event = self._sessions.begin(session, operation.event, operation.title, call.path) if session else None
        name = f"{operation.title}.{content.kind.rpartition('.')[2]}"
        generation = Generation(content, name, session, event)
        task = asyncio.get_running_loop().create_task(self._generate(generation, call.version, fx))
        self._running[task] = generation
        task.add_done_callback(self._running.pop)
        return generation

    async def _generate(self, generation: Generation, version: int, fx: Effects) -> None:
        await self._silence(generation.session, fx)
        if not generation.alive():
            generation.refusal = error(version, 500, "The restore session has been stopped")
        elif fx.outlook_missing:
            generation.refusal = error(version, 500, OUTLOOK)
        generation.done.set()
        self._record(generation, fx.event or ("Failed" if generation.refusal else "Success"))
        self._bell.ring()

    def _record(self, generation: Generation, status: str) -> None:
        """Give the session's event its outcome."""
        session, event = generation.session, generation.event
        if session and event:
            size = None if generation.refusal else generation.content.size
            self._sessions.finish(session, event, status, f"{event.title}: {status}", size)

    async def _silence(self, session: Session | None, fx: Effects) -> None:
        """The time it takes to generate; ends early when the session is stopped."""
        seconds = self._settings.generate if fx.generate is None else fx.generate
        stopped = session.stopped if session else asyncio.Event()
        if fx.stop_session and session:
            await asyncio.sleep(seconds / 2)
            self._sessions.stop(session)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if fx.hold else seconds):
                await _first(stopped.wait(), self._gate.wait()) if fx.hold else await stopped.wait()

    async def _refuse(self, call: Call, wire: Wire, answer: Answer, delivery: Delivery, fx: Effects) -> None:
        """Answer without a file."""
        delivery.status = call.record.status = answer.status
        await wire.send(answer, altered(answer.fields, fx.headers, fx.set_cookies))
        delivery.outcome = "refused"

    async def _answer(self, call: Call, wire: Wire, made: Generation, delivery: Delivery, fx: Effects) -> None:
        fits = if_range(call.request.headers.get("If-Range"), fx.etag)
        asked = (
            byte_range(call.request.headers.get("Range"), made.content.size) if fits and not fx.ignore_range else None
        )
        refusal = made.refusal
        if refusal is None and asked == UNSATISFIABLE:
            refusal = Answer(416, b"", "", (("Content-Range", f"bytes */{made.content.size}"),))
        if refusal is not None:
            await self._refuse(call, wire, refusal, delivery, fx)
            return
        delivery.status = call.record.status = 206 if asked else 200
        delivery.start, stop = asked or (0, made.content.size)
        rate = self._settings.rate if fx.rate is None else fx.rate
        halt = partial(self._halt, made.session)
        await Transfer(wire, delivery, made.content, made.name, stop, fx, rate, made.alive, halt, self._gate.wait).run()

    def _halt(self, session: Session | None) -> None:
        if session:
            self._sessions.stop(session)


def _accepted(call: Call) -> Answer:
    return json_answer(202, {"sessionId": "1"}, ("Location", f"/v{call.version}/RestoreSessions/tasks/1"))


async def _first(*waits: Coroutine[object, object, object]) -> None:
    """Return when the first of them does."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()

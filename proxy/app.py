"""The composition root: open the stores, connect the parts, listen, and stop in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import structlog
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy

from proxy import __version__
from proxy.admin import listener
from proxy.admin.listener import Admin
from proxy.admin.process import ProcessCounts, WorkerCounts
from proxy.admin.readings import Readings
from proxy.clock import SteadyClock
from proxy.config.settings import Settings
from proxy.downstream.duplex import Forwarder
from proxy.downstream.listener import Listener
from proxy.downstream.server import Server
from proxy.jobs.reconciler import Found
from proxy.jobs.runner import Runner
from proxy.net import certificate_watch
from proxy.net.budget import Budget
from proxy.net.seat import Handover, Seat
from proxy.net.tls import ServerCertificate, TlsError
from proxy.parts.backends import open_stores, unavailable
from proxy.parts.background import keep_running
from proxy.parts.clients import ClientParts, upstream_tls
from proxy.parts.exports import Parts
from proxy.parts.garbage import Garbage
from proxy.parts.memory import ClientMemory
from proxy.parts.start import Clock
from proxy.parts.start import StartFailed as StartFailed
from proxy.ports import StoreUnavailable
from proxy.ports.tracing import Tracing
from proxy.telemetry.environment import Telemetry
from proxy.upstream.watch import UpstreamWatch

if TYPE_CHECKING:
    from proxy.relay.handover import HandoverRelay
    from proxy.rescue.handover import HandoverRescuer
    from proxy.webhooks.delivery import WebhookDeliveries

log = structlog.get_logger(__name__)

#: Seconds that requests in flight have to finish after SIGTERM.
DRAIN_TIMEOUT = 30.0
#: Seconds after which the process ends although not everything is stopped and closed. Then it
#: still writes to the log; a service manager kills it ten seconds later (`TimeoutStopSec`).
STOP_TIMEOUT = DRAIN_TIMEOUT + 5.0


class Running:
    """A running proxy, made by `start`. It listens at `url` and `admin_url`."""

    def __init__(self, settings: Settings, clock: Clock, seat: Seat | None = None) -> None:
        self.settings = settings
        self._clock = clock
        self._seat = seat
        self.url = ""
        self.admin_url = ""
        #: What the start found: jobs, suspended jobs and free bytes. Empty if another process owns
        #: the jobs.
        self.found: dict[str, int] = {}
        self._status: Callable[[], str] = str
        self._closing = contextlib.AsyncExitStack()
        self._certificate: ServerCertificate | None = None

    @property
    def status(self) -> str:
        """The jobs and VB365 in one line, "" if another process owns the jobs."""
        return self._status()

    async def stop(self) -> None:
        """Let requests in flight finish for at most `DRAIN_TIMEOUT`, leave jobs resumable, and
        close the stores (CONTRACT §15 SIGTERM).
        """
        await self._closing.aclose()

    def reload_certificate(self) -> None:
        """Use the current certificate files for new connections (CONTRACT §15 SIGHUP)."""
        if self._certificate is not None:
            certificate_watch.reload(self._certificate, self._clock)

    async def open(self) -> None:
        """Listen. Raises `StartFailed`."""
        seat = self._seat
        if seat is None or seat.first or seat.handover is None:
            await self._open_exports()
        else:
            await self._open_clients_only(seat.handover)

    async def _open_exports(self) -> None:
        """Open the stores, reconcile them, start the runner, then listen."""
        stores = await open_stores(self.settings, self._closing, self._clock)
        memory = ClientMemory.of(self.settings, self._seat)
        parts = Parts(
            self.settings,
            jobs=stores.jobs,
            artifacts=stores.artifacts,
            key=stores.key,
            now=stores.now,
            shared=stores.shared,
            tracing=self._open_telemetry(),
            memory=memory,
        )
        for pool in parts.pools:
            self._closing.push_async_callback(pool.close)
        runner = parts.runner()
        try:
            found = await self._start_jobs(parts, runner)
            free, shortage = await stores.artifacts.free(), await runner.shortage()
        except StoreUnavailable as why:
            raise unavailable(self.settings, why) from why
        self.found = {"jobs": found.jobs, "suspended": found.suspended, "free": free}
        if shortage is not None:
            log.warning("not enough space for another export", reason=shortage)
        self._status = partial(_status_line, runner, parts.upstream_watch)
        self._closing.push_async_callback(parts.deliveries.flush)
        self._run_task(parts.deliveries.run)
        self._run_task(parts.sweeper(runner).run)
        for watch in parts.watches:
            self._run_task(watch)
        self._run_task(stores.notes.watch)
        if stores.clock is not None:
            self._run_task(stores.clock.watch)
        webhooks = parts.webhook_deliveries(runner, lambda: self.url)
        server = parts.server(runner)
        counts = self._count(parts.counts(runner, server))
        if self._seat is not None and not self._seat.first:
            self._run_task(Garbage(memory.heads, memory.bodies).run)
            await self._listen(server)
            self._deliver(webhooks)
            return
        self._run_task(parts.upstream_watch.run)
        operator = parts.admin(
            runner,
            lambda: stores.notes.text,
            webhooks=webhooks,
            counts=counts,
            certificate=self._certificate_end,
        )
        for run in operator.runs:
            self._run_task(run)
        admin = operator.admin
        self._run_task(Garbage(memory.heads, memory.bodies, admin.connections).run)
        await self._listen_admin(admin)
        await self._listen(server)
        self._deliver(webhooks)
        if self._seat is not None and self._seat.handover is not None:
            self._listen_to_workers(server, self._seat.handover)
        self._closing.callback(setattr, admin, "draining", True)

    def _deliver(self, webhooks: WebhookDeliveries | None) -> None:
        """Begin to deliver, now that the proxy listens: links may have its address."""
        if webhooks is not None:
            self._run_task(webhooks.run)

    async def _open_clients_only(self, handover: Handover) -> None:
        """Pass requests through; the first worker serves the others."""
        from proxy.relay.handover import HandoverRelay  # as all of it, only with workers

        memory = ClientMemory.of(self.settings, self._seat)
        parts = ClientParts(self.settings, upstream_tls(self.settings), memory)
        self._closing.push_async_callback(parts.pool.close)
        self._run_task(Garbage(memory.heads, memory.bodies).run)
        first = HandoverRelay(handover.paths, timeout=self.settings.upstream.connect_timeout)
        self._closing.push_async_callback(first.close)
        server = parts.server(
            exports=first, rescue=partial(self._handover_rescuer, first, memory.strange_rescues)
        )
        self._count(parts.counts(server))
        await self._listen(server)

    def _handover_rescuer(
        self, first: HandoverRelay, memory: Budget, relay: Forwarder
    ) -> HandoverRescuer:
        from proxy.rescue.handover import HandoverRescuer

        max_body = self.settings.exports.max_request_body
        return HandoverRescuer(first, relay, memory=memory, max_body=max_body)

    def _open_telemetry(self) -> Tracing:
        telemetry = Telemetry(os.environ, __version__)
        self._closing.push_async_callback(telemetry.close)
        return telemetry.tracing

    def _certificate_end(self) -> float | None:
        return None if self._certificate is None else self._certificate.not_after

    def _count(self, counts: ProcessCounts) -> Callable[[], Readings]:
        """Begin to count what needs a task. Return what reads the counts, over all workers."""
        self._run_task(counts.watch)
        if (seat := self._seat) is None:
            return counts.read
        worker = WorkerCounts(counts, seat.board, seat.index, seat.count)
        self._run_task(worker.report)
        return worker.read

    def _listen_to_workers(self, server: Server, handover: Handover) -> None:
        for scheme, sock in handover.sockets.items():
            listener = Listener(server, introduced=scheme)
            listener.serve([sock])
            self._closing.callback(listener.close)

    async def _start_jobs(self, parts: Parts, runner: Runner) -> Found:
        """Reconcile the stores and resume what can be resumed. Raises `StoreUnavailable`."""
        member = parts.member(runner)
        if member is not None:
            await member.join()
            self._closing.push_async_callback(member.leave)
            self._run_task(member.run)
        # also after a start that fails: the member, too, resumes jobs
        self._closing.push_async_callback(runner.stop)
        found = await parts.reconciler.run()
        await runner.start()
        return found

    def _run_task(self, run: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.create_task(keep_running(run))

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._closing.push_async_callback(end)

    async def _listen_admin(self, admin: Admin) -> None:
        runner = listener.runner(admin.application())
        await runner.setup()
        self._closing.push_async_callback(runner.cleanup)
        address = self.settings.admin.address
        try:
            listening = await listener.listen(runner, admin.connections, address.host, address.port)
        except OSError as why:
            raise StartFailed(
                f"admin.address {address}: {why}. Choose another with --admin."
            ) from why
        self._closing.callback(listening.close)
        self.admin_url = _url("http", listening.sockets[0].getsockname())

    async def _listen(self, server: Server) -> None:
        listen = self.settings.listen
        if listen.tls_certificate is not None:
            try:
                self._certificate = ServerCertificate(listen.tls_certificate, listen.tls_key)
            except TlsError as why:
                raise StartFailed(f"listen.tls_certificate: {why}") from why
            self._run_task(partial(certificate_watch.watch, self._certificate, self._clock))
        context = self._certificate.context if self._certificate else None
        listener = Listener(server, tls=context, handshake_timeout=listen.handshake_timeout)
        try:
            if self._seat is not None:
                address = listener.serve(self._seat.sockets)
            else:
                address = await listener.open(listen.address.host, listen.address.port)
        except OSError as why:
            raise StartFailed(
                f"listen.address {listen.address}: {why}. Choose another with --listen."
            ) from why
        self.url = _url("https" if context else "http", address)
        self._closing.push_async_callback(server.drain, DRAIN_TIMEOUT)
        self._closing.callback(listener.close)


def _status_line(runner: Runner, upstream: UpstreamWatch) -> str:
    jobs = f"{runner.running} running, {runner.queued} queued"
    if not upstream.tried:
        return jobs
    return f"{jobs}, VB365 {'up' if upstream.up else 'down'}"


def _url(scheme: str, address: tuple[str, int]) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{scheme}://{host}:{address[1]}"


def _share_of(settings: Settings, seat: Seat) -> Settings:
    """The settings of one worker: limits of the proxy are divided."""
    listen, upstream = settings.listen, settings.upstream
    return settings.model_copy(
        update={
            "listen": listen.model_copy(
                update={"max_connections": seat.share(listen.max_connections)}
            ),
            "upstream": upstream.model_copy(update={"pool": seat.share(upstream.pool)}),
        }
    )


async def start(
    settings: Settings,
    clock: Clock | None = None,
    seat: Seat | None = None,
    *,
    failing: Callable[[], None] = lambda: None,
) -> Running:
    """Start the proxy, with a `SteadyClock` unless another clock is given; as one of several
    workers if it has a `seat` among them.

    Raises `StartFailed`; nothing is left running then but threads that hang. `failing` is called
    before what is open is closed, which may take long.
    """
    if HttpRequestParser is HttpRequestParserPy:
        raise StartFailed("aiohttp runs without its C parser: unset AIOHTTP_NO_EXTENSIONS.")
    if seat is not None:
        settings = _share_of(settings, seat)
    running = Running(settings, clock or SteadyClock(), seat)
    try:
        await running.open()
    except BaseException:
        failing()
        await running.stop()
        raise
    return running

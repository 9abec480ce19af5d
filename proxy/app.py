"""The composition root: the only file that names concrete classes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit
from uuid import uuid4

import structlog
from aiohttp import web
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy

from proxy import __version__
from proxy.admin import listener
from proxy.admin.guard import TokenGuard
from proxy.admin.listener import Admin
from proxy.admin.readiness import Readiness
from proxy.api.download import Download
from proxy.api.kickoff import KickoffHandler, KickoffPolicy
from proxy.api.links import Site
from proxy.api.listing import Listing
from proxy.api.preflight import Preflight
from proxy.api.request_body import RequestBodies
from proxy.api.resources import Resources
from proxy.api.router import ApiRouter
from proxy.clock import SteadyClock
from proxy.config.settings import Settings
from proxy.core.openapi import describe
from proxy.core.retention import Retention
from proxy.core.routing import Router
from proxy.downstream.listener import Listener
from proxy.downstream.server import Server
from proxy.jobs.reconciler import Reconciler
from proxy.jobs.runner import Limits, Runner
from proxy.jobs.sealing import FernetSealer, MemoryOnly, Sealer
from proxy.jobs.sweeper import Sweeper
from proxy.jobs.transfer import Policy, TransferFactory
from proxy.net import certificate_watch, descriptors
from proxy.net.tls import ServerCertificate, TlsError, upstream_context
from proxy.ports import StoreUnavailable, Upstream
from proxy.relay import Relay
from proxy.stores.disk_jobs.store import DiskJobs
from proxy.stores.file_artifacts.store import FileArtifacts
from proxy.stores.owner_key import owner_key
from proxy.upstream.access import Access
from proxy.upstream.client import HttpUpstream
from proxy.upstream.pool import Pool
from proxy.upstream.session_events import SessionEvents

log = structlog.get_logger(__name__)

#: Seconds that requests in flight have to finish after SIGTERM.
DRAIN_TIMEOUT = 30.0

#: Returns Unix seconds, and never jumps or runs backwards: it measures durations too.
Clock = Callable[[], float]


class StartFailed(Exception):
    """The proxy cannot start. The message says why, and how to fix it."""


class Running:
    """A running proxy, made by `start`. It listens at `url` and `admin_url`."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self._clock = clock
        self.url = ""
        self.admin_url = ""
        self._closing = contextlib.AsyncExitStack()
        self._certificate: ServerCertificate | None = None

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
        """Open the stores, reconcile them, start the runner, then listen. Raises `StartFailed`."""
        settings, closing = self.settings, self._closing
        now = self._clock
        jobs, artifacts, key = await self._open_stores()
        sealer = _sealer(settings)
        preserve_host = settings.upstream.preserve_host
        max_connections, max_relayed = _connection_limits(settings)
        # three pools: access checks never use a connection that has carried a caller's request
        # (CONTRACT §2)
        relay_pool, job_pool, check_pool = (
            _pool(settings, limit=limit) for limit in (max_relayed, 0, 0)
        )
        for pool in (relay_pool, job_pool, check_pool):
            closing.push_async_callback(pool.close)
        upstream = HttpUpstream(job_pool, preserve_host=preserve_host)
        checks = HttpUpstream(check_pool, preserve_host=preserve_host, checks_only=True)
        retention = Retention(
            result=settings.exports.result_ttl, record=settings.exports.record_ttl
        )
        access = Access(
            checks,
            key=key,
            cache=settings.access.cache,
            timeout=settings.upstream.check_timeout,
            now=now,
        )
        runner = _runner(settings, sealer, access, jobs, artifacts, upstream, checks, now)
        await runner.start()
        closing.push_async_callback(runner.stop)
        sweeper = Sweeper(
            jobs=jobs,
            artifacts=artifacts,
            retention=retention,
            suspend_ttl=settings.exports.suspend_ttl,
            wake=runner.wake,
            now=now,
        )
        self._run_task(sweeper.run())
        api = _api(settings, sealer, access, jobs, artifacts, upstream, runner, retention, now)
        server = Server(
            handler=api.handle,
            relay=Relay(
                relay_pool,
                preserve_host=preserve_host,
                forwarded=settings.upstream.forwarded,
            ),
            decide=_router(settings).decide,
            head_timeout=settings.listen.head_timeout,
            idle_timeout=settings.listen.idle_timeout,
            max_connections=max_connections,
        )
        admin = _admin(settings, checks, jobs, runner, now)
        await self._listen_admin(admin)
        await self._listen(server)
        closing.callback(setattr, admin, "draining", True)

    async def _open_stores(self) -> tuple[DiskJobs, FileArtifacts, bytes]:
        directory = self.settings.storage.dir
        try:
            jobs = await DiskJobs.open(directory)
            self._closing.push_async_callback(jobs.close)
            artifacts = await FileArtifacts.at(directory, clock=self._clock)
            self._closing.push_async_callback(artifacts.close)
            for note in jobs.notes:
                log.error("job database", note=note)
            await Reconciler(jobs, artifacts, self._clock).run()
            key = await asyncio.to_thread(owner_key, directory / "owner.key")
        except StoreUnavailable as why:
            raise StartFailed(f"storage.dir {directory}: {why}") from why
        return jobs, artifacts, key

    def _run_task(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._closing.push_async_callback(end)

    async def _listen_admin(self, admin: Admin) -> None:
        runner = web.AppRunner(
            admin.application(), access_log=None, keepalive_timeout=listener.REQUEST_TIMEOUT
        )
        await runner.setup()
        self._closing.push_async_callback(runner.cleanup)
        address = self.settings.admin.address
        try:
            listening = await listener.listen(runner, address.host, address.port)
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
            self._run_task(certificate_watch.watch(self._certificate, self._clock))
        context = self._certificate.context if self._certificate else None
        listener = Listener(server, tls=context, handshake_timeout=listen.handshake_timeout)
        try:
            address = await listener.open(listen.address.host, listen.address.port)
        except OSError as why:
            raise StartFailed(
                f"listen.address {listen.address}: {why}. Choose another with --listen."
            ) from why
        self.url = _url("https" if context else "http", address)
        self._closing.push_async_callback(server.drain, DRAIN_TIMEOUT)
        self._closing.callback(listener.close)


def _connection_limits(settings: Settings) -> tuple[int, int]:
    """Return the limits of client and of relay connections, 0 for none (CONTRACT §15 `listen`)."""
    wanted, pool = settings.listen.max_connections, settings.upstream.pool
    limit = descriptors.raise_limit()
    if limit is None:
        return wanted, pool
    running = settings.exports.max_running
    share = descriptors.share(limit, max_running=running, max_connections=wanted)
    log.info(
        "connections", max_connections=share.clients, descriptors=limit, kept_back=share.reserve
    )
    if wanted > share.clients:
        log.warning(
            "listen.max_connections is more than the descriptors allow",
            wanted=wanted,
            allowed=share.clients,
        )
    return share.clients, min(pool or share.upstream, share.upstream)


def _pool(settings: Settings, *, limit: int) -> Pool:
    upstream = settings.upstream
    url = urlsplit(upstream.url)
    tls = None
    if url.scheme == "https":
        if not upstream.verify:
            log.warning("upstream.verify is false: anybody on the network path can read passwords")
        try:
            tls = upstream_context(
                ca_file=upstream.ca_file, fingerprint=upstream.fingerprint, verify=upstream.verify
            )
        except TlsError as why:
            raise StartFailed(f"upstream: {why}") from why
    port = url.port or (443 if tls else 80)
    return Pool(
        url.hostname or "",
        port,
        tls=tls,
        connect_timeout=upstream.connect_timeout,
        limit=limit,
        authority=upstream.host,
    )


def _sealer(settings: Settings) -> Sealer:
    try:
        keys = settings.secrets.keys
    except (OSError, ValueError) as why:
        raise StartFailed(f"secrets.key_file: {why}") from why
    return FernetSealer([key.get_secret_value() for key in keys]) if keys else MemoryOnly()


def _runner(
    settings: Settings,
    sealer: Sealer,
    access: Access,
    jobs: DiskJobs,
    artifacts: FileArtifacts,
    upstream: HttpUpstream,
    checks: HttpUpstream,
    now: Clock,
) -> Runner:
    exports, storage = settings.exports, settings.storage
    events = SessionEvents(checks, timeout=settings.upstream.check_timeout, now=now)
    transfers = TransferFactory(
        jobs=jobs,
        artifacts=artifacts,
        upstream=upstream,
        watch=events if exports.watch_events else None,
        policy=Policy(
            generate_timeout=exports.generate_timeout,
            stall_timeout=exports.stall_timeout,
            attempts=exports.attempts,
            result_ttl=exports.result_ttl,
        ),
        holder=str(uuid4()),
        now=now,
    )
    return Runner(
        jobs=jobs,
        artifacts=artifacts,
        transfers=transfers,
        limits=Limits(
            max_running=exports.max_running,
            max_queued=exports.max_queued,
            max_per_caller=exports.max_per_caller,
            min_free=storage.min_free,
            max_bytes=storage.max_bytes,
            max_running_per_caller=exports.max_running_per_caller,
            cancel_hold=exports.cancel_hold,
            max_records=storage.max_records,
            max_records_per_caller=exports.max_records_per_caller,
        ),
        safe=sealer,
        trust=access,
        now=now,
    )


def _api(
    settings: Settings,
    sealer: Sealer,
    access: Access,
    jobs: DiskJobs,
    artifacts: FileArtifacts,
    upstream: HttpUpstream,
    runner: Runner,
    retention: Retention,
    now: Clock,
) -> ApiRouter:
    exports, public = settings.exports, settings.public
    site = Site(
        public_url=public.url,
        trusted=public.trusted_proxies,
        segment=public.segment,
        retention=retention,
    )
    download = Download(artifacts)
    kickoffs = KickoffHandler(
        jobs=jobs,
        access=access,
        runner=runner,
        preflight=Preflight(upstream, timeout=exports.preflight_timeout)
        if exports.preflight
        else None,
        download=download,
        bodies=RequestBodies(max_body=exports.max_request_body, memory=exports.body_memory),
        site=site,
        sealer=sealer,
        policy=KickoffPolicy(
            grace=exports.grace,
            max_wait=exports.max_wait,
        ),
        now=now,
    )
    resources = Resources(
        jobs=jobs,
        artifacts=artifacts,
        access=access,
        runner=runner,
        download=download,
        listing=Listing(jobs=jobs, access=access, runner=runner, site=site, now=now),
        site=site,
        description=describe(__version__, public.segment),
        max_wait=exports.max_wait,
        now=now,
    )
    return ApiRouter(kickoffs, resources)


def _admin(
    settings: Settings, upstream: Upstream, jobs: DiskJobs, runner: Runner, now: Clock
) -> Admin:
    token = settings.admin.token
    return Admin(
        checks=Readiness(
            upstream=upstream,
            jobs=jobs,
            shortage=runner.shortage,
            timeout=settings.upstream.check_timeout,
            now=now,
        ),
        hosts=settings.admin.hosts,
        guard=TokenGuard(token.get_secret_value(), now) if token else None,
    )


def _router(settings: Settings) -> Router:
    return Router(
        segment=settings.public.segment,
        prefix=urlsplit(settings.public.url or "").path.rstrip("/"),
        max_body=settings.exports.max_request_body,
        reports=settings.exports.reports,
    )


def _url(scheme: str, address: tuple[str, int]) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{scheme}://{host}:{address[1]}"


async def start(settings: Settings, clock: Clock | None = None) -> Running:
    """Start the proxy, with a `SteadyClock` unless another clock is given.

    Raises `StartFailed`; nothing is left running then.
    """
    if HttpRequestParser is HttpRequestParserPy:
        raise StartFailed("aiohttp runs without its C parser: unset AIOHTTP_NO_EXTENSIONS.")
    running = Running(settings, clock or SteadyClock())
    try:
        await running.open()
    except BaseException:
        await running.stop()
        raise
    return running

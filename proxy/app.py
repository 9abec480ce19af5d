"""The composition root: the only file that names concrete classes."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable
from time import monotonic
from urllib.parse import urlsplit
from uuid import uuid4

import structlog
from aiohttp import web
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy

from proxy import __version__, logs
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
from proxy.config.loading import ConfigError
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
from proxy.net import certificate_watch as renewal
from proxy.net import descriptors
from proxy.net.notify import READY, STOPPING, notify
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

#: Seconds that downloads and pass-through get to finish after SIGTERM.
_DRAIN = 30.0


class StartFailed(Exception):
    """The proxy cannot start; the text says why and what to do. Nothing runs."""


class Running:
    """A proxy that listens; made by `start`. `url` and `admin_url` say where."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = ""
        self.admin_url = ""
        self._closing = contextlib.AsyncExitStack()
        self._certificate: ServerCertificate | None = None

    async def stop(self) -> None:
        """Finish what is in flight up to a deadline, leave jobs resumable, close the stores
        (CONTRACT §15 SIGTERM).
        """
        await self._closing.aclose()

    def reload_certificate(self) -> None:
        """Show the certificate files' present content to new connections (CONTRACT §15 SIGHUP)."""
        if self._certificate is not None:
            renewal.reload(self._certificate)

    async def open(self) -> None:
        """Open the stores, reconcile them, start the runner, then listen. Raises `StartFailed`."""
        settings, closing = self.settings, self._closing
        now = SteadyClock()
        jobs, artifacts, key = await self._open_stores()
        safe = _safe(settings)
        preserve_host = settings.upstream.preserve_host
        max_connections, relayed = _share(settings)
        # three pools: no question about a caller goes where a caller's request went before
        # (CONTRACT §2)
        passing, working, asking = (_pool(settings, limit=limit) for limit in (relayed, 0, 0))
        for pool in (passing, working, asking):
            closing.push_async_callback(pool.close)
        upstream = HttpUpstream(working, preserve_host=preserve_host)
        questions = HttpUpstream(asking, preserve_host=preserve_host, checks_only=True)
        retention = Retention(
            result=settings.exports.result_ttl, record=settings.exports.record_ttl
        )
        access = Access(
            questions,
            key=key,
            cache=settings.access.cache,
            timeout=settings.upstream.check_timeout,
            now=monotonic,
        )
        runner = _runner(settings, safe, access, jobs, artifacts, upstream, questions, now)
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
        self._keep_doing(sweeper.run())
        service = _service(
            settings, safe, access, jobs, artifacts, upstream, runner, retention, now
        )
        door = Server(
            handler=service.handle,
            relay=Relay(
                passing,
                preserve_host=preserve_host,
                forwarded=settings.upstream.forwarded,
            ),
            decide=_door(settings).decide,
            head_timeout=settings.listen.head_timeout,
            idle_timeout=settings.listen.idle_timeout,
            max_connections=max_connections,
        )
        admin = _admin(settings, questions, jobs, runner)
        await self._listen_admin(admin)
        await self._listen(door)
        closing.callback(setattr, admin, "draining", True)

    async def _open_stores(self) -> tuple[DiskJobs, FileArtifacts, bytes]:
        directory = self.settings.storage.dir
        try:
            jobs = await DiskJobs.open(directory)
            self._closing.push_async_callback(jobs.close)
            artifacts = await FileArtifacts.at(directory)
            self._closing.push_async_callback(artifacts.close)
            for note in jobs.notes:
                log.error("job database", note=note)
            await Reconciler(jobs, artifacts, SteadyClock()).run()
            key = await asyncio.to_thread(owner_key, directory / "owner.key")
        except StoreUnavailable as why:
            raise StartFailed(f"storage.dir {directory}: {why}") from why
        return jobs, artifacts, key

    def _keep_doing(self, work: Awaitable[None]) -> None:
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

    async def _listen(self, door: Server) -> None:
        listen = self.settings.listen
        if listen.tls_certificate is not None:
            try:
                self._certificate = ServerCertificate(listen.tls_certificate, listen.tls_key)
            except TlsError as why:
                raise StartFailed(f"listen.tls_certificate: {why}") from why
            self._keep_doing(renewal.watch(self._certificate))
        context = self._certificate.context if self._certificate else None
        listener = Listener(door, tls=context, handshake_timeout=listen.handshake_timeout)
        try:
            address = await listener.open(listen.address.host, listen.address.port)
        except OSError as why:
            raise StartFailed(
                f"listen.address {listen.address}: {why}. Choose another with --listen."
            ) from why
        self.url = _url("https" if context else "http", address)
        self._closing.push_async_callback(door.drain, _DRAIN)
        self._closing.callback(listener.close)


def _share(settings: Settings) -> tuple[int, int]:
    """Connections that clients and the relay may have, 0 for no limit (CONTRACT §15 `listen`)."""
    wanted, pool = settings.listen.max_connections, settings.upstream.pool
    limit = descriptors.raise_limit()
    if limit is None:
        return wanted, pool
    share = descriptors.share(
        limit, max_running=settings.exports.max_running, max_connections=wanted
    )
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
            log.warning(
                "upstream.verify is false: whoever stands between the proxy and VB365 can "
                "read every password"
            )
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


def _safe(settings: Settings) -> Sealer:
    try:
        keys = settings.secrets.keys
    except (OSError, ValueError) as why:
        raise StartFailed(f"secrets.key_file: {why}") from why
    return FernetSealer([key.get_secret_value() for key in keys]) if keys else MemoryOnly()


def _runner(
    settings: Settings,
    safe: Sealer,
    access: Access,
    jobs: DiskJobs,
    artifacts: FileArtifacts,
    upstream: HttpUpstream,
    questions: HttpUpstream,
    now: SteadyClock,
) -> Runner:
    exports, storage = settings.exports, settings.storage
    events = SessionEvents(questions, timeout=settings.upstream.check_timeout, now=now)
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
        safe=safe,
        trust=access,
        preserve_host=settings.upstream.preserve_host,
        now=now,
    )


def _service(
    settings: Settings,
    safe: Sealer,
    access: Access,
    jobs: DiskJobs,
    artifacts: FileArtifacts,
    upstream: HttpUpstream,
    runner: Runner,
    retention: Retention,
    now: SteadyClock,
) -> ApiRouter:
    exports, public = settings.exports, settings.public
    site = Site(
        public_url=public.url,
        trusted=public.trusted_proxies,
        segment=public.segment,
        retention=retention,
    )
    download = Download(artifacts)
    gateway = KickoffHandler(
        jobs=jobs,
        access=access,
        runner=runner,
        preflight=Preflight(upstream, timeout=exports.preflight_timeout)
        if exports.preflight
        else None,
        download=download,
        bodies=RequestBodies(max_body=exports.max_request_body, memory=exports.body_memory),
        site=site,
        sealer=safe,
        policy=KickoffPolicy(
            grace=exports.grace,
            max_wait=exports.max_wait,
            preserve_host=settings.upstream.preserve_host,
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
    return ApiRouter(gateway, resources)


def _admin(settings: Settings, upstream: Upstream, jobs: DiskJobs, runner: Runner) -> Admin:
    token = settings.admin.token
    return Admin(
        checks=Readiness(
            upstream=upstream,
            jobs=jobs,
            shortage=runner.shortage,
            patience=settings.upstream.check_timeout,
        ),
        hosts=settings.admin.hosts,
        guard=TokenGuard(token.get_secret_value(), monotonic) if token else None,
    )


def _door(settings: Settings) -> Router:
    return Router(
        segment=settings.public.segment,
        prefix=urlsplit(settings.public.url or "").path.rstrip("/"),
        max_body=settings.exports.max_request_body,
        reports=settings.exports.reports,
    )


def _url(scheme: str, address: tuple[str, int]) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{scheme}://{host}:{address[1]}"


async def start(settings: Settings) -> Running:
    """A proxy that listens. Raises `StartFailed`; nothing runs then."""
    if HttpRequestParser is HttpRequestParserPy:
        raise StartFailed("aiohttp runs without its C parser: unset AIOHTTP_NO_EXTENSIONS.")
    running = Running(settings)
    try:
        await running.open()
    except BaseException:
        await running.stop()
        raise
    return running


async def run(settings: Settings, reread: Callable[[], Settings]) -> int:
    """Serve until SIGTERM or SIGINT; the exit code (CONTRACT §15).

    `reread` loads the configuration again at SIGHUP and raises `ConfigError`; of it the log level
    is taken.
    """
    notify(status="starting")
    try:
        running = await start(settings)
    except StartFailed as why:
        notify(status=str(why))
        print(f"vb365-async-proxy: {why}", file=sys.stderr)  # noqa: T201  # the log may be JSON for machines
        return 1
    stopped = asyncio.Event()

    def reload() -> None:
        running.reload_certificate()
        try:
            logs.set_level(reread().log.level)
        except ConfigError as why:
            log.warning("configuration not reloaded", reason=str(why))

    _handle_signals(stopped.set, reload)
    print(f"listening on {running.url}", file=sys.stderr, flush=True)  # noqa: T201  # CONTRACT §15: the ready line
    log.info("started", upstream=settings.upstream.url, admin=running.admin_url)
    notify(READY, status=f"listening on {running.url} in front of {settings.upstream.url}")
    await stopped.wait()
    log.info("stopping")
    notify(STOPPING, status=f"stopping: requests in flight have {_DRAIN:.0f} s to finish")
    await running.stop()
    return 0


def _handle_signals(stop: Callable[[], None], reload: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    if sys.platform == "win32":
        signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(stop))
        signal.signal(signal.SIGBREAK, lambda *_: loop.call_soon_threadsafe(stop))
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)

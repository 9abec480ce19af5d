"""The clients' side and the connections to VB365, made from the settings."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from dataclasses import replace
from urllib.parse import urlsplit

import structlog

from proxy.admin.process import ExportCounts, ProcessCounts
from proxy.config.settings import Settings
from proxy.core.routing import Router
from proxy.downstream.access_log import AccessLog
from proxy.downstream.bridge import AtOnce
from proxy.downstream.duplex import Forwarder, Rescuing
from proxy.downstream.server import Handler, Server
from proxy.net import descriptors
from proxy.net.tls import TlsError, upstream_context
from proxy.parts.memory import ClientMemory
from proxy.parts.start import StartFailed
from proxy.ports import UpstreamFailure
from proxy.relay.relay import Relay
from proxy.upstream.pool import Pool

log = structlog.get_logger(__name__)


class ClientParts:
    """The parts that the clients' side needs whatever serves their exports: pass-through."""

    def __init__(
        self, settings: Settings, tls: ssl.SSLContext | None, memory: ClientMemory
    ) -> None:
        self._settings = settings
        self.memory = memory
        self.limits = _connection_limits(settings)
        self.pool = upstream_pool(
            settings, tls, limit=self.limits.upstream, max_idle=self.limits.idle
        )
        #: Those of access checks and of preflights: strangers cause any number of them.
        self.check_pool = upstream_pool(settings, tls, limit=self.limits.questions)
        self.preflight_pool = upstream_pool(settings, tls, limit=self.limits.questions)

    def server(
        self,
        *,
        handler: Handler | None = None,
        at_once: AtOnce | None = None,
        exports: Forwarder | None = None,
        rescue: Callable[[Forwarder], Rescuing] | None = None,
    ) -> Server:
        """Make the clients' side: what passes through goes to VB365, every other request to
        `at_once` or `handler`, or to the process that `exports` forwards to. `rescue` makes what
        serves rescued exports, and uses the relay for those that it cannot serve.
        """
        relay = Relay(self.pool, forwarded=self._settings.upstream.forwarded)
        listen, trusted = self._settings.listen, self._settings.public.trusted_proxies
        return Server(
            handler=handler,
            at_once=at_once,
            exports=exports,
            rescue=None if rescue is None else rescue(relay),
            relay=relay,
            decide=_router(self._settings).decide,
            waiting=self.memory.heads,
            head_timeout=listen.head_timeout,
            idle_timeout=listen.idle_timeout,
            max_connections=self.limits.clients,
            access=AccessLog(trusted) if self._settings.log.access else None,
        )

    def counts(
        self, server: Server, pools: Iterable[Pool] = (), exports: ExportCounts | None = None
    ) -> ProcessCounts:
        """What this process counts for the metrics, with all of its pools."""
        return ProcessCounts(
            clients=server.counters,
            settle=server.settle,
            connections=server.connections,
            pools=[*pools] or [self.pool],
            exports=exports,
        )


def _connection_limits(settings: Settings) -> descriptors.Share:
    """Return the limits of connections (CONTRACT §15 `listen`). 0 is no limit."""
    wanted, pool = settings.listen.max_connections, settings.upstream.pool
    limit = descriptors.raise_limit()
    if limit is None:
        admin, questions = descriptors.MAX_ADMIN, descriptors.MAX_QUESTIONS
        return descriptors.Share(wanted, admin, pool, 0, questions, 0)
    running = settings.exports.max_running
    # with jobs on disk, the others hand requests over to the first worker
    others = settings.listen.workers - 1 if settings.storage.jobs == "disk" else 0
    share = descriptors.share(limit, max_running=running, max_connections=wanted, others=others)
    log.info("limits", max_connections=share.clients, descriptors=limit, kept_back=share.reserve)
    if wanted > share.clients:
        log.warning(
            "listen.max_connections is more than the descriptors allow",
            wanted=wanted,
            allowed=share.clients,
        )
    return replace(share, upstream=min(pool or share.upstream, share.upstream))


def upstream_tls(settings: Settings) -> ssl.SSLContext | None:
    """The context for connections to VB365; None for plain http. Raises `StartFailed`."""
    upstream = settings.upstream
    if urlsplit(upstream.url).scheme != "https":
        return None
    try:
        return upstream_context(
            ca_file=upstream.ca_file, fingerprint=upstream.fingerprint, verify=upstream.verify
        )
    except TlsError as why:
        raise StartFailed(f"upstream: {why}") from why


async def try_upstream(settings: Settings) -> None:
    """Connect to VB365, with TLS if its URL says so, and send nothing. Raises `StartFailed`."""
    pool = upstream_pool(settings, upstream_tls(settings))
    try:
        (await pool.connect()).close()
    except UpstreamFailure as why:
        raise StartFailed(f"upstream.url: {why}") from why
    finally:
        await pool.close()


def upstream_pool(
    settings: Settings, tls: ssl.SSLContext | None, *, limit: int = 0, max_idle: int = 0
) -> Pool:
    """Make a pool of connections to VB365. `limit` and `max_idle` are as in `Pool`."""
    upstream = settings.upstream
    url = urlsplit(upstream.url)
    return Pool(
        url.hostname or "",
        url.port or (443 if tls else 80),
        tls=tls,
        connect_timeout=upstream.connect_timeout,
        limit=limit,
        max_idle=max_idle,
        authority=upstream.host,
        preserve_host=upstream.preserve_host,
    )


def _router(settings: Settings) -> Router:
    return Router(
        segment=settings.public.segment,
        prefix=urlsplit(settings.public.url or "").path.rstrip("/"),
        max_body=settings.exports.max_request_body,
        reports=settings.exports.reports,
        rescue=settings.exports.rescue_sync,
    )

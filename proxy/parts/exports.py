"""The parts of a proxy that runs exports, made from its settings.

What a proxy has only if its settings say so is imported when it is made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import structlog

from proxy import __version__
from proxy.admin.process import ExportCounts, ProcessCounts
from proxy.admin.readiness import Readiness
from proxy.api.description import Description
from proxy.api.documents import Documents
from proxy.api.download import Download
from proxy.api.idempotency import IdempotencyKeys
from proxy.api.kickoff import KickoffHandler, KickoffPolicy
from proxy.api.links import Site
from proxy.api.listing import Listing
from proxy.api.polls import Polls
from proxy.api.preflight import Preflight
from proxy.api.resources import Resources
from proxy.api.router import ApiRouter
from proxy.config.settings import Settings
from proxy.core.job import Job
from proxy.core.rescue import unanswered
from proxy.core.retention import Retention
from proxy.downstream.duplex import Forwarder
from proxy.downstream.server import Server
from proxy.jobs.admission import unaccepted_share
from proxy.jobs.counted import CountedJobs
from proxy.jobs.counted_shared import CountedSharedJobs
from proxy.jobs.deliveries import Deliveries
from proxy.jobs.held_fields import HeldFields
from proxy.jobs.lease import Lease, LeasedFiles
from proxy.jobs.reconciler import Reconciler
from proxy.jobs.replica import Member
from proxy.jobs.runner import Limits, Runner
from proxy.jobs.sealing import MemoryOnly, Sealer
from proxy.jobs.sweeper import Sweeper
from proxy.jobs.takeover import TakeOver
from proxy.jobs.transfer import Policy, TransferFactory
from proxy.parts.admin import AdminParts, Watched
from proxy.parts.clients import ClientParts, upstream_pool, upstream_tls
from proxy.parts.memory import ClientMemory
from proxy.parts.start import Clock, StartFailed
from proxy.ports import ArtifactStore, SharedJobs
from proxy.ports.counts import JobCounts, WebhookCounts
from proxy.ports.outbox import OutboxJobs, SharedOutboxJobs
from proxy.ports.tracing import Tracing
from proxy.upstream.access import Access
from proxy.upstream.client import HttpUpstream
from proxy.upstream.pool import Pool
from proxy.upstream.session_events import SessionEvents
from proxy.upstream.turns import Turns
from proxy.upstream.watch import UpstreamWatch

if TYPE_CHECKING:
    from proxy.parts.webhooks import WebhookParts
    from proxy.rescue.rescuer import Rescuer
    from proxy.webhooks.delivery import WebhookDeliveries

log = structlog.get_logger(__name__)

#: Bytes of request fields that all unfinished exports may hold. A head has 256 KiB at most, and up
#: to `exports.max_queued` of them wait.
_HELD_FIELDS = 64 << 20


class Parts:
    """The parts that several others use, and methods that make those others. Nothing runs yet.

    `key` is the key of the callers' hashes, `now` the clock, `shared` the job store if replicas
    share it, `tracing` makes spans. Raises `StartFailed`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        jobs: OutboxJobs,
        artifacts: ArtifactStore,
        key: bytes,
        now: Clock,
        shared: SharedOutboxJobs | None = None,
        tracing: Tracing,
        memory: ClientMemory,
    ) -> None:
        self._settings = settings
        self._tracing = tracing
        self._changes = JobCounts()
        hooks = _webhooks(settings, jobs, shared, now)
        self._webhooks = hooks
        if hooks is not None:
            jobs, shared = hooks.jobs, hooks.shared
        counted = None if shared is None else CountedSharedJobs(shared, self._changes)
        self._jobs = counted or CountedJobs(jobs, self._changes)
        self._shared: SharedJobs | None = counted
        self._artifacts = artifacts
        self.deliveries = Deliveries(self._jobs, now)
        self._download = Download(artifacts, self.deliveries, tracing)
        exports = settings.exports
        self._held_fields = HeldFields(_HELD_FIELDS // memory.processes)
        self._now = now
        self._lease = None if counted is None else Lease(counted, length=settings.cluster.lease)
        self.reconciler = Reconciler(self._jobs, artifacts, now, shared=counted is not None)
        self._sealer = _sealer(settings)
        self._retention = Retention(result=exports.result_ttl, record=exports.record_ttl)
        self._site = _site(settings, self._retention)
        self._documents = Documents()
        tls = upstream_tls(settings)
        # access checks never use a connection that has carried a caller's request (CONTRACT §2). A
        # preflight is such a request
        self._clients = ClientParts(settings, tls, memory)
        self._job_pool = upstream_pool(settings, tls)
        #: Its connections and failures are in no metric.
        self.upstream_watch = UpstreamWatch(upstream_pool(settings, tls).connect)
        self._upstream = HttpUpstream(self._job_pool)
        self._checks = HttpUpstream(self._clients.check_pool, checks_only=True)
        self._preflights = HttpUpstream(self._clients.preflight_pool)
        self._access = Access(
            self._checks,
            key=key,
            cache=settings.access.cache,
            timeout=settings.upstream.check_timeout,
            turns=Turns(self._clients.limits.questions),
            now=now,
        )
        self._bodies = memory.receiver(exports.max_request_body, self._access.knows)
        self._keys = IdempotencyKeys(
            jobs=self._jobs,
            access=self._access,
            retention=self._retention,
            now=now,
            shared=self._shared,
        )

    @property
    def pools(self) -> Iterable[Pool]:
        """The pools of connections to VB365, which are to be closed at the end."""
        clients = self._clients
        return clients.pool, clients.check_pool, clients.preflight_pool, self._job_pool

    @property
    def watches(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """What watches, until cancelled, whether VB365's responses prove who a caller is, and what
        confirms callers who could not be confirmed at their kick-off.
        """
        return self._access.watch, self._keys.run

    def runner(self) -> Runner:
        """Make the runner of all jobs of this process."""
        exports, storage = self._settings.exports, self._settings.storage
        return Runner(
            jobs=self._jobs,
            artifacts=self._artifacts,
            transfers=self._transfers(),
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
                unaccepted_bodies=exports.body_memory,
            ),
            sealer=self._sealer,
            trust=self._access,
            now=self._now,
            shared=self._shared,
        )

    def member(self, runner: Runner) -> Member | None:
        """Make this process a replica; None if it shares its jobs with no other."""
        if self._shared is None or self._lease is None:
            return None
        takeover = TakeOver(
            jobs=self._shared,
            reconciler=self.reconciler,
            resume=runner.resume_sealed,
            now=self._now,
        )
        return Member(
            jobs=self._shared,
            lease=self._lease,
            runner=runner,
            takeover=takeover,
            heartbeat=self._settings.cluster.heartbeat,
        )

    def _transfers(self) -> TransferFactory:
        exports, timeout = self._settings.exports, self._settings.upstream.check_timeout
        lease = self._lease
        return TransferFactory(
            jobs=self._jobs,
            artifacts=self._artifacts if lease is None else LeasedFiles(self._artifacts, lease),
            upstream=self._upstream,
            watch=SessionEvents(self._checks, timeout=timeout, now=self._now)
            if exports.watch_events
            else None,
            policy=Policy(
                generate_timeout=exports.generate_timeout,
                stall_timeout=exports.stall_timeout,
                attempts=exports.attempts,
                result_ttl=exports.result_ttl,
            ),
            holder=str(uuid4()) if lease is None else lease.replica,
            now=self._now,
            tracing=self._tracing,
        )

    def sweeper(self, runner: Runner) -> Sweeper:
        """Make the sweeper of the stores."""
        return Sweeper(
            jobs=self._jobs,
            artifacts=self._artifacts,
            retention=self._retention,
            suspend_ttl=self._settings.exports.suspend_ttl,
            max_rejected=unaccepted_share(self._settings.exports.max_queued),
            wake=runner.wake,
            adopt=self.reconciler.adopt,
            now=self._now,
        )

    def webhook_deliveries(
        self, runner: Runner, url: Callable[[], str]
    ) -> WebhookDeliveries | None:
        """Make what delivers webhooks; None without any. `url` is where this process listens."""
        if self._webhooks is None:
            return None

        def may_drop(job: Job) -> bool:
            attended = runner.attended(job.id) is not None or runner.is_attended_elsewhere(job)
            return attended or unanswered(job)

        return self._webhooks.deliveries(may_drop, url)

    def server(self, runner: Runner) -> Server:
        """Make the clients' side."""
        rescue = partial(self._rescuer, runner) if self._settings.exports.rescue_sync else None
        handler, at_once = self._api(runner).handle, self._polls().respond
        return self._clients.server(handler=handler, at_once=at_once, rescue=rescue)

    def _polls(self) -> Polls:
        return Polls(
            jobs=self._jobs,
            access=self._access,
            site=self._site,
            documents=self._documents,
            now=self._now,
        )

    def _rescuer(self, runner: Runner, relay: Forwarder) -> Rescuer:
        from proxy.rescue.rescuer import RescuePolicy, Stores, rescuer

        exports = self._settings.exports
        return rescuer(
            Stores(self._jobs, self._artifacts),
            access=self._access,
            runner=runner,
            sealer=self._sealer,
            relay=relay,
            memory=partial(self._clients.memory.for_rescue, self._access.knows),
            held_fields=self._held_fields,
            note=self.deliveries.note,
            served=self._download.counts,
            counts=self._changes,
            prepare=self._upstream.prepare,
            tracing=self._tracing,
            policy=RescuePolicy(
                grace=exports.grace,
                ttl=exports.rescue_ttl,
                max_body=exports.max_request_body,
                trusted=self._settings.public.trusted_proxies,
            ),
            now=self._now,
        )

    def _preflight(self) -> Preflight | None:
        if not self._settings.exports.preflight:
            return None
        turns = Turns(self._clients.limits.questions)
        timeout = self._settings.exports.preflight_timeout
        return Preflight(self._preflights, timeout=timeout, turns=turns)

    def _api(self, runner: Runner) -> ApiRouter:
        exports, public, site = self._settings.exports, self._settings.public, self._site
        kickoffs = KickoffHandler(
            jobs=self._jobs,
            access=self._access,
            keys=self._keys,
            runner=runner,
            preflight=self._preflight(),
            download=self._download,
            bodies=self._bodies,
            site=site,
            sealer=self._sealer,
            held_fields=self._held_fields,
            policy=KickoffPolicy(grace=exports.grace, max_wait=exports.max_wait),
            counts=self._changes,
            now=self._now,
        )
        resources = Resources(
            jobs=self._jobs,
            artifacts=self._artifacts,
            access=self._access,
            runner=runner,
            download=self._download,
            listing=Listing(
                jobs=self._jobs, access=self._access, runner=runner, site=site, now=self._now
            ),
            site=site,
            documents=self._documents,
            description=Description(__version__, public.segment, public.url),
            max_wait=exports.max_wait,
            now=self._now,
        )
        return ApiRouter(kickoffs, resources, site, self._tracing)

    def counts(self, runner: Runner, server: Server) -> ProcessCounts:
        """What this process counts for the metrics."""
        exports = ExportCounts(
            changes=self._changes,
            jobs=self._jobs,
            runner=runner,
            files=self._download.counts,
            access=self._access.counts,
            webhooks=WebhookCounts() if self._webhooks is None else self._webhooks.counts,
        )
        return self._clients.counts(server, self.pools, exports)

    def admin(self, runner: Runner, jobs_note: Callable[[], str | None], **live: Any) -> AdminParts:
        """Make the operator's listener. `jobs_note` returns what an operator should correct about
        the job store, `live` are `counts`, `certificate` and `webhooks` of `Watched`.
        """
        checks = Readiness(
            upstream=self._checks,
            jobs=self._jobs,
            artifacts=self._artifacts,
            shortage=runner.shortage,
            timeout=self._settings.upstream.check_timeout,
            now=self._now,
        )
        watched = Watched(
            jobs=self._jobs,
            shared=self._shared,
            artifacts=self._artifacts,
            runner=runner,
            retention=self._retention,
            checks=checks,
            watch=self.upstream_watch,
            pools=self.pools,
            notes=lambda: {"upstream": self._access.note, "jobs": jobs_note()},
            max_connections=self._clients.limits.admin,
            **live,
        )
        return AdminParts(self._settings, watched, self._now)


def _webhooks(
    settings: Settings, jobs: OutboxJobs, shared: SharedOutboxJobs | None, now: Clock
) -> WebhookParts | None:
    if not settings.webhooks.urls:
        return None
    from proxy.parts.webhooks import WebhookParts

    return WebhookParts(settings, jobs, shared, now)


def _site(settings: Settings, retention: Retention) -> Site:
    public = settings.public
    return Site(
        public_url=public.url,
        trusted=public.trusted_proxies,
        segment=public.segment,
        retention=retention,
    )


def _sealer(settings: Settings) -> Sealer:
    try:
        keys = settings.secrets.keys
    except (OSError, ValueError) as why:
        raise StartFailed(f"secrets.key_file: {why}") from why
    if not keys:
        return MemoryOnly()
    from proxy.jobs.fernet_sealing import FernetSealer

    return FernetSealer([key.get_secret_value() for key in keys])

"""The operator's listener, made from the settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from proxy.admin.acts import Acts
from proxy.admin.admission import is_still_admitted
from proxy.admin.api import Api
from proxy.admin.guard import TokenGuard
from proxy.admin.history import History
from proxy.admin.job_index import JobIndex
from proxy.admin.jobs_api import JobsApi
from proxy.admin.listener import Admin
from proxy.admin.lookup import Lookup
from proxy.admin.metrics import Metrics
from proxy.admin.pages.site import Site
from proxy.admin.probe import Probe
from proxy.admin.readiness import Readiness
from proxy.admin.readings import Readings
from proxy.admin.rows import Rows
from proxy.admin.scrape import Scrape
from proxy.admin.sessions import Sessions
from proxy.admin.status import Limits, Status
from proxy.admin.stream import Stream
from proxy.admin.webhooks_api import Receivers, WebhooksApi
from proxy.config.settings import Settings
from proxy.core.retention import Retention
from proxy.jobs.counted import CountedJobs
from proxy.jobs.runner import Runner
from proxy.parts.start import Clock
from proxy.ports import ArtifactStore, Replica, SharedJobs
from proxy.upstream.pool import Pool
from proxy.upstream.watch import UpstreamWatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What the operator's listener shows and changes, of a process that runs exports.

    `shared` is the job store if replicas share it. `notes` returns what an operator should correct,
    by check; `counts` reads the counts, over all workers; `certificate` returns the end of the
    proxy's own certificate in Unix seconds; `webhooks` delivers them, None without any.
    `max_connections` is the listener's own limit.
    """

    jobs: CountedJobs
    shared: SharedJobs | None
    artifacts: ArtifactStore
    runner: Runner
    retention: Retention
    checks: Readiness
    watch: UpstreamWatch
    pools: Iterable[Pool]
    notes: Callable[[], dict[str, str | None]]
    counts: Callable[[], Readings]
    certificate: Callable[[], float | None]
    webhooks: Receivers | None
    max_connections: int


class AdminParts:
    """The parts of the operator's listener. Nothing runs yet."""

    def __init__(self, settings: Settings, watched: Watched, now: Clock) -> None:
        token = settings.admin.token
        self._settings = settings
        self._watched = watched
        self._now = now
        self._probe = Probe(
            checks=watched.checks,
            artifacts=watched.artifacts,
            max_bytes=settings.storage.max_bytes,
        )
        self._rows = Rows(settings.public.url or "", settings.public.segment, now)
        self._index = JobIndex(watched.jobs, self._rows, watched.retention)
        self._sessions = Sessions(now)
        self._api = self._make_api()
        self.admin = Admin(
            checks=watched.checks,
            hosts=settings.admin.hosts,
            guard=TokenGuard(token.get_secret_value(), now) if token else None,
            sessions=self._sessions,
            notes=watched.notes,
            metrics=Metrics(self._scrape()),
            routes=[*self._api.routes(), *self._site(guarded=token is not None).routes()],
            closing=self._api.stream.close,
            max_connections=watched.max_connections,
        )

    @property
    def runs(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """What updates what the listener shows, until cancelled."""
        return self._index.run, self._api.stream.run, self._api.history.run

    def _scrape(self) -> Scrape:
        watched = self._watched
        return Scrape(
            counts=watched.counts,
            probe=self._probe,
            pools=watched.pools,
            oldest=watched.jobs.oldest,
            certificate=watched.certificate,
            now=self._now,
        )

    def _make_api(self) -> Api:
        watched, now = self._watched, self._now
        lookup = Lookup(watched.jobs, watched.retention, now)
        status = self._status()
        return Api(
            status=status,
            history=History(counts=watched.counts, phases=watched.jobs.phases, now=now),
            jobs=JobsApi(self._index, lookup, self._rows),
            acts=Acts(
                jobs=watched.jobs,
                artifacts=watched.artifacts,
                runner=watched.runner,
                lookup=lookup,
                rows=self._rows,
                now=now,
            ),
            webhooks=WebhooksApi(watched.webhooks, lookup),
            stream=Stream(
                index=self._index,
                status=status,
                admitted=lambda request: is_still_admitted(request, self._sessions),
                max_connections=watched.max_connections,
            ),
            replica=None if watched.shared is None else watched.shared.replica,
        )

    def _site(self, *, guarded: bool) -> Site:
        api = self._api
        return Site(
            status=api.status,
            jobs=api.jobs.page,
            job=api.jobs.row,
            guarded=guarded,
            now=self._now,
        )

    def _status(self) -> Status:
        watched, shared = self._watched, self._watched.shared

        async def replicas() -> Sequence[Replica]:
            return () if shared is None else await shared.replicas()

        return Status(
            url=self._settings.upstream.url,
            limits=Limits(
                max_running=self._settings.exports.max_running,
                max_queued=self._settings.exports.max_queued,
                min_free=self._settings.storage.min_free,
            ),
            probe=self._probe,
            watch=watched.watch,
            index=self._index,
            promised=lambda: watched.runner.promised,
            replicas=replicas,
            replica=None if shared is None else shared.replica,
            notes=watched.notes,
            draining=lambda: self.admin.draining,
            now=self._now,
        )

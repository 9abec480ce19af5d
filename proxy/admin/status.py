"""The state of the whole proxy: /api/status (CONTRACT §16)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from proxy import __version__
from proxy.admin.job_index import JobIndex
from proxy.admin.probe import Probe
from proxy.admin.problems import problems
from proxy.core.job_document import timestamp
from proxy.ports import Replica, StoreUnavailable
from proxy.upstream.watch import UpstreamWatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Settings that the state is compared with. Sizes are in bytes."""

    max_running: int
    max_queued: int
    min_free: int


@dataclass(slots=True)
class _Upstream:
    """Whether VB365 responds, since which Unix second, and why it does not; None if not known."""

    reachable: bool | None
    since: float
    reason: str | None = None


class Status:
    """Reads the state.

    `url` is `upstream.url`. `promised` returns the bytes promised to the exports of this process,
    `replicas` the other replicas and this one, none if nothing is shared; `replica` is the id of
    this one. `notes` returns, by check, what an operator should correct although the check
    succeeds; `draining` whether the proxy is stopping. `now` returns Unix seconds.
    """

    def __init__(
        self,
        *,
        url: str,
        limits: Limits,
        probe: Probe,
        watch: UpstreamWatch,
        index: JobIndex,
        promised: Callable[[], int],
        replicas: Callable[[], Awaitable[Sequence[Replica]]],
        replica: str | None,
        notes: Callable[[], dict[str, str | None]],
        draining: Callable[[], bool],
        now: Callable[[], float],
    ) -> None:
        self._url = url
        self._limits = limits
        self._probe = probe
        self._watch = watch
        self._index = index
        self._promised = promised
        self._ask_replicas = replicas
        self._replica = replica
        self._notes = notes
        self._draining = draining
        self._now = now
        self._started = now()
        self._upstream = _Upstream(None, self._started)
        self._replicas: Sequence[Replica] = ()

    async def __call__(self, *, probe: bool = True) -> dict[str, Any]:
        """Return the document. Without `probe`, VB365 and the stores are shown as they were the
        last time; with it, asking them takes at most 2 s.
        """
        if probe:
            await self._probe.update()
        try:
            await self._index.refresh()
            self._replicas = await self._ask_replicas()
        except StoreUnavailable:
            pass  # the checks say so
        self._update_upstream()
        upstream = self._upstream
        document: dict[str, Any] = {
            "version": __version__,
            "startedAt": timestamp(self._started),
            "now": timestamp(self._now()),
            "upstream": {
                "url": self._url,
                "reachable": upstream.reachable,
                "since": timestamp(upstream.since),
                "reason": upstream.reason,
            },
            "jobs": self._index.counts()
            | {"maxRunning": self._limits.max_running, "maxQueued": self._limits.max_queued},
            "attention": self._index.attention(),
            "storage": self._storage(),
            "checks": self._checks(),
            "replica": self._replica,
            "replicas": [
                {"id": each.id, "lastSeen": timestamp(each.seen), "running": each.running}
                for each in sorted(self._replicas, key=lambda each: each.id)
            ],
        }
        return document | {"problems": problems(document, self._now())}

    def _update_upstream(self) -> None:
        """Take over the latest check of VB365, or, before the first one, what the watch found."""
        latest = self._probe.checks.latest()
        if "upstream" in latest:
            reason = latest["upstream"]
            reachable = reason is None
        elif self._watch.tried:
            reason, reachable = None, self._watch.up
        else:
            return
        if self._upstream.reachable is not reachable:
            # what is found first has been so since the start
            since = self._started if self._upstream.reachable is None else self._now()
            self._upstream = _Upstream(reachable, since)
        self._upstream.reason = reason

    def _storage(self) -> dict[str, int | None]:
        used, free = self._probe.storage or (None, None)
        others = sum(each.promised for each in self._replicas if each.id != self._replica)
        return {
            "usedBytes": used,
            "promisedBytes": self._promised() + others,
            "freeBytes": free,
            "limitBytes": self._probe.limit,
            "minFreeBytes": self._limits.min_free,
        }

    def _checks(self) -> dict[str, dict[str, Any]]:
        """The checks of /readyz, as they were the last time."""
        if self._draining():
            return {"shutdown": {"ok": False, "reason": "the proxy is stopping"}}
        notes = self._notes()
        return {
            name: {"ok": why is None, "reason": notes.get(name) if why is None else why}
            for name, why in self._probe.checks.latest().items()
        }

"""Webhooks, made from the settings."""

from __future__ import annotations

import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from proxy.clock import SteadyClock
from proxy.config.settings import Settings
from proxy.config.webhooks import Webhooks as WebhookSettings
from proxy.core.job import Job
from proxy.core.outbox import Subscription, Topic, endpoint_key
from proxy.jobs.noted import NotedJobs, NotedSharedJobs
from proxy.parts.start import Clock
from proxy.ports.counts import WebhookCounts
from proxy.ports.outbox import OutboxJobs, SharedOutboxJobs
from proxy.webhooks.delivery import WebhookDeliveries, Worker
from proxy.webhooks.endpoint import Endpoint
from proxy.webhooks.message import Messages
from proxy.webhooks.signature import signing_key

_UNSPECIFIED = {"0.0.0.0", "::"}  # noqa: S104  # compared, not bound


class WebhookParts:
    """Notes messages in the records of `jobs`, or of `shared` if replicas share the store, and
    makes what delivers them.
    """

    def __init__(
        self, settings: Settings, jobs: OutboxJobs, shared: SharedOutboxJobs | None, now: Clock
    ) -> None:
        self._settings = settings
        self._now = now
        self._to = _subscription(settings.webhooks)
        self.counts = WebhookCounts()
        common = (self._to, self.counts, now)
        self.shared = None if shared is None else NotedSharedJobs(shared, *common)
        self.jobs = self.shared or NotedJobs(jobs, *common)

    def deliveries(
        self, may_drop: Callable[[Job], bool], url: Callable[[], str]
    ) -> WebhookDeliveries:
        """Make what delivers the messages. `may_drop` returns whether a job may still be dropped in
        favour of VB365's first response, and `url` where this process listens.
        """
        public = self._settings.public
        messages = Messages(
            base=lambda: reachable(url()) if public.url is None else public.url,
            segment=public.segment,
            ahead=self._to.ahead,
            now=self._now,
        )
        workers = [
            Worker(
                endpoint,
                jobs=self.jobs,
                messages=messages,
                may_drop=may_drop,
                counts=self.counts,
                now=self._now,
                claims=self.shared is not None,
            )
            for endpoint in endpoints(self._settings.webhooks, self._now)
        ]
        return WebhookDeliveries(
            workers, jobs=self.jobs, to=self._to, counts=self.counts, now=self._now
        )


def _subscription(settings: WebhookSettings) -> Subscription:
    topics = [topic for topic in Topic if topic.type in settings.events or not settings.events]
    return Subscription(
        endpoints=tuple(map(endpoint_key, settings.urls)),
        topics=frozenset(topics),
        ahead=settings.expiring_before,
    )


def endpoints(settings: WebhookSettings, now: Clock) -> list[Endpoint]:
    """Make the endpoints that the settings name."""
    keys = [signing_key(each.get_secret_value()) for each in settings.secrets]
    # receivers reject a message whose timestamp is five minutes from their own time
    system = now.system if isinstance(now, SteadyClock) else now
    return [Endpoint(url, keys, system) for url in settings.urls]


def reachable(url: str) -> str:
    """Return the URL at which others reach a process that listens at `url`: for an unspecified
    address, it has the name of this machine.
    """
    split = urlsplit(url)
    if split.hostname not in _UNSPECIFIED:
        return url
    return f"{split.scheme}://{socket.gethostname()}:{split.port}"

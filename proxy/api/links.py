"""The absolute URLs that a client uses to reach the proxy (CONTRACT §2, §13)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proxy.api.request import OwnRequest
from proxy.core.http.origin import Networks, base_url, client_address
from proxy.core.job import Job
from proxy.core.paths import Links, job_links, list_url
from proxy.core.retention import Retention


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The proxy as clients see it: its URLs, and how long it keeps results and records."""

    public_url: str | None
    trusted: Networks
    segment: str
    retention: Retention

    def links(self, request: OwnRequest, job: Job) -> Links:
        """Return the job's absolute URLs for the client that sent the request."""
        return job_links(self._base(request), job.request.api, self.segment, job.id)

    def listing(self, request: OwnRequest) -> str:
        """Return the absolute URL of the requested list."""
        return list_url(self._base(request), request.api, self.segment)

    def client(self, request: OwnRequest) -> str | None:
        """Return the IP address of the client; that which trusted balancers report, if there are
        any. None if it has none.
        """
        return client_address(_peer(request), self.trusted, request.lines)

    def _base(self, request: OwnRequest) -> str:
        # once for all jobs of a list
        if request.base is None:
            request.base = self._find_base(request)
        return request.base

    def _find_base(self, request: OwnRequest) -> str:
        return base_url(
            public_url=self.public_url,
            trusted=self.trusted,
            peer=_peer(request),
            scheme=request.info("scheme", "http"),
            local=_authority(request.info("sockname", None)),
            fields=request.lines,
        )


def _peer(request: OwnRequest) -> str | None:
    peer = request.info("peername", None)
    return str(peer[0]) if isinstance(peer, tuple) else None


def _authority(address: Any) -> str:
    if not isinstance(address, tuple):
        return "localhost"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{host}:{address[1]}"

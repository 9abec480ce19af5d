"""A job as /api shows it (CONTRACT §16)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy.core import timeline
from proxy.core.job import Job, Moment
from proxy.core.job_document import document, timestamp
from proxy.core.paths import job_links
from proxy.core.retention import as_of

#: Hex digits of the caller's hash.
OWNER = 12


@dataclass(frozen=True, slots=True)
class Rows:
    """Makes rows. `base` is `public.url`, or "" for paths in place of URLs; `segment` is that of
    the proxy's own paths. `now` returns Unix seconds.
    """

    base: str
    segment: str
    now: Callable[[], float]

    def row(self, job: Job) -> dict[str, Any]:
        """Return the job document without its links, and what an operator sees besides. The row of
        a deleted job has the phase Forgotten.
        """
        job = as_of(job, self.now())
        found = document(job, job_links(self.base, job.request.api, self.segment, job.id))
        del found["_links"]
        moments = timeline.whole(job)
        if job.forgotten:
            moments = (*moments, Moment(job.updated, "deleted"))
        delivery = job.delivery
        return found | {
            "owner": job.owner[:OWNER],
            "client": job.client,
            "replica": job.replica,
            "delivered": {
                "bytes": delivery.sent,
                "count": delivery.count,
                "lastAt": None if delivery.last is None else timestamp(delivery.last),
                "whole": delivery.whole,
            },
            "timeline": [
                {"at": timestamp(each.at), "event": each.event, "detail": each.detail}
                for each in moments
            ],
        }

    def encoded(self, job: Job) -> bytes:
        """Return the row as JSON, on one line."""
        return json.dumps(self.row(job), separators=(",", ":")).encode()

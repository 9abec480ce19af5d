"""The body of a message (CONTRACT §17)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from proxy.core import outbox
from proxy.core.job import Job, Phase
from proxy.core.job_document import document
from proxy.core.outbox import Topic
from proxy.core.paths import job_links
from proxy.core.retention import as_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Messages:
    """Makes the bodies. `base` returns the base of the links, `segment` is `public.segment`,
    `ahead` is that of `Subscription`, and `now` the wall clock.
    """

    base: Callable[[], str]
    segment: str
    ahead: float
    now: Callable[[], float]

    def body(self, job: Job, topic: Topic) -> bytes:
        """Return the message as JSON: the job document as it is now, with absolute links."""
        moment = outbox.happened(job, topic, self.ahead)
        return encoded(topic.type, moment, self._document(job))

    def _document(self, job: Job) -> dict[str, Any]:
        shown = as_of(job, self.now())
        if job.forgotten:
            # of a deleted job, the record has what identifies it, and its outcome
            shown = replace(shown, phase=Phase.COMPLETED)
        base = self.base()
        found = document(shown, job_links(base, job.request.api, self.segment, job.id))
        for link in found["_links"].values():
            if link["href"].startswith("/"):
                link["href"] = base + link["href"]
        return found


def encoded(type_: str, moment: float, data: dict[str, Any]) -> bytes:
    """Return a message as JSON. `moment` is in Unix seconds."""
    timestamp = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps({"type": type_, "timestamp": timestamp, "data": data}).encode()

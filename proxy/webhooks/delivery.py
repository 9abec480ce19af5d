"""Delivers the messages in the outboxes of the records (CONTRACT §17).

Theory of operation. Each endpoint has a worker, which asks the store for jobs with a message that
is due, and tries a few of them at a time: a slow endpoint delays no other. A message leaves its
outbox after a 2xx, or when it is given up; a failed try moves its due moment. What is interrupted
is tried again, with the same id: at least once.

Where replicas share the store, any of them may find a due message. It first moves the due moment
beyond the try, which only one of them can do; if it ends meanwhile, another one finds the message
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from proxy.core import outbox
from proxy.core.job import Job, Message
from proxy.core.job_document import timestamp
from proxy.core.outbox import Subscription
from proxy.jobs.noted import NotedJobs
from proxy.jobs.record import until_available
from proxy.ports import StoreUnavailable
from proxy.ports.counts import WebhookCounts
from proxy.webhooks.endpoint import TIMEOUT, Endpoint, Outcome
from proxy.webhooks.message import Messages

log = structlog.get_logger(__name__)

#: Tries of one endpoint at the same time, and how many of them may be about jobs of callers that
#: VB365 has never accepted.
_AT_ONCE, _UNACCEPTED = 4, 3
#: Jobs to look at: those that are being tried, and those that may still be dropped, stay due.
_LOOK = 64
#: Seconds between two checks; a change in this process is noticed immediately.
_PAUSE = 1.0
#: Seconds that a replica has for a try before another one tries.
_CLAIM = TIMEOUT + 15.0
#: Seconds that tries may take to end when the proxy stops.
_PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Last:
    """The last try of an endpoint, and when it ended in Unix seconds."""

    outcome: Outcome
    at: float


class Worker:
    """Delivers to one endpoint. `last` is its last try; `stopped`: it responded with 410."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        jobs: NotedJobs,
        messages: Messages,
        may_drop: Callable[[Job], bool],
        counts: WebhookCounts,
        now: Callable[[], float],
        claims: bool,
    ) -> None:
        self.endpoint = endpoint
        self.stopped = False
        self.last: Last | None = None
        self._jobs = jobs
        self._messages = messages
        self._may_drop = may_drop
        self._counts = counts
        self._now = now
        self._claims = claims
        self._busy: dict[str, asyncio.Task[None]] = {}
        #: Those of them that are about jobs of callers that VB365 has never accepted.
        self._strangers: set[str] = set()
        self._lines = [outbox.line(endpoint.key, accepted=known) for known in (True, False)]
        self._woken = asyncio.Event()
        jobs.listeners.append(self._woken.set)

    async def run(self) -> None:
        """Deliver what is due, until cancelled or the endpoint is gone."""
        try:
            while not self.stopped:
                self._woken.clear()
                try:
                    await self._look()
                except StoreUnavailable as why:
                    log.warning("webhooks not looked for", reason=str(why))
                except Exception:
                    # the worker must outlive a bad record; the next check reports it again
                    log.exception("webhooks not looked for", endpoint_id=self.endpoint.key)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PAUSE):
                        await self._woken.wait()
        finally:
            await self._end()

    async def _end(self) -> None:
        tasks = list(self._busy.values())
        if tasks:
            await asyncio.wait(tasks, timeout=_PATIENCE)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.endpoint.close()

    async def _look(self) -> None:
        now, key = self._now(), self.endpoint.key
        for line in self._lines:
            if self._is_full(line):
                return
            for job in await self._jobs.pending(line, now, _LOOK):
                if self._is_full(line):
                    break
                if job.id in self._busy or self._may_drop(job):
                    continue
                due = [each for each in job.outbox if each.endpoint == key and each.due <= now]
                self._busy[job.id] = task = asyncio.create_task(self._deliver(job, due[0]))
                if not job.accepted:
                    self._strangers.add(job.id)
                task.add_done_callback(partial(self._done, job.id))

    def _is_full(self, line: str) -> bool:
        """Whether no further job of the line may be tried now."""
        strangers = line != self.endpoint.key and len(self._strangers) >= _UNACCEPTED
        return strangers or len(self._busy) >= _AT_ONCE

    async def backlog(self) -> int:
        """The number of jobs with a message for the endpoint. Raises `StoreUnavailable`."""
        return sum([await self._jobs.backlog(line) for line in self._lines])

    async def next_try(self) -> float | None:
        """The Unix second of the next try, None without one. Raises `StoreUnavailable`."""
        key = self.endpoint.key
        first = [job for line in self._lines for job in await self._jobs.pending(line, math.inf, 1)]
        due = (each.due for job in first for each in job.outbox if each.endpoint == key)
        return min(due, default=None)

    def _done(self, id: str, task: asyncio.Task[None]) -> None:
        del self._busy[id]
        self._strangers.discard(id)
        self._woken.set()

    async def _deliver(self, job: Job, message: Message) -> None:
        try:
            await self._try(job, message)
        except StoreUnavailable as why:
            log.warning("webhook not tried", job=job.id, reason=str(why))
            await asyncio.sleep(_PAUSE)
        except Exception:
            # one message must not keep the endpoint from others
            log.exception("webhook not tried", job=job.id)
            await asyncio.sleep(_PAUSE)

    async def _try(self, job: Job, message: Message) -> None:
        if self._claims:
            claimed = outbox.claimed(job, message, self._now() + _CLAIM)
            if not await self._jobs.change_outbox(job, claimed):
                return  # another replica tries, or the job has changed
        topic = outbox.known(message)
        if topic is None:  # a version that knows it may deliver it until it is given up
            outcome = Outcome(None, "this version of the proxy does not know its type", 0.0)
        else:
            body = self._messages.body(job, topic)
            outcome = await self.endpoint.post(outbox.message_id(job, message), body)
            self.last = Last(outcome, self._now())
        if outcome.gone:
            self._stop(job, message, outcome)
            return
        await until_available(lambda: self._settle(job.id, message, outcome), job=job.id)

    def _stop(self, job: Job, message: Message, outcome: Outcome) -> None:
        self.stopped = True
        self._woken.set()
        self._counts.failed += 1
        reason = "it wants no more messages; they wait until the proxy is restarted"
        log.error("webhook.stopped", **self._about(job, message, outcome), reason=reason)

    async def _settle(self, id: str, message: Message, outcome: Outcome) -> None:
        """Record the outcome. Raises `StoreUnavailable`."""
        while (job := await self._jobs.get(id)) is not None:
            current = outbox.found(job, message)
            if current is None:
                return
            next_try = None if outcome.delivered else outbox.retried(current, self._now())
            changed = outbox.changed(job, current, next_try)
            if await self._jobs.change_outbox(job, changed):
                self._report(job, current, outcome, next_try)
                return

    def _report(
        self, job: Job, message: Message, outcome: Outcome, next_try: Message | None
    ) -> None:
        about = self._about(job, message, outcome)
        if outcome.delivered:
            self._counts.delivered += 1
            log.info("webhook.delivered", **about)
            return
        self._counts.failed += 1
        if next_try is None:
            self._counts.given_up += 1
            log.error("webhook.given_up", **about)
        else:
            # from the try, however long the store took to record it
            pause = round(outbox.DELAYS[message.failures])
            log.warning("webhook.failed", **about, seconds_to_next=pause)

    def _about(self, job: Job, message: Message, outcome: Outcome) -> dict[str, object]:
        return {
            "job": job.id,
            "type": outbox.type_of(message.topic),
            "endpoint": self.endpoint.shown,
            "endpoint_id": self.endpoint.key,
            "outcome": str(outcome),
            "attempt": message.failures + 1,
            "seconds": round(outcome.seconds, 3),
        }


class WebhookDeliveries:
    """The workers of all endpoints, and what announces files that are about to expire."""

    def __init__(
        self,
        workers: Sequence[Worker],
        *,
        jobs: NotedJobs,
        to: Subscription,
        counts: WebhookCounts,
        now: Callable[[], float],
    ) -> None:
        self.workers = workers
        self._jobs = jobs
        self._to = to
        self._counts = counts
        self._now = now

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            for worker in self.workers:
                tasks.create_task(worker.run())

    async def show(self) -> list[dict[str, Any]]:
        """Return each receiver as JSON, for the operator, without the path and the query of its
        URL. Raises `StoreUnavailable`.
        """
        return [await self._shown(worker) for worker in self.workers]

    async def _shown(self, worker: Worker) -> dict[str, Any]:
        last, next_try = worker.last, await worker.next_try()
        return {
            "id": worker.endpoint.key,
            "url": worker.endpoint.shown,
            "state": "Stopped" if worker.stopped else "Active",
            "pending": await worker.backlog(),
            "nextTry": None if worker.stopped or next_try is None else timestamp(next_try),
            "last": None
            if last is None
            else {
                "at": timestamp(last.at),
                "status": last.outcome.status,
                "delivered": last.outcome.delivered,
                "outcome": str(last.outcome),
            },
        }

    async def again(self, id: str) -> str | None:
        """Send the last notification of the job to all endpoints again, with the same id, and
        return its type. None if there is no such job. Raises `StoreUnavailable`.
        """
        while (job := await self._jobs.get(id)) is not None and not job.forgotten:
            changed = outbox.again(job, self._to, self._now())
            if await self._jobs.change_outbox(job, changed):
                return outbox.latest(job).type
        return None

    async def _watch(self) -> None:
        while True:
            try:
                await self._announce()
                self._counts.backlog = sum([await each.backlog() for each in self.workers])
            except StoreUnavailable as why:
                log.warning("webhooks not looked for", reason=str(why))
            except Exception:
                log.exception("webhooks not looked for")
            await asyncio.sleep(_PAUSE)

    async def _announce(self) -> None:
        """Give the messages that were planned for now to the endpoints."""
        now = self._now()
        for job in await self._jobs.pending(outbox.PLANNED, now, _LOOK):
            await self._jobs.change_outbox(job, outbox.announced(job, self._to, now))

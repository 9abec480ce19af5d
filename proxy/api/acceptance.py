"""Whether VB365 has accepted the caller of a new job (CONTRACT §3.5)."""

from __future__ import annotations

from dataclasses import replace

from proxy.core.job import Job
from proxy.jobs.admission import UnacceptedCallers
from proxy.jobs.held_fields import HeldFields
from proxy.jobs.run import Run
from proxy.jobs.runner import Runner
from proxy.ports import Fields
from proxy.upstream.access import Access
from proxy.upstream.credentials import Credentials


class Acceptance:
    """Asks VB365 about the callers of new jobs, only where something depends on it.

    Callers that it has never accepted share a part of what unfinished jobs may use: anyone can
    invent any number of tokens.
    """

    def __init__(self, access: Access, runner: Runner, held_fields: HeldFields) -> None:
        self._access = access
        self._runner = runner
        self._held_fields = held_fields

    async def marked(
        self, job: Job, credentials: Credentials, fields: Fields, *, learned: bool | None
    ) -> Job:
        """Return the new job with what is known of its caller. `learned` is the result of
        `Access.learn`.

        VB365 is asked again only for a job that may have to wait: its record depends on it if VB365
        answers 401 later. The preflight proves nothing (CONTRACT §2).
        """
        if learned or self._access.knows(fields):
            return replace(job, accepted=True)
        asked = learned is None or (credentials.claims and not credentials.cookie)
        if asked or not await self._runner.is_full():
            return job
        return replace(job, accepted=await self._access.accepts(credentials))

    async def hold(self, job: Job, credentials: Credentials, run: Run) -> Job:
        """Count the header fields of the run, and return the job as `confirmed` does if that
        depends on its caller. Raises `Problem` 503.
        """
        try:
            self._held_fields.take(run, job.sealed, accepted=job.accepted)
        except UnacceptedCallers as why:
            job = await self.confirmed(job, credentials, why)
            self._held_fields.take(run, job.sealed, accepted=True)
        return job

    async def confirmed(self, job: Job, credentials: Credentials, why: UnacceptedCallers) -> Job:
        """Return the job with its caller marked as accepted. Raises `why` if VB365 does not accept
        the credentials.
        """
        if not await self._access.accepts(credentials):
            raise why
        return replace(job, accepted=True)

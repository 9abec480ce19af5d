"""A synchronous export that may run as a job, and what its client gets."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.core.errors import Problem
from proxy.core.http.fields import value_of
from proxy.core.http.heads import Head, ResponseHead
from proxy.core.job import ExportRequest, Job
from proxy.jobs.followers import HandedOver
from proxy.net.budget import Share
from proxy.ports import Fields, Reader, Tail, WholeResponse
from proxy.rescue.source import Pieces
from proxy.upstream.credentials import Credentials


@dataclass(frozen=True, slots=True)
class Call:
    """One request, whole. `memory` counts for its body; `client` is the address of its client,
    `began` the time of the event loop at which it was whole.
    """

    head: Head = field(repr=False)
    fields: Fields = field(repr=False)
    credentials: Credentials = field(repr=False)
    export: ExportRequest
    body: bytes = field(repr=False)
    memory: Share = field(repr=False)
    client: str | None
    began: float

    @property
    def ranged(self) -> bool:
        """Whether the request asks for a part of the file."""
        return value_of(self.fields, b"range") is not None


@dataclass(frozen=True, slots=True)
class Growing:
    """VB365's 200, and the file while it is stored. The caller closes the tail.
    `restarted`: the export has started again from zero.
    """

    job: Job
    head: ResponseHead
    tail: Tail
    restarted: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """VB365's 200, and the whole file. The caller closes the reader."""

    job: Job
    head: ResponseHead
    reader: Reader

    @property
    def restarted(self) -> bool:
        """Whether the export has started again from zero."""
        return self.job.attempt > 1


@dataclass(frozen=True, slots=True)
class StoredElsewhere:
    """VB365's 200, and all bytes of the file while another replica stores it: no part of it, which
    its digest could not prove.
    """

    job: Job
    head: ResponseHead
    pieces: Pieces

    @property
    def restarted(self) -> bool:
        """Whether the export has started again from zero."""
        return self.job.attempt > 1


@dataclass(frozen=True, slots=True)
class Handed:
    """An open response that is not stored. `lines` are its field lines for this client."""

    over: HandedOver
    lines: bytes


class Relayed:
    """The request goes to VB365 as if there were no rescue."""


class Broken:
    """The job was cancelled or deleted, or its file is lost: the connection ends."""


RELAYED, BROKEN = Relayed(), Broken()
File = Growing | Stored | StoredElsewhere
Outcome = File | Handed | WholeResponse | Problem | Relayed | Broken

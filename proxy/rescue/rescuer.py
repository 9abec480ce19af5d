"""Starts the exchanges of rescued exports, and makes what they need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.core.events import Delivered
from proxy.core.http.heads import Head
from proxy.core.http.origin import Networks
from proxy.core.routing import Rescue
from proxy.downstream.duplex import ClientSide, Exchange, Forwarder
from proxy.jobs.held_fields import HeldFields
from proxy.jobs.runner import Runner
from proxy.jobs.sealing import Sealer
from proxy.ports import ArtifactStore, Followable, JobStore, Prepared, Published
from proxy.ports.counts import FileCounts, JobCounts
from proxy.ports.tracing import Tracing
from proxy.rescue.deliveries import RescueDeliveries
from proxy.rescue.elsewhere import Elsewhere
from proxy.rescue.exchange import Needs, RescueExchange
from proxy.rescue.following import Following
from proxy.rescue.joining import Joining
from proxy.rescue.request import Memory
from proxy.upstream.access import Access


@dataclass(frozen=True, slots=True, kw_only=True)
class RescuePolicy:
    """Times in seconds and sizes in bytes (CONTRACT §15 `exports`). `trusted` are the proxies that
    report clients' addresses.
    """

    grace: float
    ttl: float
    max_body: int
    trusted: Networks


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores of a proxy."""

    jobs: JobStore
    artifacts: ArtifactStore

    @property
    def followable(self) -> Followable | None:
        """The artifact store if its files can be followed."""
        return self.artifacts if isinstance(self.artifacts, Followable) else None

    @property
    def elsewhere(self) -> Elsewhere | None:
        """Reads the files of other replicas, None if the artifact store cannot."""
        published = self.artifacts if isinstance(self.artifacts, Published) else None
        return None if published is None else Elsewhere(self.jobs, self.artifacts, published)


class Rescuer:
    """See the module."""

    def __init__(self, needs: Needs) -> None:
        self._needs = needs

    def start(self, client: ClientSide, head: Head, decision: Rescue, *, whole: bool) -> Exchange:
        """Serve the export. `whole`: no byte of a body follows.

        A client with a connection to VB365 of its own is relayed: its credentials are those of the
        connection.
        """
        if client.private is not None:
            return self._needs.relay.start(client, head, decision.target, whole=whole)
        exchange = RescueExchange(self._needs, client, head, decision, whole=whole)
        exchange.begin()
        return exchange


def rescuer(
    stores: Stores,
    *,
    access: Access,
    runner: Runner,
    sealer: Sealer,
    relay: Forwarder,
    memory: Memory,
    held_fields: HeldFields,
    note: Callable[[str, Delivered], None],
    served: FileCounts,
    counts: JobCounts,
    prepare: Callable[[], Prepared],
    tracing: Tracing,
    policy: RescuePolicy,
    now: Callable[[], float],
) -> Rescuer:
    """Make a `Rescuer`. `memory` bounds the gathered bodies, `held_fields` the fields of unfinished
    exports; `note` records a delivery later, `served` counts the bytes that are sent, `prepare`
    begins to connect to VB365, `tracing` makes spans, `now` returns Unix seconds.
    """
    deliveries = RescueDeliveries(
        stores.jobs, spawn=runner.tasks.record, note=note, counts=served, now=now
    )
    joining = Joining(
        jobs=stores.jobs,
        access=access,
        runner=runner,
        sealer=sealer,
        held_fields=held_fields,
        deliveries=deliveries,
        counts=counts,
        prepare=prepare,
        grace=policy.grace,
        ttl=policy.ttl,
        now=now,
    )
    following = Following(
        joining,
        jobs=stores.jobs,
        artifacts=stores.artifacts,
        followable=stores.followable,
        elsewhere=stores.elsewhere,
        runner=runner,
        now=now,
    )
    return Rescuer(
        Needs(
            relay=relay,
            following=following,
            deliveries=deliveries,
            tracing=tracing,
            memory=memory,
            max_body=policy.max_body,
            trusted=policy.trusted,
        )
    )

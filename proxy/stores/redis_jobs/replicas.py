"""The replicas of a cluster: its identity, their leases, and the key of its owner hashes."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from uuid import uuid4

from proxy.ports import Replica, StoreUnavailable
from proxy.ports.artifacts import GIVEN_UP
from proxy.stores.redis_jobs import scripts
from proxy.stores.redis_jobs.cluster import Identity, agreed
from proxy.stores.redis_jobs.connections import Connections

#: The field of the cluster with the id that its replicas offer to an artifact store.
_OFFERED = "offered"
#: Seconds that the renewal of a lease may take, and the part of the lease that is the most.
_PATIENCE, _SHARE = 5.0, 1 / 3


class RedisReplicas:
    """The part of `SharedJobs` about replicas. `lease` is the length of a lease in seconds."""

    def __init__(self, connections: Connections, prefix: str, lease: float) -> None:
        self.replica = str(uuid4())
        self._connections = connections
        self._prefix = prefix
        self._lease = round(lease * 1000)
        self._patience = min(_PATIENCE, _SHARE * lease)
        self._identity: Identity | None = None
        self._owner_key = b""

    async def join(self, identity: Identity) -> None:
        """Join the cluster that uses the prefix, or begin it. Raises `WrongCluster`, and nothing is
        changed.
        """
        found = await self._connections.run(scripts.JOIN, *identity.fields())
        for name, value in agreed(identity, found, self._prefix).items():
            await self._connections.command("HSET", self._cluster, name, value)
        if identity.files is not None:
            await self._connections.command("HDEL", self._cluster, _OFFERED)
        self._identity = identity

    async def files_id(self) -> str | None:
        """The id of the artifact store that has the files of the cluster, or `GIVEN_UP`; None
        before the first replica has joined.
        """
        return await self._cluster_field("files")

    async def offered_id(self, new: str) -> str:
        """The id for an artifact store that has none, the same for all replicas that start: `new`
        for the first one. It is forgotten once a replica has joined with it.
        """
        await self._connections.command("HSETNX", self._cluster, _OFFERED, new)
        return await self._cluster_field(_OFFERED) or new

    async def _cluster_field(self, name: str) -> str | None:
        found = await self._connections.command("HGET", self._cluster, name)
        return None if found is None else str(found.decode())

    @property
    def give_up(self) -> str:
        """How an operator gives the files of the cluster up."""
        command = f"HSET {self._cluster} files {GIVEN_UP} artifacts {GIVEN_UP}"
        return f"run `{command}` in the job store"

    @property
    def _cluster(self) -> str:
        return f"{self._prefix}cluster"

    async def owner_key(self) -> bytes:
        """The key of all owner hashes of the cluster, made by the first call (CONTRACT §9)."""
        offered = secrets.token_bytes(32)
        self._owner_key = await self._connections.run(scripts.OWNER_KEY, offered)
        return self._owner_key

    async def renew(self, *, running: int, promised: int) -> None:
        """As `SharedJobs.renew`. A store that has lost its data gets the owner key and the identity
        of the cluster back; if another replica has begun a new cluster in it before, that raises
        `StoreUnavailable`.
        """
        report = json.dumps({"running": running, "promised": promised})
        identity = () if self._identity is None else self._identity.fields()
        args = (self.replica, self._lease, report, self._owner_key, *identity)
        key = await self._connections.run(scripts.RENEW, *args, urgent=self._patience)
        if self._owner_key and key != self._owner_key:
            raise StoreUnavailable(
                "the job store has lost its data, and another replica has begun with a new owner "
                "key: restart this replica"
            )

    async def leave(self) -> None:
        """As `SharedJobs.leave`."""
        await self._connections.run(scripts.LEAVE, self.replica)

    async def replicas(self) -> Sequence[Replica]:
        """As `SharedJobs.replicas`."""
        found = await self._connections.run(scripts.REPLICAS)
        return [
            Replica(id=name.decode(), seen=float(seen), **json.loads(report))
            for name, seen, report in found
        ]

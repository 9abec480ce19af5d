"""Whether the store's version and settings are fit for jobs (CONTRACT §18)."""

from __future__ import annotations

import time as wall
from collections.abc import Iterator, Mapping

from proxy.ports import StoreUnavailable
from proxy.stores.redis_jobs.connections import Connections

_OLDEST = (6, 2)
#: Seconds by which the clocks of store and replica may differ.
_SKEW = 5.0


async def version(connections: Connections) -> None:
    """Raise `StoreUnavailable` if the store cannot be reached or is too old."""
    found = _parsed(await connections.command("INFO", "server"))
    # Valkey names the version of Redis that it is compatible with, which is 7.2 or later
    number = found.get("redis_version", "")
    parts = tuple(int(part) for part in number.split(".")[:2] if part.isdigit())
    if len(parts) == 2 and parts < _OLDEST:
        raise StoreUnavailable(
            f"storage.jobs: the server is Redis {number}: use Redis 6.2 or later, or Valkey"
        )


async def notes(connections: Connections) -> list[str]:
    """A sentence for each setting that puts jobs at risk, with the fix."""
    found: dict[str, str] = {}
    for section in ("memory", "persistence"):
        found |= _parsed(await connections.command("INFO", section))
    for name in ("save", "appendfsync"):
        # managed services do not show their configuration
        try:
            reply = await connections.command("CONFIG", "GET", name)
        except StoreUnavailable:
            continue
        if len(reply) == 2:
            found[name] = reply[1].decode()
    before = wall.time()
    store = await time(connections)
    skew = (before + wall.time()) / 2 - store
    return [*_eviction(found), *_persistence(found), *_clock(skew)]


async def time(connections: Connections) -> float:
    """The Unix second on the store's clock."""
    seconds, micros = await connections.command("TIME")
    return int(seconds) + int(micros) / 1e6


def _parsed(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, separator, value in lines if separator}


def _eviction(found: Mapping[str, str]) -> Iterator[str]:
    policy = found.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys-"):
        yield (
            "The job store may drop jobs when its memory is full: "
            f"its maxmemory-policy is {policy}. Set it to noeviction."
        )
    elif policy.startswith("volatile-"):
        yield (
            f"The job store may drop the leases of replicas when its memory is full, and others "
            f"would take their jobs over: its maxmemory-policy is {policy}. Set it to noeviction."
        )


def _persistence(found: Mapping[str, str]) -> Iterator[str]:
    if found.get("aof_enabled", "0") == "1":
        if found.get("appendfsync") == "no":
            yield (
                "The job store may lose the jobs of the last minute when its machine fails: its "
                "appendfsync is no. Set it to everysec or always."
            )
        if found.get("aof_last_write_status", "ok") != "ok":
            yield "The job store cannot write its append-only file: check its disk."
        return
    fix = "Set appendonly yes."
    if found.get("save") == "":
        yield f"The job store keeps jobs in memory only: a restart of it loses them all. {fix}"
    else:
        yield (
            "The job store writes snapshots only: a restart of it may lose the jobs since the last "
            f"one. {fix}"
        )


def _clock(skew: float) -> Iterator[str]:
    if abs(skew) > _SKEW:
        ahead = "ahead of" if skew > 0 else "behind"
        yield (
            f"The clock of this machine is {abs(skew):.0f} s {ahead} that of the job store. "
            "Synchronise both with NTP."
        )

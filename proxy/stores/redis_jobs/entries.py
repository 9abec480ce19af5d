"""A job as the store keeps it: its data, and its entries in the indexes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import structlog

from proxy.core import outbox, retention
from proxy.core.job import Job, Phase
from proxy.core.job_codec import decode, encode
from proxy.core.rescue import unique_key
from proxy.ports import RecordDamaged, StoreUnavailable

#: Bytes of a record above which it is compressed, to about half its size.
_LARGE = 512
_ZLIB_HEADER = b"\x78"
#: Bytes of a damaged record that are logged: not so many that they have more than its id.
_SHOWN = 48

log = structlog.get_logger(__name__)


def pack(job: Job) -> bytes:
    """The job's data."""
    data = encode(job)
    return data if len(data) <= _LARGE else zlib.compress(data, 1)


def unpack(data: bytes) -> Job:
    """The job from its data. Raises `RecordDamaged` if it is not one."""
    try:
        return decode(zlib.decompress(data) if data.startswith(_ZLIB_HEADER) else data)
    except (ValueError, zlib.error) as why:
        raise RecordDamaged(f"the job store holds a record that is damaged: {why}") from why


def unpack_all(records: Iterable[bytes]) -> list[Job]:
    """The jobs from their data, without those that are damaged: one must not hide all others."""
    jobs = []
    for data in records:
        try:
            jobs.append(unpack(data))
        except RecordDamaged as why:
            _report(data[:_SHOWN], str(why))
    return jobs


@lru_cache(maxsize=256)
def _report(record: bytes, why: str) -> None:
    """Log a damaged record, once."""
    log.error("job record skipped", reason=why, record=repr(record))


def pack_body(body: bytes) -> bytes:
    """The request body as it is stored: a byte that says how, and the bytes."""
    if len(body) > _LARGE and len(small := zlib.compress(body, 1)) < len(body):
        return b"\x01" + small
    return b"\x00" + body


def unpack_body(data: bytes) -> bytes:
    """The request body. Raises `StoreUnavailable` if it is not one."""
    try:
        return zlib.decompress(data[1:]) if data.startswith(b"\x01") else data[1:]
    except zlib.error as why:
        raise StoreUnavailable(f"the job store holds a body that is damaged: {why}") from why


def is_waiting(job: Job) -> bool:
    """Whether the job waits for a slot."""
    return job.phase is Phase.QUEUED and not job.terminal and job.holder is None


def entries(job: Job) -> bytes:
    """What the indexes hold of the job, as JSON for the scripts (lua/common.lua).

    Equal entries are equal bytes. Numbers are text, which loses no digit.
    """
    found: dict[str, Any] = {"created": _number(job.created), "owners": job.owners}
    if not job.terminal:
        found["live"] = True
    if (key := unique_key(job)) is not None:
        found["key"] = key
    if job.request.session is not None:
        found["session"] = job.request.session.lower()
    if (stage := retention.stage(job)) is not None:
        found |= {"stage": stage[0], "moment": _number(stage[1])}
    if (rank := retention.spent(job)) is not None:
        found |= {"rank": "ended" if rank[0] else "refused", "ended": _number(rank[1])}
    if waiting := outbox.pending(job):
        found["outbox"] = {endpoint: _number(due) for endpoint, due in waiting.items()}
    if not job.terminal and not job.forgotten and job.phase is not Phase.SUSPENDED:
        found["replica"] = job.holder or job.replica or ""
        found |= {"slot": True} if job.holder is not None else {}
        found |= {"waiting": True} if is_waiting(job) else {}
        found |= {} if job.accepted else {"unaccepted": True}
    return json.dumps(found, separators=(",", ":")).encode()


def _number(value: float) -> str:
    return repr(float(value))


def text(value: str) -> bytes:
    """The bytes of a text in a key, as Lua has them after parsing JSON."""
    return value.encode("utf-8", "surrogatepass")


def texts(values: Iterable[str]) -> Iterable[bytes]:
    """The bytes of texts in keys."""
    return map(text, values)


def claim_key(owner: str, key: str) -> tuple[bytes, bytes]:
    """The key of an owner, as the scripts take it."""
    return text(owner), text(key)


def check_next(old: Job, new: Job) -> None:
    """Raise ValueError unless `new` is the same job."""
    if old.id != new.id:
        raise ValueError("a job is replaced by its own next version")

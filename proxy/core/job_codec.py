"""A job as the bytes that stores keep."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, TypeVar

from proxy.core.job import (
    Delivery,
    ErrorCode,
    ExportRequest,
    FileFacts,
    Job,
    JobError,
    Message,
    Moment,
    Origin,
    Phase,
    ResultState,
    Status,
)

_T_ = TypeVar("_T_")


def _revive(kind: type[_T_], raw: dict[str, Any], **decoded: Any) -> _T_:
    # The names are those of the class, not the equal ones of `raw`: a call finds a parameter by
    # identity first, and compares texts with each of 40 parameters only if that fails.
    found = {name: raw[name] for name in _NAMES[kind] if name in raw}
    return kind(**(found | decoded))


_NAMES: dict[type[Any], tuple[str, ...]] = {
    kind: tuple(member.name for member in fields(kind))
    for kind in (Job, ExportRequest, FileFacts, JobError, Delivery)
}


def _members(value: Any) -> dict[str, Any]:
    """The members by name. `dataclasses.asdict` copies them, which takes ten times as long."""
    return {name: getattr(value, name) for name in _NAMES[type(value)]}


def encode(job: Job) -> bytes:
    """The job as UTF-8 JSON, as stores keep it."""
    raw = _members(job)
    raw["answer"] = raw.pop("file")  # its name since version 0.1.0
    for name in ("request", "answer", "error", "delivery"):
        raw[name] = None if raw[name] is None else _members(raw[name])
    raw["timeline"] = [[moment.at, moment.event, moment.detail] for moment in job.timeline]
    raw["outbox"] = [[each.topic, each.endpoint, each.due, each.failures] for each in job.outbox]
    return json.dumps(raw, separators=(",", ":")).encode()


def decode(data: bytes) -> Job:
    """The job from the output of `encode`. Unknown members, of a newer version, are ignored.

    Raises ValueError if the data is not a job.
    """
    try:
        raw = json.loads(data)
        error = raw["error"]
        return _revive(
            Job,
            raw,
            request=_revive(ExportRequest, raw["request"]),
            status=Status(raw["status"]),
            phase=Phase(raw["phase"]),
            file=None if raw["answer"] is None else _revive(FileFacts, raw["answer"]),
            result=None if raw["result"] is None else ResultState(raw["result"]),
            error=None
            if error is None
            else _revive(JobError, error, code=ErrorCode(error["code"])),
            aliases=tuple(raw.get("aliases", ())),
            origin=Origin(raw.get("origin", Origin.ASYNC)),
            delivery=_revive(Delivery, raw.get("delivery") or {}),
            timeline=tuple(Moment(*moment) for moment in raw.get("timeline", ())),
            outbox=tuple(
                Message(str(topic), str(endpoint), float(due), int(failures))
                for topic, endpoint, due, failures in raw.get("outbox", ())
            ),
            # version 0.1.0 did not record it: its jobs keep the normal retention
            accepted=bool(raw.get("accepted", True)),
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as why:
        raise ValueError(f"not a job record: {why!r}") from why

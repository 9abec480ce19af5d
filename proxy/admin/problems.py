"""What is wrong with the proxy, from the document of /api/status: the dashboard's verdict."""

from __future__ import annotations

from datetime import datetime
from typing import Any

#: What a failed check of /readyz means, most urgent first.
_CHECKS = {
    "shutdown": "The proxy is stopping",
    "upstream": "VB365 is unreachable",
    "jobs": "The job store is unavailable",
    "artifacts": "The file storage is unavailable",
    "space": "Not enough free disk space",
}
#: Seconds without a sign of life after which a replica is reported.
_SILENCE = 60.0


def problems(status: dict[str, Any], now: float) -> list[dict[str, Any]]:
    """Return what is wrong, most urgent first: `level` ("error" or "warning"), `text`, and `since`
    and `reason` or None.
    """
    return [*_failed(status), *_noted(status), *_exhausted(status), *_silent(status, now)]


def _problem(level: str, text: str, since: str | None, reason: str | None) -> dict[str, Any]:
    return {"level": level, "text": text, "since": since, "reason": reason}


def _failed(status: dict[str, Any]) -> list[dict[str, Any]]:
    upstream, checks = status["upstream"], dict(status.get("checks", {}))
    if upstream["reachable"] is False:
        known = {"reason": upstream.get("reason"), "since": upstream.get("since")}
        checks["upstream"] = checks.get("upstream", {}) | {"ok": False} | known
    elif upstream["reachable"]:
        checks.pop("upstream", None)
    names = [*_CHECKS, *(name for name in checks if name not in _CHECKS)]
    return [
        _problem(
            "error",
            _CHECKS.get(name, f"The check {name} fails"),
            checks[name].get("since"),
            checks[name].get("reason"),
        )
        for name in names
        if name in checks and not checks[name]["ok"]
    ]


def _noted(status: dict[str, Any]) -> list[dict[str, Any]]:
    checks = status.get("checks", {}).values()
    return [
        _problem("warning", check["reason"], None, None)
        for check in checks
        if check["ok"] and check.get("reason")
    ]


def _exhausted(status: dict[str, Any]) -> list[dict[str, Any]]:
    jobs = status["jobs"]
    if jobs.get("maxQueued") and jobs["queued"] >= jobs["maxQueued"]:
        text = f"The queue is full: {jobs['queued']} exports are waiting, and new ones get 503"
        return [_problem("warning", text, None, None)]
    return []


def _silent(status: dict[str, Any], now: float) -> list[dict[str, Any]]:
    return [
        _problem("warning", f"Replica {replica['id']} is silent", replica["lastSeen"], None)
        for replica in status.get("replicas", ())
        if now - datetime.fromisoformat(replica["lastSeen"]).timestamp() > _SILENCE
    ]

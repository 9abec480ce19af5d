"""Documents as /api returns them."""

from __future__ import annotations

from typing import Any

NOW = 1_700_000_000.0
STARTED, ENDED = "2023-11-14T21:13:20Z", "2023-11-14T21:53:20Z"
SESSION = "6e3f0c8e-1111-4222-8333-444455556666"
REFUSED = "Veeam Backup for Microsoft 365 answered 500: 64-bit Outlook must be installed"


def row(**changes: Any) -> dict[str, Any]:
    """An export that is transferred."""
    return {
        "id": "5f0c6d3e-0000-4000-8000-000000000001",
        "type": "Export",
        "status": "Running",
        "phase": "Transferring",
        "title": "exportToPst",
        "message": "Transferring 1.5 of 5.0 GiB",
        "order": 0,
        "creationTime": STARTED,
        "startTime": STARTED,
        "endTime": None,
        "lastUpdateTime": STARTED,
        "expirationTime": None,
        "eTag": 17,
        "attempt": 1,
        "itemSizeBytes": 5 << 30,
        "progress": {
            "percent": 30,
            "bytesReceived": 3 << 29,
            "bytesTotal": 5 << 30,
            "bytesPerSecond": 100 << 20,
            "secondsRemaining": 36,
        },
        "request": {
            "method": "POST",
            "path": f"/v8/RestoreSessions/{SESSION}/organization/mailboxes/b951/exportToPst",
            "restoreSessionId": SESSION,
            "idempotencyKey": None,
        },
        "result": None,
        "error": None,
        "owner": "0a1b2c3d4e5f",
        "origin": "Async",
        "joined": 0,
        "replica": None,
        "delivered": {"bytes": 0, "count": 0, "lastAt": None},
        "timeline": [{"at": STARTED, "event": "accepted", "detail": ""}],
    } | changes


def failed(**changes: Any) -> dict[str, Any]:
    """An export that VB365 refused."""
    upstream = {
        "status": 500,
        "contentType": "application/json",
        "body": {"message": "64-bit Outlook must be installed"},
        "truncated": False,
    }
    error = {
        "code": "UpstreamError",
        "message": REFUSED,
        "retryable": False,
        "upstream": upstream,
    }
    ended = {"status": "Failed", "phase": "Completed", "endTime": ENDED, "message": REFUSED}
    return row(**(ended | {"error": error} | changes))


def succeeded(count: int = 0, state: str = "Available", **changes: Any) -> dict[str, Any]:
    """An export whose file was fetched `count` times."""
    result = {
        "state": state,
        "href": "/v8/_async/exports/x/result",
        "mediaType": "application/octet-stream",
        "format": "Pst",
        "fileName": "Mailbox.pst",
        "size": 5 << 30,
        "sha256": "ab" * 32,
    }
    delivered = {"bytes": count * (5 << 30), "count": count, "lastAt": ENDED if count else None}
    ended = {"status": "Success", "phase": "Completed", "endTime": ENDED, "result": result}
    expires = {"expirationTime": "2023-11-15T21:53:20Z", "message": "Exported 5.0 GiB"}
    return row(**(ended | expires | {"delivered": delivered} | changes))


def status(**changes: Any) -> dict[str, Any]:
    """A proxy that is well."""
    return {
        "version": "1.2.3",
        "startedAt": STARTED,
        "upstream": {"url": "https://vb365.example.com:4443", "reachable": True},
        "jobs": {"running": 1, "queued": 0, "suspended": 0},
        "attention": {"failedLastDay": 0, "notFetched": 0},
        "storage": {
            "usedBytes": 10 << 30,
            "promisedBytes": 5 << 30,
            "freeBytes": 30 << 30,
            "limitBytes": None,
        },
        "replicas": [],
        "problems": [],
    } | changes

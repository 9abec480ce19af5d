"""Requests of exports, as jobs keep them."""

from __future__ import annotations

from typing import Any

from proxy.core.job import ExportRequest


def export_request(**changes: Any) -> ExportRequest:
    """The request of an export of a mailbox in the session "s"."""
    given: dict[str, Any] = {
        "method": "POST",
        "target": "/v8/RestoreSessions/s/organization/mailboxes/m/exportToPst",
        "api": "v8",
        "session": "s",
        "title": "exportToPst",
        "content_type": None,
        "accept": None,
        "accept_language": None,
        "idempotency_key": None,
        "fingerprint": "f",
    }
    return ExportRequest(**(given | changes))

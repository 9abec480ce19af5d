"""The settings and their defaults (CONTRACT §15)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from proxy.config import load
from proxy.config.addresses import HostPort
from proxy.config.settings import SECTIONS, Exports
from tests.unit.config.values import URL, problems_of

#: CONTRACT §15, row by row, as it is written there; None where it names no default.
TABLE: dict[str, dict[str, Any]] = {
    "listen": {
        "address": HostPort("0.0.0.0", 4443), "tls_certificate": None, "tls_key": None,
        "head_timeout": 60.0, "handshake_timeout": 10.0, "idle_timeout": 150.0,
        "max_connections": 10_000, "workers": 1,
    },
    "upstream": {
        "host": None, "ca_file": None, "fingerprint": None, "verify": True, "preserve_host": True,
        "check_timeout": 5.0, "forwarded": False, "connect_timeout": 10.0, "pool": 0,
    },
    "exports": {
        "max_running": 4, "max_running_per_caller": 0, "max_queued": 1000, "max_per_caller": 50,
        "grace": 2.0, "max_wait": 45.0, "preflight": True,
        "preflight_timeout": 5.0, "max_request_body": 16 * 2**20, "body_memory": 64 * 2**20,
        "generate_timeout": 24 * 3600.0, "stall_timeout": 600.0, "attempts": 3,
        "suspend_ttl": 3600.0, "cancel_hold": 120.0, "max_records_per_caller": 1000,
        "result_ttl": 24 * 3600.0, "record_ttl": 7 * 24 * 3600.0, "watch_events": True,
        "reports": False, "rescue_sync": False, "rescue_ttl": 3600.0,
    },
    "storage": {
        "dir": Path("/var/lib/vb365-async-proxy"), "jobs": "disk", "artifacts": "file",
        "min_free": 5 * 2**30, "max_records": 20_000, "max_bytes": None,
    },
    "access": {"cache": 60.0},
    "secrets": {"key": None, "key_file": None},
    "public": {"url": None, "trusted_proxies": (), "segment": "_async"},
    "cluster": {"heartbeat": 10.0, "lease": 30.0},
    "admin": {"address": HostPort("127.0.0.1", 9465), "token": None, "hosts": ()},
    "log": {
        "format": "console",
        "level": "info",
        "file": None,
        "audit": None,
        "access": True,
        "max_size": 64 << 20,
        "keep": 5,
    },
    "webhooks": {"urls": (), "secrets": (), "events": (), "expiring_before": 3600.0},
}  # fmt: skip


def test_every_default_is_that_of_the_contract() -> None:
    """§15: the table, key by key; `upstream.url` is the one required setting."""
    settings = load(None, {"upstream.url": URL}, {})
    for section, values in TABLE.items():
        found = {
            key: getattr(getattr(settings, section), key) for key in SECTIONS[section].model_fields
        }
        assert found == values | ({"url": URL} if section == "upstream" else {})
    assert list(SECTIONS) == list(TABLE)


def test_the_upstream_is_required() -> None:
    """§15: `url (required)`, and the problem says all three ways to set it."""
    (problem,) = problems_of({})
    assert (problem.key, problem.problem) == ("upstream.url", "is required")
    assert "--upstream" in problem.hint
    assert "VB365_PROXY_UPSTREAM__URL" in problem.hint


def test_settings_are_frozen() -> None:
    settings = load(None, {"upstream.url": URL}, {})
    with pytest.raises(ValidationError, match="frozen"):
        settings.exports.grace = 1.0
    with pytest.raises(ValidationError, match="frozen"):
        settings.exports = Exports()


def test_code_may_set_values_as_they_are() -> None:
    """Values that code passes are not parsed: seconds and bytes."""
    assert Exports(grace=0.05, max_request_body=10).grace == 0.05

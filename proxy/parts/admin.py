"""The operator's listener, made from the settings."""

from __future__ import annotations

from collections.abc import Callable

from proxy.admin.guard import TokenGuard
from proxy.admin.listener import Admin
from proxy.admin.metrics import Metrics
from proxy.admin.readiness import Readiness
from proxy.admin.scrape import Scrape
from proxy.config.network import Admin as AdminSettings
from proxy.parts.start import Clock


def admin_application(
    settings: AdminSettings,
    *,
    checks: Readiness,
    scrape: Scrape,
    notes: Callable[[], dict[str, str | None]],
    now: Clock,
) -> Admin:
    """Make the admin application. `notes` returns what an operator should correct, by check."""
    token = settings.token
    return Admin(
        checks=checks,
        metrics=Metrics(scrape),
        hosts=settings.hosts,
        guard=TokenGuard(token.get_secret_value(), now) if token else None,
        notes=notes,
    )

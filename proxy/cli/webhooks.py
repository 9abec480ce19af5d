"""`webhooks test`: whether the receivers accept what the proxy posts (CONTRACT §17)."""

from __future__ import annotations

from proxy.clock import SteadyClock
from proxy.config.settings import Settings
from proxy.parts.webhooks import endpoints
from proxy.webhooks.ping import ping


async def try_webhooks(settings: Settings) -> tuple[list[str], bool]:
    """Post a test message to each URL. Return a line for each, and whether all were accepted."""
    now = SteadyClock()
    found = endpoints(settings.webhooks, now)
    outcomes = await ping(found, now)
    lines = [
        f"{endpoint.shown} ({endpoint.key}): {outcome}, {outcome.seconds:.2f} s"
        for endpoint, outcome in zip(found, outcomes, strict=True)
    ]
    return lines, all(outcome.delivered for outcome in outcomes)

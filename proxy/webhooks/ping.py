"""A test of all endpoints, for `webhooks test` on the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from uuid import uuid4

from proxy.webhooks.endpoint import Endpoint, Outcome
from proxy.webhooks.message import encoded


async def ping(endpoints: Sequence[Endpoint], now: Callable[[], float]) -> list[Outcome]:
    """Post a signed message of the type `webhook.test` to each endpoint, and return the outcomes.

    `now` returns Unix seconds.
    """
    body = encoded("webhook.test", now(), {})
    try:
        return await asyncio.gather(*(each.post(f"msg_{uuid4().hex}", body) for each in endpoints))
    finally:
        for each in endpoints:
            await each.close()

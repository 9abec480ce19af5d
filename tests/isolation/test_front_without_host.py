"""A front whose default site answers 200 to anything, and a proxy without `upstream.host`
(CONTRACT §2).
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from proxy import app
from tests.contract.conftest import MakeStage, Stage
from tests.isolation.front import HOST, fronted
from tests.isolation.test_who_a_caller_is import ASYNC, KEY, LIST, forged
from tests.support.local_proxy import settings_of
from tests.support.wire import ask


async def test_a_forged_token_is_nobody(
    make_stage: MakeStage,
    tmp_path: Path,
    closing: contextlib.AsyncExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """§2, §8: it finds no job of the identity that it claims, and takes no key of it; /readyz says
    what to correct.
    """
    monkeypatch.setattr("proxy.upstream.access._ANONYMOUS_START", 0)
    stage = await make_stage({"token": "jwt", "size": 1000})
    front = await closing.enter_async_context(fronted(stage.simulator))
    await stage.running.stop()
    settings = settings_of(front.url, tmp_path / "front", {"EXPORTS__PREFLIGHT": "false"})
    stage.running = await app.start(settings, stage.clock)
    try:
        while (await upstream_check(stage)).get("reason") is None:  # noqa: ASYNC110  # as a probe does
            await asyncio.sleep(0.05)
        stage.fields["Host"] = HOST
        mallory = stage.fields | {"Authorization": forged(stage.fields["Authorization"])}
        first = (await stage.kickoff(stage.export, Idempotency_Key=KEY)).json()["id"]
        await stage.finished(f"{LIST}/{first}")
        listed = await stage.ask("GET", LIST, mallory)
        assert (listed.status, listed.json()["results"]) == (200, [])
        again = await stage.ask(
            "POST", stage.export, mallory | dict(ASYNC) | {"Idempotency-Key": KEY}, b"{}"
        )
        assert (again.status, "Idempotency-Replayed" in again) == (202, False)
        await stage.ask(
            "POST", stage.export, mallory | dict(ASYNC) | {"Idempotency-Key": "next"}, b"{}"
        )
        hers = await stage.kickoff(stage.export, Idempotency_Key="next")
        assert "Idempotency-Replayed" not in hers
        replayed = await stage.kickoff(stage.export, Idempotency_Key=KEY)
        assert replayed["Location"].endswith(first)
        upstream = await upstream_check(stage)
        assert upstream["ok"] is True
        assert "upstream.host" in upstream["reason"]
    finally:
        await stage.running.stop()


async def upstream_check(stage: Stage) -> Any:
    ready = await ask(stage.running.admin_url, "GET", "/readyz")
    assert ready.status == 200, ready
    return ready.json()["checks"]["upstream"]

"""CONTRACT §16, §17: webhooks as the operator sees them, and "deliver again"."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from proxy.core import outbox
from tests.contract.conftest import Clock, MakeStage, Stage
from tests.contract.test_16_acts import act
from tests.contract.test_16_api import get, id_of
from tests.contract.test_17_webhooks import counted, delivered, hooked
from tests.support.log_lines import check_documented, logged
from tests.support.receiver import Receiver, receiving
from tests.support.redis_server import RedisServer


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


async def shown(stage: Stage) -> list[Any]:
    response = await get(stage, "/api/webhooks")
    assert response.status == 200, response
    return list(response.json()["results"])


async def test_the_receivers_are_shown_without_their_paths(
    make_stage: MakeStage, receiver: Receiver, clock: Clock
) -> None:
    """State, what is pending, the last outcome and the next try."""
    async with receiving() as gone:
        gone.always(410)
        url = f"{receiver.url}/c4nary?sig=c4nary,{gone.url}"
        events = {"WEBHOOKS__URLS": url, "WEBHOOKS__EVENTS": "export.succeeded"}
        with logged() as log:
            stage = await make_stage(**hooked(receiver, **events))
            receiver.always(503)
            await stage.done()
            await counted(stage, delivered("failed"), 2)
            failing, stopped = await shown(stage)
            assert failing["url"] == receiver.url.removesuffix("/hook")
            assert (failing["state"], failing["pending"]) == ("Active", 1)
            assert failing["last"]["status"] == 503
            assert failing["last"]["delivered"] is False
            assert failing["nextTry"] > failing["last"]["at"]
            assert (stopped["state"], stopped["nextTry"]) == ("Stopped", None)
            assert stopped["last"]["outcome"] == "410 Gone"
            assert "c4nary" not in str([failing, stopped])
            receiver.always(204)
            clock.ahead += 10
            await counted(stage, delivered("delivered"), 1)
            (good, _) = await shown(stage)
            assert (good["pending"], good["last"]["delivered"]) == (0, True)
        check_documented(log.entries)
        names = {"webhook.failed", "webhook.stopped", "webhook.delivered"}
        assert all(log.named(name) for name in names)


async def test_a_message_that_an_older_version_has_stored_is_shown(
    make_stage: MakeStage,
    receiver: Receiver,
    valkey_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It did not store those about callers that VB365 has never accepted apart. Redis keeps where
    they are.
    """
    jobs = f"{valkey_server.url}?prefix={uuid4()}"
    stage = await make_stage(**hooked(receiver, EXPORTS__PREFLIGHT="false", STORAGE__JOBS=jobs))
    receiver.always(503)
    stage.simulator.fault(path="items/save", method="POST", status=401)
    with monkeypatch.context() as older:
        older.setattr(outbox, "line", lambda endpoint, accepted: endpoint)
        invented = {"Authorization": "Bearer x", "Prefer": "respond-async"}
        await stage.ask("POST", stage.path_of("items/save"), invented, b"{}")
        await counted(stage, delivered("failed"), 2)
        await counted(stage, "backlog", 1)
    (found,) = await shown(stage)
    assert found["pending"] == 1
    assert found["nextTry"] is not None


async def test_a_notification_is_delivered_again_with_its_id(
    make_stage: MakeStage, receiver: Receiver
) -> None:
    """The last one of the job; the operator's act is on record, and the job is shown unchanged."""
    stage = await make_stage(**hooked(receiver))
    status = await stage.done()
    (before,) = await receiver.types("export.succeeded")
    await counted(stage, "backlog", 0)
    document = await stage.get(status)
    with logged() as log:
        response = await act(stage, "POST", f"{id_of(status)}/webhooks/redeliver")
    assert response.status == 202
    assert response.json() == {"id": id_of(status), "type": "export.succeeded"}
    posts = await receiver.count(3)
    assert (posts[-1].id, posts[-1].json) == (before.id, before.json)
    assert (await stage.get(status))["ETag"] == document["ETag"]
    (entry,) = log.named("job.operator_act")
    assert (entry["act"], entry["job"]) == ("redeliver", id_of(status))


async def test_without_receivers_nothing_can_be_delivered(stage: Stage) -> None:
    status = await stage.done()
    assert await shown(stage) == []
    response = await act(stage, "POST", f"{id_of(status)}/webhooks/redeliver")
    assert response.status == 400
    assert "webhooks.urls" in response.json()["detail"]


async def test_of_a_deleted_or_unknown_job_nothing_is_delivered(
    make_stage: MakeStage, receiver: Receiver
) -> None:
    stage = await make_stage(**hooked(receiver))
    status = await stage.done()
    await receiver.types("export.succeeded")
    assert (await stage.ask("DELETE", status)).status == 204
    for job in (id_of(status), "5f0c6d3e-0000-4000-8000-000000000000"):
        assert (await act(stage, "POST", f"{job}/webhooks/redeliver")).status == 404

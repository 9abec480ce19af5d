"""CONTRACT §17: webhooks, over the wire, to real receivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from proxy.core.job import Job, Message, Phase, Status
from proxy.core.outbox import endpoint_key
from proxy.jobs.noted import NotedJobs
from proxy.stores.disk_jobs.store import DiskJobs
from tests.contract.conftest import Clock, MakeStage, Stage
from tests.support.fakes import new_job
from tests.support.log_lines import check_documented, logged
from tests.support.receiver import OTHER_SECRET, SECRET, Receiver, receiving
from tests.support.wire import ask


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


#: The sweeper looks several times within the shortest time to live, at most every 15 s. No job is
#: suspended here.
SWEPT = {"EXPORTS__SUSPEND_TTL": "1s"}


def hooked(*receivers: Receiver, **more: str) -> dict[str, str]:
    urls = ",".join(each.url for each in receivers)
    return {"WEBHOOKS__URLS": urls, "WEBHOOKS__SECRETS": SECRET} | more


async def outcomes(stage: Stage) -> dict[str, float]:
    """The values of the webhook metrics."""
    response = await ask(stage.running.admin_url, "GET", "/metrics", {})
    lines = response.body.decode().splitlines()
    found = [line.split() for line in lines if line.startswith("vb365_proxy_webhook_")]
    return {name.partition("webhook_")[2]: float(value) for name, value in found}


async def counted(stage: Stage, name: str, value: float) -> None:
    """Wait until the metric has the value: it is counted after the response has arrived."""
    async with asyncio.timeout(20):
        while (await outcomes(stage))[name] != value:  # noqa: ASYNC110  # metrics are polled
            await asyncio.sleep(0.05)


def delivered(outcome: str) -> str:
    return f'deliveries_total{{outcome="{outcome}"}}'


async def test_a_success_is_posted_as_standard_webhooks_says(
    make_stage: MakeStage, receiver: Receiver
) -> None:
    """The public library verifies the signature; `data` is the job document."""
    stage = await make_stage(**hooked(receiver))
    status = await stage.done()
    accepted, succeeded = await receiver.types("export.accepted", "export.succeeded")
    for post in (accepted, succeeded):
        assert Webhook(SECRET).verify(post.body, dict(post.headers)) == post.json
        assert post.headers["Content-Type"] == "application/json"
        assert post.path == "/hook"
        assert set(post.json) == {"type", "timestamp", "data"}
    document = (await stage.get(status)).json()
    data = succeeded.json["data"]
    assert data == document | {
        "_links": data["_links"],
        "result": document["result"] | {"href": data["result"]["href"]},
    }
    assert succeeded.json["timestamp"] == document["endTime"]
    assert accepted.json["timestamp"] == document["creationTime"]
    assert accepted.id != succeeded.id
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER_SECRET).verify(succeeded.body, dict(succeeded.headers))


async def test_the_links_are_absolute(make_stage: MakeStage, receiver: Receiver) -> None:
    """They begin with `public.url`; without it, with the address that the proxy listens at."""
    stage = await make_stage(**hooked(receiver))
    status = await stage.done()
    (post,) = await receiver.types("export.succeeded")
    links = post.json["data"]["_links"]
    assert links["self"]["href"] == stage.url + status
    assert (
        links["result"]["href"]
        == post.json["data"]["result"]["href"]
        == stage.url + status + "/result"
    )
    assert links["restoreSession"]["href"] == f"{stage.url}/v8/RestoreSessions/{stage.session}"
    fetched = await stage.get(stage.path(links["result"]["href"]))
    assert fetched.body == stage.file()


async def test_the_links_have_the_public_url(make_stage: MakeStage, receiver: Receiver) -> None:
    stage = await make_stage(**hooked(receiver, PUBLIC__URL="https://backup.example.com/vb"))
    await stage.kickoff(stage.export)
    (post,) = await receiver.types("export.succeeded")
    for link in post.json["data"]["_links"].values():
        assert link["href"].startswith("https://backup.example.com/vb/v8/")


async def test_a_failure_has_the_error(make_stage: MakeStage, receiver: Receiver) -> None:
    stage = await make_stage(**hooked(receiver))
    stage.fault(hold=True, outlook_missing=True)
    status = await stage.begun(stage.export)
    await stage.held()
    stage.simulator.release()
    await stage.finished(status)
    (post,) = await receiver.types("export.failed")
    assert post.json["data"]["status"] == "Failed"
    assert post.json["data"]["error"]["code"] == "UpstreamError"


@pytest.mark.parametrize("how", ["cancel", "delete"])
async def test_a_cancelled_export_is_reported(
    make_stage: MakeStage, receiver: Receiver, how: str
) -> None:
    """Also one that is deleted: its tombstone still has its outcome."""
    stage = await make_stage(**hooked(receiver))
    stage.fault(hold=True)
    status = await stage.begun(stage.export)
    await stage.held()
    if how == "cancel":
        await stage.ask("POST", status + "/cancel")
    else:
        await stage.ask("DELETE", status)
    (post,) = await receiver.types("export.cancelled")
    data = post.json["data"]
    assert (data["status"], data["phase"]) == ("Cancelled", "Completed")
    assert data["_links"]["self"]["href"] == stage.url + status


async def test_a_warning_is_reported_as_one(make_stage: MakeStage, receiver: Receiver) -> None:
    stage = await make_stage(**hooked(receiver))
    stage.fault(event="Warning")
    status = await stage.begun(stage.export)
    assert (await stage.finished(status)).json()["status"] == "Warning"
    (post,) = await receiver.types("export.warning")
    assert post.json["data"]["status"] == "Warning"


async def test_expiry_is_announced_and_reported(
    make_stage: MakeStage, receiver: Receiver, clock: Clock
) -> None:
    """`export.expiring` comes `webhooks.expiring_before` ahead."""
    settings = {"EXPORTS__RESULT_TTL": "24h", "WEBHOOKS__EXPIRING_BEFORE": "2h"}
    stage = await make_stage(**hooked(receiver, **settings, **SWEPT))
    await stage.done()
    await receiver.types("export.succeeded")
    clock.ahead = 22 * 3600 - 60
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2.5):
            await receiver.types("export.expiring")
    clock.ahead = 22 * 3600 + 1
    (expiring,) = await receiver.types("export.expiring")
    assert expiring.json["data"]["result"]["state"] == "Available"
    expires = expiring.json["data"]["expirationTime"]
    ahead = datetime.fromisoformat(expires) - datetime.fromisoformat(expiring.json["timestamp"])
    assert abs(ahead.total_seconds() - 7200) <= 1
    clock.ahead = 24 * 3600 + 1
    (expired,) = await receiver.types("export.expired")
    assert expired.json["data"]["result"]["state"] == "Expired"
    assert expired.json["timestamp"] == expires


async def test_a_file_that_is_deleted_is_not_announced(
    make_stage: MakeStage, receiver: Receiver, clock: Clock
) -> None:
    stage = await make_stage(**hooked(receiver))
    status = await stage.done()
    assert (await stage.ask("DELETE", status + "/result")).status == 204
    clock.ahead = 25 * 3600
    later = await stage.done()
    await receiver.until(lambda posts: [post.type for post in posts].count("export.succeeded") == 2)
    assert "export.expiring" not in {post.type for post in receiver.posts}
    assert later != status


async def test_events_are_selected(make_stage: MakeStage, receiver: Receiver) -> None:
    stage = await make_stage(**hooked(receiver, WEBHOOKS__EVENTS="export.succeeded"))
    for _ in range(2):
        await stage.done()
    await receiver.count(2)
    assert {post.type for post in receiver.posts} == {"export.succeeded"}


async def test_an_export_that_vb365_refuses_at_once_is_reported_to_nobody(
    make_stage: MakeStage, receiver: Receiver
) -> None:
    """§3.7: there is no job."""
    stage = await make_stage(**hooked(receiver, EXPORTS__GRACE="30s"))
    stage.fault(hold=True, outlook_missing=True, count=1)
    kicking = asyncio.create_task(stage.kickoff(stage.export))
    await stage.held()
    await asyncio.sleep(1.5)  # more than the pause between two looks for messages
    stage.simulator.release()
    assert (await kicking).status == 500
    await stage.done()
    (accepted, _) = await receiver.types("export.accepted", "export.succeeded")
    assert [post.type for post in receiver.posts].count("export.accepted") == 1
    assert accepted.json["data"]["status"] != "Failed"


async def test_a_failed_try_is_repeated_with_the_same_id(
    make_stage: MakeStage, receiver: Receiver, clock: Clock
) -> None:
    """After 5 s, 5 m, 30 m, 2 h, 5 h, 10 h, then given up: logged and counted."""
    stage = await make_stage(**hooked(receiver, WEBHOOKS__EVENTS="export.accepted"))
    receiver.always(500)
    await stage.done()
    (first,) = await receiver.count(1)
    for number, delay in enumerate((5, 300, 1800, 7200, 18000, 36000), 1):
        await counted(stage, delivered("failed"), number)
        clock.ahead += delay - 2
        await asyncio.sleep(0)
        assert len(receiver.posts) == number
        clock.ahead += 4
        posts = await receiver.count(number + 1)
        assert posts[-1].id == first.id
        sent = int(posts[-1].headers["webhook-timestamp"])
        assert abs(sent - clock()) < 10, "the time of the try"
    await counted(stage, delivered("given_up"), 1)
    assert (await outcomes(stage))[delivered("failed")] == 7
    clock.ahead += 86400
    await counted(stage, "backlog", 0)
    assert len(receiver.posts) == 7


async def test_an_endpoint_that_is_away_for_an_hour_gets_everything(
    make_stage: MakeStage, clock: Clock
) -> None:
    async with receiving() as first:
        port = int(first.url.rpartition(":")[2].partition("/")[0])
        url = first.url
    stage = await make_stage(WEBHOOKS__URLS=url, WEBHOOKS__SECRETS=SECRET)
    jobs = [await stage.done() for _ in range(3)]
    await counted(stage, delivered("failed"), 6)
    for _ in range(4):
        clock.ahead += 900
        await asyncio.sleep(1.2)  # the tries that are due meanwhile fail
    await counted(stage, "backlog", 3)
    async with receiving(port) as back:
        clock.ahead += 7200
        await back.count(6)
        await counted(stage, "backlog", 0)
        received = {(post.json["data"]["id"], post.type) for post in back.posts}
        ids = {status.rpartition("/")[2] for status in jobs}
        types = ("export.accepted", "export.succeeded")
        assert received == {(id_, type_) for id_ in ids for type_ in types}


async def test_a_redirect_is_not_followed(make_stage: MakeStage, receiver: Receiver) -> None:
    """An attacker who controls one receiver reaches no other server through the proxy."""
    async with receiving() as inside:
        stage = await make_stage(**hooked(receiver))
        receiver.always(307, Location=inside.url)
        await stage.done()
        await receiver.count(2)
        await counted(stage, delivered("failed"), 2)
        assert inside.posts == []


async def test_410_stops_the_endpoint_until_a_restart(
    make_stage: MakeStage, receiver: Receiver, clock: Clock
) -> None:
    async with receiving() as other:
        stage = await make_stage(**hooked(receiver, other, WEBHOOKS__EVENTS="export.succeeded"))
        receiver.always(410)
        await stage.done()
        await receiver.count(1)
        clock.ahead += 86400
        await stage.done()
        await other.count(2)
        await asyncio.sleep(1.5)  # more than the pause between two looks for messages
        assert len(receiver.posts) == 1
        await stage.running.stop()
        receiver.always(204)
        again = await make_stage(**hooked(receiver, other, WEBHOOKS__EVENTS="export.succeeded"))
        await receiver.count(3)
        await counted(again, "backlog", 0)
        assert len(receiver.posts) == 3
        assert len(other.posts) == 2


async def test_a_slow_endpoint_delays_no_other(make_stage: MakeStage, receiver: Receiver) -> None:
    """The slow one holds all of its tries; the fast one gets every message meanwhile."""
    hold = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await hold.wait()
        return web.Response()

    async with receiving() as fast:
        stage = await make_stage(**hooked(receiver, fast))
        receiver.respond = slow
        try:
            for _ in range(6):
                await stage.done()
            await fast.count(12)
            assert len(receiver.posts) == 4, "tries of one endpoint are bounded"
        finally:
            hold.set()
        await receiver.count(12)


async def test_keys_rotate_without_a_lost_message(
    make_stage: MakeStage, receiver: Receiver
) -> None:
    """One signature per secret: a receiver with the old one and one with the new one verify."""
    stage = await make_stage(**hooked(receiver, WEBHOOKS__SECRETS=f"{OTHER_SECRET},{SECRET}"))
    await stage.done()
    (post,) = await receiver.types("export.succeeded")
    assert len(post.headers["webhook-signature"].split()) == 2
    for secret in (SECRET, OTHER_SECRET):
        assert Webhook(secret).verify(post.body, dict(post.headers))


async def test_a_hostile_response_costs_nothing(make_stage: MakeStage, receiver: Receiver) -> None:
    """Endless bodies and bombs are not read: what counts is the status."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Encoding": "gzip", "Set-Cookie": "a=b"})
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(65536))
                sent.append(65536)
        finally:
            ended.set()

    sent: list[int] = []
    ended = asyncio.Event()
    stage = await make_stage(**hooked(receiver, WEBHOOKS__EVENTS="export.succeeded"))
    receiver.respond = endless
    await stage.done()
    async with asyncio.timeout(20):
        await ended.wait()
    await counted(stage, delivered("delivered"), 1)
    assert sum(sent) < 32 << 20
    receiver.always(204)
    await stage.done()
    posts = await receiver.count(2)
    assert "Cookie" not in posts[1].headers


async def test_a_change_of_the_outbox_is_not_shown(
    make_stage: MakeStage, receiver: Receiver
) -> None:
    """Neither ETag nor document change, and no long-poll returns."""
    hold = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await hold.wait()
        return web.Response()

    receiver.respond = slow
    stage = await make_stage(**hooked(receiver))
    stage.fault(hold=True)
    status = await stage.begun(stage.export)
    await stage.held()
    generating = await stage.until(status, lambda document: document["phase"] == "Generating")
    await receiver.count(1)
    polling = asyncio.create_task(
        stage.get(status, Prefer="wait=3", If_None_Match=generating["ETag"])
    )
    hold.set()
    await counted(stage, delivered("delivered"), 1)
    assert (await polling).status == 304
    after = await stage.get(status)
    assert after["ETag"] == generating["ETag"]
    assert after.body == generating.body
    stage.simulator.release()
    await stage.finished(status)


async def test_the_log_never_has_the_url_or_a_secret(
    make_stage: MakeStage, receiver: Receiver, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    """The path or the query of a receiver's URL often is its only protection."""
    url = receiver.url + "/c4nary?sig=c4nary"
    stage = await make_stage(**hooked(receiver, WEBHOOKS__URLS=url))
    receiver.always(500)
    await stage.done()
    posts = await receiver.count(2)
    assert {post.path for post in posts} == {"/hook/c4nary?sig=c4nary"}
    await counted(stage, delivered("failed"), 2)
    shown = "".join(capsys.readouterr()) + caplog.text + repr(stage.running.settings)
    assert "c4nary" not in shown
    assert SECRET not in shown


async def test_the_log_says_the_pause_also_if_the_store_is_slow(
    make_stage: MakeStage, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a second to record the try."""
    change = NotedJobs.change_outbox

    async def slowly(jobs: NotedJobs, old: Job, new: Job) -> bool:
        clock.ahead += 1
        return await change(jobs, old, new)

    monkeypatch.setattr(NotedJobs, "change_outbox", slowly)
    with logged() as log:
        stage = await make_stage(**hooked(receiver))
        receiver.always(503)
        await stage.done()
        await counted(stage, delivered("failed"), 2)
    pauses = [each["seconds_to_next"] for each in log.named("webhook.failed")]
    assert pauses[:2] == [5, 5]


async def test_a_record_that_is_over_is_kept_until_it_is_delivered(
    make_stage: MakeStage, receiver: Receiver, clock: Clock
) -> None:
    """For callers it is gone; the receiver still gets what happened."""
    events = "export.succeeded,export.expired"
    ttl = {"EXPORTS__RESULT_TTL": "10m", "EXPORTS__RECORD_TTL": "10m"}
    stage = await make_stage(**hooked(receiver, WEBHOOKS__EVENTS=events, **ttl, **SWEPT))
    receiver.always(503)
    status = await stage.done()
    await counted(stage, delivered("failed"), 1)
    clock.ahead = 2 * 3600
    await receiver.types("export.expired")
    assert (await stage.get(status)).status == 404
    receiver.always(204)
    clock.ahead += 3600
    await counted(stage, delivered("delivered"), 2)
    assert (await stage.get(status)).status == 404
    await counted(stage, "backlog", 0)


async def test_a_message_of_a_type_that_only_another_version_knows_keeps_nobody_waiting(
    make_stage: MakeStage, receiver: Receiver, tmp_path: Path, clock: Clock
) -> None:
    """It is tried as seldom as one that a receiver refuses, and so it is logged as seldom."""
    jobs = await DiskJobs.open(tmp_path / "data")
    now, key = clock(), endpoint_key(receiver.url)
    foreign = [Message("archived", key, 0.0), Message("failed", key, 1.0)]
    job = new_job(
        status=Status.FAILED,
        phase=Phase.COMPLETED,
        created=now,
        updated=now,
        ended=now,
        outbox=tuple(foreign),
    )
    await jobs.add(job, b"")
    await jobs.close()
    with logged() as log:
        stage = await make_stage(**hooked(receiver))
        (post,) = await receiver.types("export.failed")
        assert post.json["data"]["id"] == job.id
        await counted(stage, delivered("delivered"), 1)
    check_documented(log.entries)
    (tried,) = [each for each in log.entries if each.get("type") == "export.archived"]
    assert (tried["event"], tried["seconds_to_next"]) == ("webhook.failed", 5)
    assert "does not know its type" in tried["outcome"]
    assert not [each for each in log.entries if each["event"] == "webhook not tried"]


async def test_messages_about_invented_tokens_do_not_delay_others(
    make_stage: MakeStage, receiver: Receiver
) -> None:
    """Anyone can cause any number of them, and a receiver takes its time for each."""
    stage = await make_stage(**hooked(receiver, EXPORTS__PREFLIGHT="false"))
    strangers: set[str] = set()
    release = asyncio.Event()

    async def respond(request: web.Request) -> web.StreamResponse:
        if (await request.json())["data"]["id"] in strangers:
            await release.wait()
        return web.Response(status=204)

    receiver.respond = respond
    stage.simulator.fault(path="items/save", method="POST", status=401)
    for number in range(8):
        invented = {"Authorization": f"Bearer {number}", "Prefer": "respond-async"}
        response = await stage.ask("POST", stage.path_of("items/save"), invented, b"{}")
        strangers.add(response.json()["id"])
    await stage.done()
    await receiver.types("export.succeeded")
    release.set()

"""Exports through real balancers: time-outs, addresses, prefixes, files (CONTRACT §6, §13)."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import pytest
import yarl

from proxy.simulator import SimulatorSettings
from tests.interop.balancers.balancer import PREFIX, SPLIT, THROUGH
from tests.interop.balancers.conftest import Scene, SceneMaker

#: The balancers' read time-outs of a minute, as two seconds.
HASTY = {
    "nginx": {"proxy_read_timeout 60s": "proxy_read_timeout 2s"},
    "haproxy": {"timeout server 60s": "timeout server 2s"},
}


def mailbox(scene: Scene) -> str:
    """The path of a mailbox's export to PST."""
    paths = scene.vb365.export_paths(scene.vb365.open_session())
    return next(
        path for path in paths if path.lower().endswith("/exporttopst") and "/mailboxes/" in path
    )


async def fetched(scene: Scene, job: str) -> bytes:
    """The finished job's file, its digest verified against the job document and VB365's own
    content.
    """
    document = await scene.outcome(job)
    assert document["status"] == "Success", document
    async with scene.http.get(f"{job}/result", headers=scene.vb365.login()) as response:
        assert response.status == 200
        return await response.read()


@pytest.mark.parametrize("variant", [THROUGH, SPLIT])
async def test_an_async_export_outlives_the_balancers_time_out_and_a_sync_one_does_not(
    scene: SceneMaker, name: str, variant: int
) -> None:
    """CONTRACT §3, §4: what this product is for."""
    silent = SimulatorSettings(size=300_000, generate=3.5)
    async with scene(stand_in=silent, changes=HASTY[name], EXPORTS__MAX_WAIT="1s") as here:
        path = mailbox(here)
        job = await here.kick_off(path, variant)
        async with here.http.post(
            here.balancer.url(variant) + mailbox(here), data=b"{}", headers=here.vb365.login()
        ) as response:
            assert response.status == 504
        content = await fetched(here, job)
        assert hashlib.sha256(content).hexdigest() == here.vb365.content(path).sha256()


async def test_addresses_are_those_that_the_client_used(scene: SceneMaker) -> None:
    """CONTRACT §13: the balancer is a trusted peer and says X-Forwarded-Proto and -Host."""
    async with scene() as here:
        job = await here.kick_off(mailbox(here))
        assert job.startswith(f"{here.balancer.url()}/v8/_async/exports/")
        document = await here.outcome(job)
        assert document["_links"]["result"]["href"] == f"{job}/result"


async def test_forwarding_fields_of_a_client_are_overwritten(scene: SceneMaker) -> None:
    """CONTRACT §13: the shipped configurations overwrite every field that the proxy believes."""
    more = {
        "Forwarded": "proto=http;host=evil.example",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Port": "1",
        "X-Forwarded-Prefix": "/evil",
    }
    async with scene() as here:
        for variant in (THROUGH, SPLIT):
            job = await here.kick_off(mailbox(here), variant, **more)
            assert job.startswith(f"{here.balancer.url(variant)}/v8/_async/exports/")


async def test_forwarding_fields_of_an_untrusted_balancer_are_ignored(scene: SceneMaker) -> None:
    """CONTRACT §13: without `public.trusted_proxies` the proxy tells its own scheme and the Host it
    was asked for.
    """
    async with scene(PUBLIC__TRUSTED_PROXIES="192.0.2.1") as here:
        job = await here.kick_off(mailbox(here))
        assert job.startswith(f"{here.balancer.url().replace('https', 'http')}/v8/_async/exports/")


async def test_public_url_overrides_forwarding_fields(scene: SceneMaker) -> None:
    """CONTRACT §13; the proxy's own paths answer at its prefix too."""
    async with scene(PUBLIC__URL="https://backup.example/m365") as here:
        job = await here.kick_off(mailbox(here))
        assert job.startswith("https://backup.example/m365/v8/_async/exports/")
        inside = job.removeprefix("https://backup.example")
        document = await here.outcome(here.balancer.url() + inside)
        assert document["status"] == "Success"


async def test_below_a_path_prefix(scene: SceneMaker) -> None:
    """CONTRACT §12, §13: the prefix is cut off, an id with %2F stays as it is, and every address
    has the prefix.
    """
    async with scene() as here:
        paths = here.vb365.export_paths(here.vb365.open_session())
        for path in (mailbox(here), next(path for path in paths if "%2F" in path)):
            job = await here.kick_off(path, PREFIX, "/vb365")
            assert job.startswith(f"{here.balancer.url(PREFIX)}/vb365/v8/_async/exports/")
            content = await fetched(here, job)
            assert hashlib.sha256(content).hexdigest() == here.vb365.content(path).sha256()
        async with here.http.get(f"{here.balancer.url(PREFIX)}/v8/ServiceInstance") as response:
            assert response.status == 404


async def test_a_status_long_poll_and_vb365s_own(scene: SceneMaker, name: str) -> None:
    """CONTRACT §4: `Prefer: wait` is answered before the balancer loses patience; and so is VB365's
    long-poll.
    """
    async with scene(changes=HASTY[name], EXPORTS__MAX_WAIT="1s") as here:
        here.vb365.fault(path="exportToPst", hold=True)
        job = await here.kick_off(mailbox(here))
        fields = here.vb365.login() | {"Prefer": "wait=100"}
        async with here.http.get(job, headers=fields) as response:
            assert response.status == 202
            tag = response.headers["ETag"]
        started = time.monotonic()
        async with here.http.get(job, headers=fields | {"If-None-Match": tag}) as response:
            assert response.status == 304
        assert time.monotonic() - started >= 0.9
        events = yarl.URL(f"{here.balancer.url()}/v8/Events?timeoutSeconds=1")
        async with here.http.get(events, headers=here.vb365.login()) as response:
            assert response.status == 200
        here.vb365.release()
        assert (await here.outcome(job))["status"] == "Success"


async def test_ranges_and_validators_get_through(scene: SceneMaker) -> None:
    """CONTRACT §6."""
    async with scene(stand_in=SimulatorSettings(size=100_000)) as here:
        path = mailbox(here)
        job = await here.kick_off(path)
        whole = await fetched(here, job)
        fields: dict[str, Any] = here.vb365.login() | {"Range": "bytes=99990-"}
        async with here.http.get(f"{job}/result", headers=fields) as response:
            assert response.status == 206
            assert response.headers["Content-Range"] == "bytes 99990-99999/100000"
            assert response.headers["ETag"].startswith('"')
            assert await response.read() == whole[-10:]
        async with here.http.get(
            f"{job}/result", headers=fields | {"Range": "bytes=100000-"}
        ) as response:
            assert response.status == 416

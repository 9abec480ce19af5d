"""The pictures of the documentation: a dashboard at work. `make pictures` keeps them."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from proxy.admin.status import Status
from proxy.core.job import Delivery, ErrorCode, FileFacts, JobError, Moment, Phase, ResultState
from proxy.core.job import Status as Outcome
from proxy.simulator import SimulatorSettings
from tests.support.browser import browser, opened
from tests.support.dashboard import Scene, scene, seed
from tests.support.fakes import new_job

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "images"
OUTLOOK = (
    "Veeam Backup for Microsoft 365 answered 500: To perform export to PST, 64-bit version of "
    "Microsoft Outlook 2013 or later must be installed"
)
SESSION = "{:08x}-4c1e-4b7e-9a53-0f3f6a2b9c11"
GIB = 1 << 30
MOST_BYTES = 200_000
#: The charts that are wider than their cards.
WIDER = """[...document.querySelectorAll("#charts figure")].filter((figure) =>
  figure.querySelector(".u-wrap").getBoundingClientRect().right >
  figure.getBoundingClientRect().right).map((figure) => figure.id)"""


def history(now: float) -> dict[str, Any]:
    """An hour at work, in which one export failed."""
    found = []
    for minute in range(60):
        wave = math.sin(minute / 7) + math.sin(minute / 3.1) / 2
        working = minute % 23 < 15
        found.append(
            {
                "at": time.strftime("%Y-%m-%dT%H:%M:00Z", time.gmtime(now - 60 * (59 - minute))),
                "storedBytes": int(max(0.0, 3 + wave) * GIB) if working else 0,
                "servedBytes": int(max(0.0, 1.4 - wave) * GIB) if minute % 11 < 6 else 0,
                "running": 2 if working else 1,
                "queued": max(0, round(1.4 + wave)) if working else 0,
                "finished": {"Success": int(minute % 9 == 4), "Failed": int(minute in (17, 48))},
                "requests": {"200": int(900 + 300 * wave), "404": 24 + minute % 5},
                "p50": 0.004 + 0.001 * wave,
                "p99": 0.06 + 0.02 * wave,
            }
        )
    return {"replica": None, "results": found}


def records(now: float) -> list[Any]:
    """What was exported before the proxy was started."""
    kinds = (
        ("mailboxes/b9510bca-4187-5b39-b366-51136a3d9d76/exportToPst", "exportToPst", 6.4),
        ("oneDrives/51c5a0f4-93d5-44b2-8a0e-7f0a6b6b2d10/save", "save", 38.2),
        ("sites/6f0d44f1-2a7b-4b7c-8a64-0c9b7f3f1f30/libraries/77d2/save", "save", 11.9),
        ("teams/0c8f5d0e-1f3a-4a7c-b5f9-21f7c6a1d9aa/posts/export", "export", 0.3),
    )
    found = []
    for number in range(9):
        path, title, size = kinds[number % len(kinds)]
        begun = now - 2400 - 2900 * number
        ended = begun + 60 * size + 45
        session = SESSION.format(0x6E3F0C8E + number)
        common: dict[str, Any] = {
            "target": f"/v8/RestoreSessions/{session}/organization/{path}",
            "session": session,
            "title": title,
            "owner": f"{(number % 3 + 5) * 0x1E3779B97F4A7C15:x}".ljust(64, "0"),
            "client": f"10.20.30.{41 + number % 3}",
            "accepted": True,
            "started": begun + 1,
            "ended": ended,
            "attempt": 1,
            "phase": Phase.COMPLETED,
        }
        if number in (1, 6):
            ended = begun + 400
            outcome = refused(begun, ended) | {"ended": ended}
        else:
            outcome = stored(number, ended, size)
        job = new_job(**(common | outcome))
        found.append(replace(job, created=begun, updated=ended))
    return found


def refused(begun: float, ended: float) -> dict[str, Any]:
    body = json.dumps({"message": OUTLOOK.partition(": ")[2], "errorCode": "HttpError"})
    error = JobError(
        code=ErrorCode.ERROR,
        message=OUTLOOK,
        retryable=False,
        status=500,
        content_type="application/json",
        body=body,
    )
    return {
        "title": "exportToPst",
        "target": "/v8/RestoreSessions/6e3f0c8e-4c1e-4b7e-9a53-0f3f6a2b9c11/organization"
        "/mailboxes/b9510bca-4187-5b39-b366-51136a3d9d76/exportToPst",
        "status": Outcome.FAILED,
        "error": error,
        "timeline": (
            Moment(begun + 1, "claimed"),
            Moment(begun + 1, "requested"),
            Moment(ended, "finished", "Failed"),
        ),
    }


def stored(number: int, ended: float, size: float) -> dict[str, Any]:
    count = 1 if number % 4 else 0
    return {
        "status": Outcome.SUCCESS,
        "file": FileFacts(
            media_type="application/octet-stream", file_name=None, size=int(size * GIB), etag=None
        ),
        "size": int(size * GIB),
        "received": int(size * GIB),
        "format": "Zip",
        "result": ResultState.EXPIRED if number > 6 else ResultState.DELETED,
        "expires": ended + 86_400,
        "delivery": Delivery(sent=int(size * GIB), count=count, last=ended + 90, whole=True),
    }


async def at_work(here: Scene) -> None:
    """Two exports run, two wait, one is finished."""
    here.vb365.fault(path="exportToPst", count=1, size=180_000_000)
    done = await here.export(0)
    await here.ended(done)
    here.vb365.fault(path="exportToPst", count=1, size=900_000_000, rate=14_000_000)
    job = await here.export(1)
    while (await here.status(job))["progress"]["percent"] in (None, 0):
        await here.call("GET", f"/v8/_async/exports/{job}", headers={"Prefer": "wait=1"})
    here.vb365.fault(path="exportToPst", generate=600)
    for number in (2, 0, 1):
        await here.export(number)


async def picture(page: Page, name: str, directory: Path) -> None:
    path = directory / f"{name}.png"
    await page.screenshot(path=path, animations="disabled")
    assert 20_000 < path.stat().st_size < MOST_BYTES


class UpSinceYesterday(Status):
    """The state of a proxy that has run for as long as the charts and the records say."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._started -= 93_600
        self._upstream = replace(self._upstream, since=self._started)


async def test_the_pictures_show_the_dashboard_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An overview, and a failed export with VB365's own sentence."""
    monkeypatch.setattr("proxy.parts.admin.Status", UpSinceYesterday)
    keep = os.environ.get("VB365_PICTURES") == "1"
    directory = PICTURES if keep else tmp_path / "images"
    directory.mkdir(exist_ok=True)
    now = time.time()
    await seed(tmp_path / "data", records(now))

    async def fulfil(route: Route) -> None:
        await route.fulfill(json=history(now))

    limits = {"EXPORTS__MAX_RUNNING": "2", "EXPORTS__GRACE": "0s"}
    async with (
        browser() as started,
        scene(tmp_path / "data", SimulatorSettings(), **limits) as here,
    ):
        await at_work(here)
        size: dict[str, Any] = {"viewport": {"width": 1280, "height": 1000}}
        async with opened(started, here.admin, **size) as watched:
            page = watched.page
            await page.route("**/api/history*", fulfil)
            await page.reload()
            await expect(page.locator("#live-text")).to_have_text("Live")
            await expect(page.locator("[data-state=Transferring] .pace")).to_be_visible()
            await expect(page.locator("#charts figure")).to_have_count(5)
            assert await page.evaluate(WIDER) == []
            url = "document.getElementById('upstream-url').textContent = 'https://vb365:4443'"
            await page.evaluate(url)
            await picture(page, "dashboard", directory)
            await page.locator("#rows tr[data-state=Failed] a.open").first.click()
            await expect(page.locator("#details .sentence")).to_have_text(OUTLOOK)
            await page.locator("#details summary").click()
            await page.set_viewport_size({"width": 1180, "height": 760})
            await picture(page, "failed-export", directory)

"""The dashboard in headless Chromium, in front of a running proxy (CONTRACT §16)."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Error, Page, expect

from proxy.core.job import ErrorCode, Job, JobError, Phase, Status
from proxy.simulator import Simulator, SimulatorSettings
from tests.support.browser import browser, opened
from tests.support.dashboard import SIZE, Scene, scene, seed
from tests.support.fakes import new_job
from tests.support.object_stores import free_ports
from tests.support.process import ProxyProcess
from tests.support.receiver import SECRET, receiving

TOKEN = "the-admin-token-of-this-test-0123456789"
SLOW = SimulatorSettings(size=SIZE, rate=1_000_000)
NEVER = SimulatorSettings(size=SIZE, generate=600)
HOSTILE = 'No <b>Outlook</b> <img src=x onerror="alert(1)"> \u202ehere\u2066'
SHOWN = 'No <b>Outlook</b> <img src=x onerror="alert(1)"> ⟨U+202E⟩here⟨U+2066⟩'
BOTH = pytest.mark.parametrize("scheme", ["light", "dark"])

pytestmark = pytest.mark.asyncio(loop_scope="module")  # that of the browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    """One browser for all tests: each has a context of its own."""
    async with browser() as started:
        yield started


def failed(number: int, **changes: Any) -> Job:
    """A job of the last hours that VB365 refused."""
    now = time.time() - 60 * number
    error = JobError(
        code=ErrorCode.ERROR,
        message="Veeam Backup for Microsoft 365 answered 500: 64-bit Outlook must be installed",
        retryable=False,
        status=500,
    )
    ended: dict[str, Any] = {
        "status": Status.FAILED,
        "phase": Phase.COMPLETED,
        "error": error,
        "ended": now,
    }
    return replace(new_job(**ended, **changes), created=now - 30, updated=now)


def row(page: Page, job: str) -> Any:
    return page.locator(f"#job-{job}")


async def act(page: Page, action: str) -> None:
    """Press the button, and answer the question with yes."""
    await page.locator(f"[data-action={action}]").click()
    await page.locator("#confirm-yes").click()


async def test_an_export_is_seen_to_move_until_its_file_is_fetched(
    chromium: Browser, tmp_path: Path
) -> None:
    async with scene(tmp_path, SLOW) as here, opened(chromium, here.admin) as watched:
        page = watched.page
        await expect(page.locator("#headline")).to_have_text("All is well")
        await expect(page.locator("#live-text")).to_have_text("Live")
        await expect(page.locator("#rows")).to_contain_text("No exports yet")
        job = await here.export()
        mine = row(page, job)
        await expect(mine.locator(".badge")).to_have_text("Transferring")
        bar, seen = mine.locator("progress"), set()
        while await mine.get_attribute("data-state") == "Transferring":
            seen.add(await bar.get_attribute("value"))
            await asyncio.sleep(0.1)
        values = [int(value) for value in seen if value is not None]
        assert len(values) >= 2, "the bar has moved"
        assert all(0 <= value <= 100 for value in values)
        await expect(mine.locator(".badge")).to_have_text("Success")
        await expect(mine.locator(".file")).to_contain_text("Not fetched yet")
        await here.fetch(job)
        await expect(mine.locator(".file span")).to_have_text("Fetched")
        await expect(page.locator("#jobs-running")).to_have_text("0 of 4")
        await mine.locator("a").click()
        for event in ("Accepted", "Requested from VB365", "First byte", "Ended", "Fetched"):
            await expect(page.locator(".timeline")).to_contain_text(event)


async def test_an_operator_cancels_and_deletes_after_a_question(
    chromium: Browser, tmp_path: Path
) -> None:
    async with scene(tmp_path, NEVER) as here, opened(chromium, here.admin) as watched:
        page, job = watched.page, await here.export()
        mine = row(page, job)
        await expect(mine.locator(".badge")).to_have_text("Generating")
        await mine.locator("a").click()
        await page.locator("[data-action=cancel]").click()
        await expect(page.locator("#confirm-title")).to_have_text("Cancel this export?")
        await expect(page.get_by_text("Keep as it is")).to_be_focused()
        await page.keyboard.press("Escape")
        assert (await here.status(job))["status"] == "Running", "nothing happens without a yes"
        await act(page, "cancel")
        await expect(page.locator("#details .badge")).to_have_text("Cancelled")
        await expect(page.locator("#toasts")).to_contain_text("being cancelled")
        assert (await here.status(job))["status"] == "Cancelled"
        await act(page, "remove")
        await expect(page.locator("#details")).not_to_be_visible()
        await expect(mine).to_have_count(0)
        async with here.http.get(f"{here.url}/v8/_async/exports/{job}") as response:
            assert response.status == 404


async def test_an_operator_keeps_a_file_longer_and_deletes_it(
    chromium: Browser, tmp_path: Path
) -> None:
    async with scene(tmp_path) as here, opened(chromium, here.admin) as watched:
        page, job = watched.page, await here.export()
        before = await here.ended(job)
        await row(page, job).locator("a").click()
        await act(page, "extend")
        await expect(page.locator("#toasts")).to_contain_text("kept for 24 hours more")
        await expect(row(page, job).locator(".file small")).to_have_text(re.compile("in [12] d"))
        after = await here.status(job)
        assert after["expirationTime"] > before["expirationTime"]
        await act(page, "release")
        await expect(page.locator("#toasts")).to_contain_text("The file is deleted.")
        await expect(row(page, job).locator(".file span")).to_have_text("Deleted")
        assert (await here.status(job))["result"]["state"] == "Deleted"


async def test_a_failed_export_shows_the_sentence_of_vb365(
    chromium: Browser, tmp_path: Path
) -> None:
    async with scene(tmp_path) as here, opened(chromium, here.admin) as watched:
        page = watched.page
        here.vb365.fault(path="exportToPst", outlook_missing=True, generate=0.5)
        job = await here.export()
        message = (await here.ended(job))["error"]["message"]
        await expect(row(page, job).locator(".sentence")).to_have_text(message)
        assert "Outlook" in message
        await expect(page.locator("#failures")).to_have_text("1 export failed in the last 24 hours")
        await page.locator("#failures").click()
        await row(page, job).locator("a").click()
        await expect(page.locator("#details .sentence")).to_have_text(message)
        await page.locator("#details summary").click()
        await expect(page.locator("#details pre")).to_contain_text("Outlook")


async def test_hostile_text_is_shown_as_text(chromium: Browser, tmp_path: Path) -> None:
    """Whatever the record of a job holds: markup and characters that reorder text do nothing."""
    error = JobError(
        code=ErrorCode.ERROR, message=HOSTILE, retryable=False, status=500, body=HOSTILE
    )
    names = {"target": f"/v8/organization/{HOSTILE}/{HOSTILE}/save", "session": HOSTILE}
    job = replace(failed(1, title=HOSTILE, owner=HOSTILE, client=HOSTILE, **names), error=error)
    await seed(tmp_path, [job])
    async with scene(tmp_path) as here, opened(chromium, here.admin) as watched:
        page = watched.page
        await expect(row(page, job.id).locator(".sentence")).to_have_text(SHOWN)
        await row(page, job.id).locator("a").click()
        await expect(page.locator("#details .sentence")).to_have_text(SHOWN)
        await page.locator("#details summary").click()
        await expect(page.locator("#details pre")).to_have_text(SHOWN)
        for found in ("#rows", "#details"):
            assert not re.search("[\u202e\u2066]", await page.locator(found).inner_text())
            assert await page.locator(f"{found} :is(img, b)").count() == 0


async def test_the_first_line_says_that_vb365_is_away(chromium: Browser, tmp_path: Path) -> None:
    async with scene(tmp_path) as here, opened(chromium, here.admin) as watched:
        page = watched.page
        await expect(page.locator("#headline")).to_have_text("All is well")
        await here.vb365.stop()
        away = re.compile(r"^VB365 is unreachable since \d\d:\d\d: .+: Connection refused$")
        await expect(page.locator("#headline")).to_have_text(away, timeout=20_000)
        await expect(page.locator("#upstream-state")).to_have_text("Down")
        await expect(page).to_have_title(re.compile("✗ VB365 is unreachable"))


async def test_the_page_works_without_scripts(chromium: Browser, tmp_path: Path) -> None:
    jobs = [failed(number) for number in range(25)]
    await seed(tmp_path, jobs)
    async with (
        scene(tmp_path) as here,
        opened(chromium, here.admin, java_script_enabled=False) as watched,
    ):
        page = watched.page
        await expect(page.locator("#headline")).to_have_text("All is well")
        await expect(page.locator("#rows tr")).to_have_count(25)
        await expect(page.locator("#rows .sentence").first).to_contain_text("64-bit Outlook")
        await page.locator("select[name=limit]").select_option("20")
        await page.get_by_role("button", name="Search").click()
        await expect(page.locator("#rows tr")).to_have_count(20)
        await page.get_by_role("link", name="Next").click()
        await expect(page.locator("#rows tr")).to_have_count(5)
        await page.locator("#rows a.open").first.click()
        await expect(page.locator("#plain-details")).to_contain_text("UpstreamError")
        await page.get_by_role("link", name="Succeeded").click()
        await expect(page.locator("#rows")).to_contain_text("No export matches")


async def test_the_page_does_not_move_while_it_loads(chromium: Browser, tmp_path: Path) -> None:
    """Nobody clicks on something else than he aimed at: the cumulative layout shift is small."""
    await seed(tmp_path, [failed(number) for number in range(60)])
    async with scene(tmp_path) as here, opened(chromium, here.admin, "/login") as watched:
        await watched.page.add_init_script(
            """window.shift = 0; new PerformanceObserver((list) => {
              for (const entry of list.getEntries()) window.shift += entry.value;
            }).observe({ type: "layout-shift", buffered: true });"""
        )
        await watched.page.goto(here.admin)
        await expect(watched.page.locator("#live-text")).to_have_text("Live")
        await expect(watched.page.locator("#plots figure")).to_have_count(5)
        await expect(watched.page.locator("#jobs tbody tr")).to_have_count(50)
        assert await watched.page.evaluate("window.shift") < 0.05


async def test_the_link_below_the_rows_stays_where_it_is(chromium: Browser, tmp_path: Path) -> None:
    """When the rows above it come into sight it does not move away from under the pointer."""
    await seed(tmp_path, [failed(number) for number in range(60)])
    async with scene(tmp_path) as here, opened(chromium, here.admin) as watched:
        await expect(watched.page.locator("#live-text")).to_have_text("Live")
        await expect(watched.page.locator("#plots figure")).to_have_count(5)
        link = watched.page.get_by_role("link", name="Next")
        place = "element => element.getBoundingClientRect().top + window.scrollY"
        before = await link.evaluate(place)
        await link.scroll_into_view_if_needed()
        await link.hover()
        assert await link.evaluate(place) == before


async def test_the_rows_are_those_of_the_address(chromium: Browser, tmp_path: Path) -> None:
    """Filter, search, order and page are in the address: it can be sent to a colleague."""
    jobs = [failed(number, session=f"session-{number}") for number in range(60)]
    await seed(tmp_path, jobs)
    async with scene(tmp_path) as here, opened(chromium, here.admin) as watched:
        page = watched.page
        done = await here.export()
        await here.ended(done)
        rows = page.locator("#rows tr")
        await expect(page.locator("#range")).to_have_text("1–50 of 61 exports")
        await expect(row(page, done)).to_contain_text("Success")
        await page.get_by_role("link", name="Next").click()
        await expect(rows).to_have_count(11)
        await page.locator("#filters").get_by_role("link", name="Succeeded").click()
        await expect(rows).to_have_count(1)
        await expect(row(page, done)).to_be_visible()
        await page.locator("#filters").get_by_role("link", name="Failed").click()
        await expect(page.locator("#range")).to_have_text("1–50 of 60 exports")
        await page.get_by_role("link", name="Accepted").click()
        await expect(rows.first).to_contain_text("session-59")
        await page.keyboard.press("/")
        await page.keyboard.type("session-7")
        await expect(rows).to_have_count(1)
        await expect(page).to_have_url(f"{here.admin}/?status=Failed&q=session-7&sort=created")
        await page.reload()
        await expect(rows).to_have_count(1)
        await page.go_back()
        await expect(rows).to_have_count(50)


async def test_the_keyboard_is_enough(chromium: Browser, tmp_path: Path) -> None:
    await seed(tmp_path, [failed(1)])
    async with scene(tmp_path) as here, opened(chromium, here.admin) as watched:
        page = watched.page
        link = page.locator("#rows a.open")
        await expect(page.locator("#live-text")).to_have_text("Live")
        await expect(link).to_have_count(1)
        await page.keyboard.press("Tab")
        await expect(page.get_by_text("Skip to the exports")).to_be_focused()
        await page.keyboard.press("Enter")
        for _ in range(30):
            await page.keyboard.press("Tab")
            if await link.evaluate("element => element === document.activeElement"):
                break
        await page.keyboard.press("Enter")
        await expect(page.locator("#details")).to_be_visible()
        await expect(page.locator("#details-close")).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(page.locator("#details")).not_to_be_visible()
        await expect(link).to_be_focused()


async def test_a_reader_signs_in_with_the_token(chromium: Browser, tmp_path: Path) -> None:
    async with (
        scene(tmp_path, ADMIN__TOKEN=TOKEN) as here,
        opened(chromium, here.admin) as watched,
    ):
        page = watched.page
        await watched.accessible()
        await page.get_by_label("Admin token").fill("wrong")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).to_have_text("This token is wrong.")
        await page.get_by_label("Admin token").fill(TOKEN)
        await page.keyboard.press("Enter")
        await expect(page.locator("#live-text")).to_have_text("Live")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Admin token")).to_be_visible()
        await page.goto(here.admin)
        await expect(page.get_by_label("Admin token")).to_be_visible()


async def test_a_reader_signs_in_without_scripts(chromium: Browser, tmp_path: Path) -> None:
    async with (
        scene(tmp_path, ADMIN__TOKEN=TOKEN) as here,
        opened(chromium, here.admin, java_script_enabled=False) as watched,
    ):
        page = watched.page
        await page.get_by_label("Admin token").fill(TOKEN)
        await page.keyboard.press("Enter")
        await expect(page.locator("#headline")).to_have_text("All is well")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Admin token")).to_be_visible()


async def test_the_page_reconnects_after_a_restart(chromium: Browser, tmp_path: Path) -> None:
    """While the proxy is away the page says so, and shows nothing as well that may not be."""
    vb365 = Simulator(NEVER)
    await vb365.start("127.0.0.1", 0)
    [port] = free_ports(1)
    proxy = ProxyProcess(
        tmp_path, vb365.url, admin=f"127.0.0.1:{port}", LOG__LEVEL="info", EXPORTS__GRACE="0s"
    )
    try:
        await proxy.start()
        async with aiohttp.ClientSession() as http, opened(chromium, proxy.admin_url) as watched:
            page = watched.page
            await expect(page.locator("#live-text")).to_have_text("Live")
            await proxy.kill()
            await expect(page.locator("#live-text")).to_have_text("Reconnecting…")
            lost = re.compile("^No connection to the proxy since")
            await expect(page.locator("#headline")).to_have_text(lost)
            await proxy.start()
            await expect(page.locator("#live-text")).to_have_text("Live", timeout=20_000)
            await expect(page.locator("#headline")).to_have_text("All is well")
            here = Scene(vb365, proxy.url, proxy.admin_url, http)
            await here.explore()
            job = await here.export()
            await expect(row(page, job).locator(".badge")).to_have_text("Generating")
    finally:
        await proxy.kill()
        await vb365.stop()


async def busy(page: Page) -> float:
    """Seconds of CPU that the page has used: time on a busy machine says nothing."""
    session = await page.context.new_cdp_session(page)
    await session.send("Performance.enable", {"timeDomain": "threadTicks"})
    found = (await session.send("Performance.getMetrics"))["metrics"]
    await session.detach()
    return float(next(each["value"] for each in found if each["name"] == "TaskDuration"))


async def test_a_thousand_exports_stay_fluid(chromium: Browser, tmp_path: Path) -> None:
    """With all of them on one page, an update takes the browser less than 100 ms."""
    now = time.time()
    waiting = [replace(new_job(), created=now - each, updated=now) for each in range(1_000)]
    await seed(tmp_path, waiting)
    async with (
        scene(tmp_path) as here,
        opened(chromium, here.admin, "/?limit=1000") as watched,
    ):
        page = watched.page
        await expect(page.locator("#live-text")).to_have_text("Live")
        await expect(page.locator("#rows tr[data-state=Suspended]")).to_have_count(1_000)
        updates = "performance.getEntriesByName('rows').length"
        before, counted = await busy(page), await page.evaluate(updates)
        for job in waiting[:100]:
            fields = {"X-VB365-Admin": "1"}
            target = f"{here.admin}/api/jobs/{job.id}/cancel"
            async with here.http.post(target, headers=fields) as response:
                assert response.status in (200, 202)
        await expect(page.locator("#rows tr[data-state=Cancelled]")).to_have_count(100)
        count = await page.evaluate(updates) - counted
        assert count >= 2
        assert (await busy(page) - before) / count < 0.1


@BOTH
async def test_anyone_can_read_the_page(chromium: Browser, tmp_path: Path, scheme: str) -> None:
    """axe-core finds nothing serious: not on the page, nor in details, nor in a question."""
    await seed(tmp_path, [failed(number) for number in range(3)])
    async with (
        scene(tmp_path, SLOW) as here,
        opened(chromium, here.admin, color_scheme=scheme) as watched,
    ):
        page = watched.page
        job = await here.export()
        await expect(row(page, job).locator("progress")).to_be_visible()
        await expect(page.locator("#charts figure").first).to_be_visible()
        await watched.accessible()
        await page.locator("#rows tr[data-state=Failed] a.open").first.click()
        await expect(page.locator("#details")).to_be_visible()
        await watched.accessible()
        await page.locator("[data-action=remove]").click()
        await expect(page.locator("#confirm")).to_be_visible()
        await watched.accessible()


async def test_the_browser_enforces_the_policy_of_the_page(
    chromium: Browser, tmp_path: Path
) -> None:
    """What the checks of the other tests look for is found if it happens."""
    async with scene(tmp_path) as here:
        with pytest.raises(AssertionError, match="img-src"):
            await break_the_policy(chromium, here)


async def break_the_policy(chromium: Browser, here: Scene) -> None:
    async with opened(chromium, here.admin) as watched:
        page = watched.page
        await expect(page.locator("#live-text")).to_have_text("Live")
        with pytest.raises(Error, match="TrustedHTML"):
            await page.evaluate("document.body.innerHTML = '<b>no</b>'")
        await page.locator("#search input[type=search]").evaluate(
            "input => { input.removeAttribute('aria-label'); input.placeholder = ''; }"
        )
        with pytest.raises(AssertionError, match="label"):
            await watched.accessible()
        await page.evaluate(
            "new Promise((done) => { addEventListener('securitypolicyviolation', done);"
            "new Image().src = 'http://127.0.0.2:1/picture'; })"
        )


@pytest.mark.parametrize("scripts", [True, False])
async def test_the_page_fits_a_phone(chromium: Browser, tmp_path: Path, scripts: bool) -> None:
    long = {"target": f"/v8/RestoreSessions/s/organization/mailboxes/{'a' * 200}/exportToPst"}
    await seed(tmp_path, [failed(1, **long), failed(2, owner="b" * 64, session="s" * 200)])
    phone: dict[str, Any] = {
        "viewport": {"width": 360, "height": 740},
        "java_script_enabled": scripts,
    }
    async with scene(tmp_path) as here, opened(chromium, here.admin, **phone) as watched:
        page = watched.page
        await expect(page.locator("#rows tr")).to_have_count(2)
        if scripts:
            await expect(page.locator("#charts figure").first).to_be_visible()
        assert await page.locator("html").evaluate("page => page.scrollWidth") <= 360
        if not scripts:
            return
        await page.locator("#rows a.open").first.click()
        await expect(page.locator("#details")).to_be_visible()
        sheet = page.locator(".sheet")
        assert await sheet.evaluate("sheet => sheet.scrollWidth <= sheet.clientWidth")
        await watched.accessible()


async def test_the_page_prints_without_its_controls(chromium: Browser, tmp_path: Path) -> None:
    await seed(tmp_path, [failed(1)])
    async with scene(tmp_path) as here, opened(chromium, here.admin) as watched:
        page = watched.page
        await expect(page.locator("#rows tr")).to_have_count(1)
        await page.emulate_media(media="print")
        for control in ("#search", "#filters", "#theme"):
            await expect(page.locator(control)).not_to_be_visible()
        await expect(page.locator("#headline")).to_be_visible()
        await expect(page.locator("#rows .sentence")).to_be_visible()


async def test_the_colours_can_be_chosen(chromium: Browser, tmp_path: Path) -> None:
    async with scene(tmp_path) as here, opened(chromium, here.admin) as watched:
        page = watched.page
        colour = "getComputedStyle(document.body).backgroundColor"
        light = await page.evaluate(colour)
        await page.get_by_role("button", name="Switch between light and dark").click()
        assert await page.evaluate(colour) != light
        await page.reload()
        assert await page.evaluate(colour) != light


async def test_an_operator_sees_who_is_notified_and_notifies_again(
    chromium: Browser, tmp_path: Path
) -> None:
    async with receiving() as receiver:
        hooks: dict[str, Any] = {"WEBHOOKS__URLS": receiver.url, "WEBHOOKS__SECRETS": SECRET}
        async with scene(tmp_path, **hooks) as here, opened(chromium, here.admin) as watched:
            page = watched.page
            await expect(page.locator("#webhooks")).to_contain_text("nothing sent yet")
            job = await here.export()
            await receiver.types("export.accepted", "export.succeeded")
            await row(page, job).locator("a").click()
            await act(page, "notify")
            await expect(page.locator("#toasts")).to_contain_text("sent again")
            await receiver.types("export.accepted", "export.succeeded", "export.succeeded")
            await page.reload()
            await expect(page.locator("#webhooks")).to_contain_text("last notified")

"""Headless Chromium, and a page of it that remembers everything that it should not have done."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

#: Without these, Chromium asks hosts of its vendor for updates.
_QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
#: Reports each breach of the policy of the page, also those that Chromium does not log.
_WATCH = """
window.breaches = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.breaches.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`));
"""


def chromium() -> str:
    """The path of the browser, which is Debian's: tests/needs.sh installs it."""
    found = shutil.which("chromium")
    assert found is not None, "Chromium is missing: run `make system` as root"
    return found


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=chromium(), args=_QUIET)
        try:
            yield started
        finally:
            await started.close()


class Watched:
    """A page of the admin listener at `url`."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.origins: set[str] = set()
        self.errors: list[str] = []
        page.on("request", self._asked)
        page.on("console", self._logged)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _asked(self, request: Request) -> None:
        parts = urlsplit(request.url)
        self.origins.add(f"{parts.scheme}://{parts.netloc}")

    def _logged(self, message: ConsoleMessage) -> None:
        # the browser logs a response that is no success, such as 401, and a server that is away
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.errors.append(message.text)

    async def check(self) -> None:
        """Nothing was asked of another origin, no policy was broken, and no script has failed."""
        breaches = await self.page.evaluate("window.breaches ?? []")
        assert not breaches, breaches
        assert not self.errors, self.errors
        assert self.origins == {self.url}

    async def accessible(self) -> None:
        """axe-core finds nothing serious or critical."""
        # the policy of the page allows no script of a test: it is run as a part of the browser
        found: dict[str, Any] = (await Axe().run(self.page)).response
        assert found["passes"], "axe has not looked at anything"
        grave = [
            f"{each['id']}: {node['html']}"
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]
        assert not grave, grave


@asynccontextmanager
async def opened(
    started: Browser, url: str, path: str = "/", **options: Any
) -> AsyncIterator[Watched]:
    """A new page, checked at its end. `options` are those of a browser context."""
    context = await started.new_context(**({"viewport": {"width": 1360, "height": 900}} | options))
    try:
        await context.add_init_script(_WATCH)
        watched = Watched(await context.new_page(), url)
        await watched.page.goto(url + path)
        yield watched
        if options.get("java_script_enabled", True):
            await watched.check()
    finally:
        await context.close()

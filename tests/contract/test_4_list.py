"""CONTRACT §4, §9: what a list costs, however many jobs the caller has."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import Mock

import pytest

from proxy.api import links, listing
from proxy.core.http import origin
from proxy.core.retention import as_of
from proxy.upstream.owner_hashes import OwnerHashes
from tests.contract.conftest import MakePlay, Play
from tests.support.wire import Message, raw

LIST = "/v8/_async/exports"
JOBS = listing._TOGETHER + 6


async def ended(play: Play, count: int) -> None:
    """Let the caller have so many jobs, each in a session of its own, which it was allowed to see
    too long ago.
    """
    paths = [f"/v8/RestoreSessions/s{number}/organization/exportToPst" for number in range(count)]
    for path in paths:
        assert (await play.kickoff(path)).status == 202
    play.clock.ahead += 61


async def test_a_page_asks_about_its_own_jobs_only(make_play: MakePlay) -> None:
    """§9: a list of 1,000 jobs must not become 1,000 requests to VB365."""
    checks: list[str] = []

    async def script(request: Message) -> bytes:
        if request.method == "POST":
            return raw("200 OK", [], b"mail")
        if request.target.startswith("/v8/RestoreSessions/s"):
            checks.append(request.target)
        return raw("200 OK", [], b"{}")

    play = await make_play(
        script,
        EXPORTS__WATCH_EVENTS="false",
        EXPORTS__PREFLIGHT="false",
        EXPORTS__MAX_PER_CALLER="100",
    )
    await ended(play, JOBS)
    checks.clear()
    page = (await play.get(f"{LIST}?limit=10")).json()
    numbers = [job["request"]["restoreSessionId"] for job in page["results"]]
    assert numbers == [f"s{number}" for number in range(JOBS - 1, JOBS - 11, -1)]
    assert "next" in page["_links"]
    assert len(checks) == listing._TOGETHER
    page = (await play.get(f"{LIST}?limit=10&offset={JOBS - 10}")).json()
    assert (len(page["results"]), "next" in page["_links"]) == (10, False)
    assert len(checks) == len(set(checks)) == JOBS
    page = (await play.get(f"{LIST}?status=Failed")).json()
    assert page["results"] == []


async def test_a_list_that_has_failed_asks_no_more(make_play: MakePlay) -> None:
    """§9: nobody waits for the other checks, which would take the turns of other callers'."""
    checks: list[str] = []
    answer = asyncio.Event()

    async def script(request: Message) -> bytes:
        if request.method == "POST":
            return raw("200 OK", [], b"mail")
        if not request.target.startswith("/v8/RestoreSessions/s"):
            return raw("200 OK", [], b"{}")
        checks.append(request.target)
        if request.target.endswith(f"/s{JOBS - 1}"):
            return raw("500 Internal Server Error", [], b"{}")
        await answer.wait()
        return raw("200 OK", [], b"{}")

    play = await make_play(
        script,
        EXPORTS__WATCH_EVENTS="false",
        EXPORTS__PREFLIGHT="false",
        EXPORTS__MAX_PER_CALLER="100",
    )
    await ended(play, JOBS)
    checks.clear()
    assert (await play.get(LIST)).status == 503
    asked = len(checks)
    answer.set()
    for _ in range(10):
        assert (await play.get(f"{LIST}?restoreSessionId=s{JOBS - 1}")).status == 503
    assert len(set(checks)) == asked < 2 * listing._CONCURRENT_CHECKS


async def test_a_page_reads_its_own_jobs_only(
    make_play: MakePlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller may have thousands."""

    async def script(request: Message) -> bytes:
        return raw("200 OK", [], b"mail" if request.method == "POST" else b"{}")

    play = await make_play(
        script,
        EXPORTS__WATCH_EVENTS="false",
        EXPORTS__PREFLIGHT="false",
        EXPORTS__MAX_PER_CALLER="100",
    )
    await ended(play, JOBS)
    shown = Mock(wraps=as_of)
    monkeypatch.setattr("proxy.api.listing.as_of", shown)
    assert len((await play.get(f"{LIST}?limit=10")).json()["results"]) == 10
    assert shown.call_count == listing._TOGETHER
    assert len((await play.get(f"{LIST}?limit=100")).json()["results"]) == JOBS


async def test_long_documents_leave_others_their_turns(
    make_play: MakePlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§12: VB365's error may be in each, and takes 30 ms to render if it has many members."""

    async def script(request: Message) -> bytes:
        return raw("200 OK", [], b"mail" if request.method == "POST" else b"{}")

    play = await make_play(script, EXPORTS__WATCH_EVENTS="false", EXPORTS__PREFLIGHT="false")
    await ended(play, 5)
    ticks, turns = 0, set()

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    def long(*_: Any) -> bytes:
        turns.add(ticks)
        return b'"%b"' % (b"x" * listing._LONG)

    monkeypatch.setattr(listing, "body", long)
    ticking = asyncio.create_task(tick())
    page = (await play.get(LIST)).json()
    ticking.cancel()
    assert len(page["results"]) == len(turns) == 5


async def test_lists_of_one_caller_do_not_delay_those_of_others(make_play: MakePlay) -> None:
    """§12: however many it asks for, while VB365 takes its time with its sessions."""
    go, waiting = asyncio.Event(), asyncio.Event()

    async def script(request: Message) -> bytes:
        if request.method == "POST":
            return raw("200 OK", [], b"mail")
        if request.target.startswith("/v8/RestoreSessions/s"):
            waiting.set()
            await go.wait()
        return raw("200 OK", [], b"{}")

    play = await make_play(script, EXPORTS__WATCH_EVENTS="false", EXPORTS__PREFLIGHT="false")
    await ended(play, 1)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        busy, other = {"Authorization": "Bearer busy"}, {"Authorization": "Bearer other"}
        of_session = f"{LIST}?restoreSessionId=s0"
        lists = [
            group.create_task(play.ask("GET", of_session, busy))
            for _ in range(2 * listing._CONCURRENT_LISTS)
        ]
        await waiting.wait()
        await asyncio.sleep(0.1)  # the others wait, too
        async with asyncio.timeout(3):
            assert (await play.ask("GET", LIST, other)).json()["results"] == []
        go.set()
        assert {(await each).status for each in lists} == {200}


async def test_few_lists_are_put_together_at_a_time(make_play: MakePlay) -> None:
    """§12: each has all jobs of its caller in memory."""
    go, waiting = asyncio.Event(), 0
    sessions = 0

    async def script(request: Message) -> bytes:
        nonlocal waiting, sessions
        if request.method == "POST":
            return raw("200 OK", [], b"mail")
        if request.target.startswith("/v8/RestoreSessions/s"):
            sessions += 1
            waiting += 1
            await go.wait()
            waiting -= 1
        return raw("200 OK", [], b"{}")

    play = await make_play(script, EXPORTS__WATCH_EVENTS="false", EXPORTS__PREFLIGHT="false")
    await ended(play, 1)
    lists = [
        asyncio.create_task(
            play.ask("GET", f"{LIST}?restoreSessionId=s0", {"Authorization": f"Bearer {number}"})
        )
        for number in range(2 * listing._CONCURRENT_LISTS)
    ]
    async with asyncio.timeout(10):
        while waiting < listing._CONCURRENT_LISTS:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.01)
    # a request that is no list has its turn at once, and no further list has begun meanwhile
    assert (await play.get("/v8/anything")).status == 200
    assert waiting == sessions == listing._CONCURRENT_LISTS
    go.set()
    assert {(await each).status for each in lists} == {200}
    assert sessions == len(lists)


async def test_what_a_client_sends_is_looked_at_once_for_all_jobs(
    make_play: MakePlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§12: credentials may have 256 KiB, and fields of a balancer 64 KiB."""

    async def script(request: Message) -> bytes:
        return raw("200 OK", [], b"mail" if request.method == "POST" else b"{}")

    play = await make_play(script, EXPORTS__WATCH_EVENTS="false", EXPORTS__PREFLIGHT="false")
    await ended(play, 20)
    bases, hashes = 0, 0
    base, keyed = origin.base_url, OwnerHashes._keyed

    def counted_base(**given: Any) -> str:
        nonlocal bases
        bases += 1
        return base(**given)

    def counted_hash(self: OwnerHashes, kind: str, text: str) -> str:
        nonlocal hashes
        hashes += kind == "credentials"
        return keyed(self, kind, text)

    monkeypatch.setattr(links, "base_url", counted_base)
    monkeypatch.setattr(OwnerHashes, "_keyed", counted_hash)
    page = (await play.get(LIST)).json()
    assert len(page["results"]) == 20
    assert bases == 1
    assert hashes <= 6

"""What a success means that VB365, or a server in front of it, gives to anybody (CONTRACT §2)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from proxy.core.errors import Problem
from proxy.ports import Fields
from proxy.upstream import access as access_module
from proxy.upstream.access import Access
from proxy.upstream.anonymous import NOTE
from tests.unit.upstream.callers import SESSIONS, Scripted, credentials, job, jwt, make

ALICE = credentials(jwt("alice"))
IDENTITIES = {jwt("alice"), jwt("alice", "2")}


async def turns() -> None:
    """Let other tasks run."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_module, "_ANONYMOUS_INTERVAL", 0)
    monkeypatch.setattr(access_module, "_ANONYMOUS_START", 0)


@contextlib.asynccontextmanager
async def watched(access: Access) -> AsyncIterator[None]:
    """The check is repeated for ever."""
    watching = asyncio.create_task(access.watch())
    await turns()
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_claims_are_not_used_while_anybody_is_accepted() -> None:
    """§2: a token that is accepted as a request without one is does not prove its claims."""
    access, vb365, _ = make(lambda *_: 200)
    vb365.anonymous = 200
    async with watched(access):
        assert await access.learn(ALICE) is False
        assert access.owners(ALICE) == access.hashes(ALICE)
        assert await access.identify(ALICE) == access.hashes(ALICE)
        assert access.claimed(ALICE) is None
        vb365.anonymous = 401
        await turns()
        assert await access.learn(ALICE) is True
        assert access.owners(ALICE)[0] == access.claimed(ALICE)


async def test_the_owner_of_a_gone_session_is_not_whoever_claims_to_be() -> None:
    """§2, §9: a server that begins to accept anybody does not make a forged token the owner."""
    access, vb365, _ = make(lambda _, target, __: 200 if target == SESSIONS else 404)
    await access.learn(ALICE)
    mine = job(access.owners(ALICE)[0])
    forged = credentials(jwt("alice", "forged"))
    vb365.anonymous = 200
    async with watched(access):
        with pytest.raises(Problem) as why:
            await access.check(forged, mine)
    assert (why.value.status, access.owners(forged)) == (404, access.hashes(forged))


async def test_what_was_learnt_before_is_dropped() -> None:
    """§2: it may have been wrong already."""
    access, vb365, _ = make(lambda *_: 200)
    forged = credentials(jwt("alice", "forged"))
    assert await access.learn(forged) is True
    vb365.anonymous = 200
    async with watched(access):
        assert access.owners(forged) == access.hashes(forged)
        vb365.anonymous = 401
        vb365.decide = lambda token, *_: 200 if token in IDENTITIES else 401
        await turns()
        assert await access.learn(ALICE) is True
        assert await access.learn(forged) is False


async def test_what_was_learnt_while_anybody_was_accepted_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """§2: also whom VB365 seems to know, and the permissions of a moment ago."""
    access, vb365, _ = make(lambda *_: 200)
    forged = credentials("Bearer forged")
    hers = job("alice")
    vb365.anonymous = 200
    monkeypatch.setattr(access_module, "_ANONYMOUS_INTERVAL", 0.02)
    async with watched(access):
        await access.check(forged, hers)
        assert access.knows(forged.fields)
        assert access.allows(forged, hers)
        vb365.anonymous, vb365.decide = 401, lambda *_: 401
        await asyncio.sleep(0.05)
        assert not access.knows(forged.fields)
        assert not access.allows(forged, hers)


async def test_a_response_from_while_anybody_was_accepted_confirms_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """§2: it may arrive after the check has failed; VB365 is asked again."""
    access, vb365, _ = make(lambda *_: 200)
    send, gate = vb365.send, asyncio.Event()

    async def delay(method: bytes, target: bytes, fields: Fields, **times: Any) -> Scripted:
        response = await send(method, target, fields, **times)
        if fields:
            await gate.wait()
        return response

    monkeypatch.setattr(vb365, "send", delay)
    vb365.anonymous = 200
    async with watched(access), asyncio.TaskGroup() as group:
        forged = credentials("Bearer forged")
        seen = group.create_task(access.unknown(forged, "S1"))
        await turns()
        vb365.anonymous, vb365.decide = 401, lambda *_: 401
        await turns()
        assert access.note is None
        gate.set()
        assert (await seen).status == 401
    assert not access.knows(forged.fields)


async def test_what_was_learnt_between_two_checks_that_fail_is_kept() -> None:
    """§9: VB365 is not asked about each caller every minute."""
    access, vb365, _ = make(lambda *_: 200)
    async with watched(access):
        assert await access.learn(ALICE) is True
        await turns()
        assert access.owners(ALICE)[0] == access.claimed(ALICE)
        assert await access.learn(ALICE) is True
    assert len(vb365.requests) == 1


@pytest.mark.parametrize("anonymous", [400, 401, 403, 404, 302, 429, 500, 503, None])
async def test_only_a_2xx_without_credentials_discredits_claims(anonymous: int | None) -> None:
    """§2: any other response is no success, whatever it means."""
    access, vb365, _ = make(lambda *_: 200)
    vb365.anonymous = anonymous
    async with watched(access):
        assert await access.learn(ALICE) is True
        assert access.note is None


@pytest.mark.parametrize("anonymous", [429, 503, None])
async def test_a_failure_does_not_end_the_warning(anonymous: int | None) -> None:
    """§2: that the check fails for a moment does not mean that claims can be used."""
    access, vb365, _ = make(lambda *_: 200)
    vb365.anonymous = 200
    async with watched(access):
        vb365.anonymous = anonymous
        await turns()
        assert await access.learn(ALICE) is False
        assert access.note == NOTE


async def test_callers_cause_no_check_without_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """§2: each question about a caller has the caller's credentials."""
    access, vb365, _ = make(lambda *_: 200)
    sent = []
    send = vb365.send

    async def count(method: bytes, target: bytes, fields: Fields, **times: Any) -> Scripted:
        sent.append([value for name, value in fields if name == b"Authorization"])
        return await send(method, target, fields, **times)

    monkeypatch.setattr(vb365, "send", count)
    for salt in range(5):
        await access.learn(credentials(jwt("alice", str(salt))))
    assert len(sent) == 5
    assert [] not in sent


async def test_the_operator_is_warned_once() -> None:
    """§16: the log names the setting, also if nobody sends a JWT; /readyz shows it from then on."""
    access, vb365, _ = make(lambda *_: 200)
    vb365.anonymous = 200
    with structlog.testing.capture_logs() as logs:
        async with watched(access):
            assert access.note == NOTE
            vb365.anonymous = 401
            await turns()
            assert access.note is None
    assert [(entry["log_level"], entry["event"]) for entry in logs] == [
        ("error", NOTE),
        ("info", "access checks without credentials fail again: claims of tokens are used"),
    ]
    assert "upstream.host" in NOTE

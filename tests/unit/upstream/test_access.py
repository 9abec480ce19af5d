"""Access checks against a scripted VB365 (CONTRACT §2 "Caller", §9)."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest

from proxy.core.errors import Problem
from proxy.upstream.access import Statuses
from tests.unit.upstream.callers import (
    SESSIONS,
    credentials,
    gone,
    job,
    jwt,
    make,
    owner_of,
    refused,
)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (401, (401, "unauthorized")),
        (403, (404, "job-not-found")),
        (404, (404, "job-not-found")),
        (500, (503, "upstream-unreachable")),
        (302, (503, "upstream-unreachable")),
        (None, (503, "upstream-unreachable")),
    ],
)
async def test_the_response_of_vb365_decides(
    response: int | None, expected: tuple[int, str]
) -> None:
    """§9: 401 is 401, 403 and 404 are 404, no response is 503."""
    access, _, _ = make(lambda *_: response)
    assert await refused(access, credentials("Bearer foreign"), job("somebody")) == expected


async def test_access_is_cached_per_credential_and_session() -> None:
    """§9: for access.cache; then VB365 is asked again, and a revoked token is rejected."""
    responses = [200, 401]
    access, vb365, clock = make(lambda *_: responses.pop(0))
    who = credentials()
    await access.check(who, job("o"))
    await access.check(who, job("another"))
    assert len(vb365.requests) == 1
    clock.now = 61
    assert (await refused(access, who, job("o")))[0] == 401


@pytest.mark.parametrize("variant", ["s1", "%531", "S1%20", "S1;x"])
async def test_access_is_cached_for_the_exact_bytes_of_the_session(variant: str) -> None:
    """§9: another spelling may be another session."""
    access, _, _ = make(
        lambda token, target, cookie: 200 if target == "/v8/RestoreSessions/S1" else 403
    )
    await access.check(credentials(), job("o"))
    assert await refused(access, credentials(), job("o", session=variant)) == (404, "job-not-found")


async def test_the_id_of_a_job_is_not_taken_for_that_of_a_session() -> None:
    """§9: both are cached in one table."""
    access, _, _ = make(lambda *_: 403)
    own = job("o")
    access.allow(credentials(), own)
    assert await refused(access, credentials(), job("victim", session=own.id)) == (
        404,
        "job-not-found",
    )


@pytest.mark.parametrize("session", ["S1", None])
@pytest.mark.parametrize("token", ["Bearer a", jwt("mallory")])
@pytest.mark.parametrize("response", [200, 302, 401, 403, 404, 500, None])
async def test_an_unknown_id_gets_the_response_of_a_foreign_one(
    response: int | None, token: str, session: str | None
) -> None:
    """§9: existence is not disclosed, neither by the response nor by the requests to VB365, also
    for the first request of a caller and for a report, which has no session.
    """
    access, vb365, _ = make(
        lambda token, target, cookie: 404 if response == 200 and target != SESSIONS else response
    )
    who, foreign = credentials(token), job("victim", session=session)
    expected = await refused(access, who, foreign)
    before = len(vb365.requests)
    access, vb365, _ = make(lambda *_: response)
    problem = await access.unknown(who, foreign.id)
    assert (problem.status, problem.name) == expected
    assert len(vb365.requests) == before


async def test_a_first_request_for_a_foreign_job_costs_as_much_as_for_an_unknown_id() -> None:
    """§9: VB365 responds with 403 to a session of another caller, and with 404 to an id without
    one.
    """

    def decide(token: str, target: str, cookie: bool) -> int:
        return 200 if target == SESSIONS else 403 if target.endswith("/S1") else 404

    access, vb365, _ = make(decide)
    assert await refused(access, credentials(jwt("bob")), job("victim")) == (404, "job-not-found")
    before = len(vb365.requests)
    access, vb365, _ = make(decide)
    assert (await access.unknown(credentials(jwt("bob")), str(uuid4()))).status == 404
    assert len(vb365.requests) == before


@pytest.mark.parametrize("session", ["S1", None])
@pytest.mark.parametrize("alone", [401, 403, 503])
@pytest.mark.parametrize("cookie", ["session=mallory", None])
async def test_a_claim_or_a_shared_token_is_checked_even_without_a_job_of_its_own(
    alone: int, cookie: str | None, session: str | None
) -> None:
    """§9: neither the response nor the number of requests discloses whether the victim
    has a job.
    """
    responses = set()
    for whose in ("claimed", "hash", "foreign", None):
        access, vb365, _ = make(
            lambda token, target, beside: 404 if target != SESSIONS else 200 if beside else alone
        )
        who = credentials(jwt("victim", "forged"), cookie)
        owner = {"claimed": access.claimed(who), "hash": access.hashes(who)[0]}.get(
            whose or "", "somebody"
        )
        assert owner is not None
        if whose is None:
            problem = await access.unknown(who, str(uuid4()))
            response = (problem.status, problem.name)
        else:
            response = await refused(access, who, job(owner, session))
        responses.add((*response, len(vb365.requests)))
    assert len(responses) == 1


async def test_a_job_run_by_another_caller_is_not_its_owners_after_the_session() -> None:
    """§9: a caller who never saw the session gets nothing of it through another one's
    credentials.
    """
    access, _, _ = make(gone)
    who = credentials("Bearer ok")
    own = job(owner_of(access, who))
    await access.check(who, own)
    access, _, _ = make(gone)
    assert await refused(access, who, replace(own, borrowed=True)) == (404, "job-not-found")


async def test_an_unreachable_vb365_does_not_matter_while_cached() -> None:
    """§9: VB365 unreachable is 503, unless cached."""
    up = [True]
    access, _, _ = make(lambda *_: 200 if up[0] else None)
    who = credentials()
    await access.check(who, job("o"))
    up[0] = False
    await access.check(who, job("o"))
    assert (await refused(access, credentials("Bearer b"), job("o")))[0] == 503


async def test_denials_are_not_cached() -> None:
    """§9: a permission that was just granted applies."""
    responses = [403, 200]
    access, _, _ = make(lambda *_: responses.pop(0))
    who = credentials()
    await refused(access, who, job("o"))
    await access.check(who, job("o"))


async def test_the_kick_offs_own_credential_sees_its_job_without_a_check() -> None:
    """§9: for access.cache."""
    access, vb365, clock = make(lambda *_: 403)
    who = credentials()
    own = job(owner_of(access, who))
    access.allow(who, own)
    await access.check(who, own)
    assert vb365.requests == []
    clock.now = 61
    assert (await refused(access, who, own))[0] == 404


async def test_a_kickoff_is_not_vouched_for_once_the_job_has_run_with_other_credentials() -> None:
    """§9 borrowed: the file is what those credentials may see."""
    access, _, _ = make(lambda token, *_: 200 if token == "Bearer ok" else 403)
    intruder = credentials("Bearer intruder")
    own = job(owner_of(access, intruder))
    access.allow(intruder, own)
    await access.check(intruder, own)
    borrowed = replace(own, borrowed=True)
    assert await refused(access, intruder, borrowed) == (404, "job-not-found")
    await access.check(credentials("Bearer ok"), borrowed)


async def test_a_kick_off_in_a_foreign_session_gives_no_access_to_its_other_jobs() -> None:
    """§9: a caller who starts an export below a session may see that export, not those of
    others.
    """
    access, _, _ = make(lambda *_: 403)
    intruder = credentials("Bearer intruder")
    access.allow(intruder, job(owner_of(access, intruder)))
    assert (await refused(access, intruder, job("victim")))[0] == 404


async def test_after_the_sessions_end_the_caller_still_sees_the_job() -> None:
    """§9: VB365 responds with 404 to the session."""
    access, _, _ = make(gone)
    who = credentials("Bearer ok")
    own = job(owner_of(access, who))
    await access.check(who, own)
    assert (await refused(access, who, job("victim")))[0] == 404
    assert (await refused(access, credentials("Bearer ok2"), own))[0] == 404


async def test_after_the_sessions_end_a_revoked_token_is_rejected() -> None:
    """§9: VB365 must still accept the caller's credentials."""
    access, _, _ = make(lambda token, target, cookie: 404 if target != SESSIONS else 401)
    who = credentials("Bearer ok")
    assert (await refused(access, who, job(owner_of(access, who))))[0] == 401


async def test_a_report_is_visible_to_its_caller_only() -> None:
    """§1: exports.reports: without a session only the caller of the kick-off has access."""
    access, _, _ = make(lambda *_: 200)
    who = credentials()
    report = job(owner_of(access, who), session=None)
    await access.check(who, report)
    assert (await refused(access, credentials("Bearer b"), report))[0] == 404


# identity


@pytest.mark.parametrize("refusal", [400, 404])
async def test_checks_use_a_version_that_vb365_serves(refusal: int) -> None:
    """§2: v8, then v7, then v6; the one that is served is remembered; none comes from the
    caller.
    """
    served = "/v6/RestoreSessions"
    access, vb365, clock = make(
        lambda token, target, cookie: 200 if target.startswith(served) else refusal
    )
    for count in (3, 1):
        vb365.requests.clear()
        await access.identify(credentials())
        assert len(vb365.requests) == count
        clock.now += 61
    assert vb365.requests == [("Bearer a", "/v6/RestoreSessions?limit=1")]
    vb365.requests.clear()
    await access.unknown(credentials(), "id")
    await access.check(credentials(), job("o", api="v77"))
    assert {target.split("/")[1] for _, target in vb365.requests} == {"v6"}
    served = "/v8/RestoreSessions"  # VB365 was upgraded meanwhile
    clock.now += 61
    await access.identify(credentials())
    vb365.requests.clear()
    await access.unknown(credentials(), "id")
    assert vb365.requests == [("Bearer a", "/v8/RestoreSessions/id")]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (401, 401),
        (403, 401),
        (404, 401),
        (400, 401),
        (500, 503),
        (302, 503),
        (429, 503),
        (None, 503),
    ],
)
async def test_a_list_needs_a_2xx(response: int | None, expected: int) -> None:
    """§4, §9: a caller whom VB365 does not accept gets no empty list."""
    access, _, _ = make(lambda *_: response)
    for who in (
        credentials("Bearer made-up"),
        credentials(jwt("x")),
        credentials(jwt("x"), "c=1"),
    ):
        with pytest.raises(Problem) as why:
            await access.identify(who)
        assert why.value.status == expected


async def test_a_cookie_gives_no_access_to_jobs_of_an_expired_token() -> None:
    """§9, session gone: the token itself must still be accepted, not the cookie beside it."""

    def decide(token: str, target: str, cookie: bool) -> int:
        return 404 if target != SESSIONS else 200 if cookie or token == "Bearer good" else 401

    access, _, _ = make(decide)
    own = job(owner_of(access, credentials("Bearer expired")))
    assert (await refused(access, credentials("Bearer expired"), own))[0] == 401
    assert (await refused(access, credentials("Bearer expired", "session=mallory"), own))[0] == 404
    good = job(owner_of(access, credentials("Bearer good")))
    await access.check(credentials("Bearer good", "affinity=1"), good)


async def test_a_token_that_needs_a_cookie_identifies_its_caller_with_it() -> None:
    """§9, session gone: neither of the two is accepted alone."""
    access, vb365, _ = make(
        lambda token, target, cookie: (
            404 if target != SESSIONS else 200 if token and cookie else 401
        )
    )
    who = credentials("Bearer a", ".AspNetCore.Antiforgery=x")
    own = job("identity", aliases=access.owners(who))
    await access.check(who, own)
    vb365.requests.clear()
    await access.check(who, own)
    assert vb365.requests == []
    assert (await refused(access, credentials("Bearer a"), own))[0] == 401


@pytest.mark.parametrize("without_cookie", [401, 403, 302])
async def test_an_authorization_shared_by_all_users_identifies_nobody(without_cookie: int) -> None:
    """§2, §9: a front requires the same Basic credentials of every user, and a session cookie."""

    def decide(token: str, target: str, cookie: bool) -> int:
        return without_cookie if not cookie else 200 if target == SESSIONS else 404

    access, _, _ = make(decide)
    alice, bob = (credentials("Basic gate", f"sid={name}") for name in ("alice", "bob"))
    first, *others = access.owners(alice)
    own = job(first, aliases=tuple(others))
    await access.check(alice, own)
    assert await access.owns(alice, own)
    assert await refused(access, bob, own) == (404, "job-not-found")
    assert not await access.owns(bob, own)
    assert await refused(access, alice, job(first)) == (404, "job-not-found")


@pytest.mark.parametrize("failure", [429, 503, None])
async def test_whether_authorization_alone_is_accepted_may_be_unknown(failure: int | None) -> None:
    """§9: then the call must be repeated."""

    def decide(token: str, target: str, cookie: bool) -> int | None:
        return 404 if target != SESSIONS else 200 if cookie else failure

    access, _, _ = make(decide)
    first, second = (credentials("Bearer a", f"ARRAffinity={number}") for number in (1, 2))
    own = job("identity", aliases=access.owners(first))
    await access.check(first, own)
    assert (await refused(access, second, own))[0] == 503
    with pytest.raises(Problem) as why:
        await access.owns(second, own)
    assert why.value.status == 503


async def test_a_sufficient_token_with_another_cookie_stays_the_owner() -> None:
    """§2 Caller: a load balancer's cookie changes with every response."""
    access, _, _ = make(gone)
    own = job("identity", aliases=access.owners(credentials("Bearer ok", "ARRAffinity=1")))
    for cookie in (None, "ARRAffinity=1", "ARRAffinity=2"):
        await access.check(credentials("Bearer ok", cookie), own)
        assert await access.owns(credentials("Bearer ok", cookie), own)


async def test_a_result_applies_to_the_exact_credentials_of_the_check() -> None:
    """§2: not to another cookie, nor to the token without it, nor the other way round."""
    access, _, _ = make(lambda token, target, cookie: 200 if cookie else 403)
    await access.check(credentials("Bearer a", "good"), job("o"))
    assert (await refused(access, credentials("Bearer a"), job("o")))[0] == 404
    access, vb365, _ = make(lambda token, target, cookie: 200)
    for who in (
        credentials("Bearer a", "good"),
        credentials("Bearer a", "bad"),
        credentials("Bearer b", "good"),
    ):
        await access.check(who, job("o"))
    assert len(vb365.requests) == 3


@pytest.mark.parametrize("session", ["S1", None])
async def test_an_invalid_version_or_id_does_not_disclose_a_job(session: str | None) -> None:
    """§9: VB365 responds with 400 to what it cannot parse; a job that names it is not distinguished
    from no job.
    """
    access, _, _ = make(
        lambda token, target, cookie: 400 if "S1" in target or "v77" in target else 404
    )
    foreign = await refused(access, credentials(), job("victim", session=session, api="v77"))
    problem = await access.unknown(credentials(), str(uuid4()))
    assert foreign == (problem.status, problem.name)


async def test_the_owner_of_a_job_is_checked_with_vb365_only_for_a_claim() -> None:
    """§9 borrowed: the credentials themselves are known; an identity must be learned, or the call
    repeated.
    """
    up = [False]
    access, vb365, _ = make(lambda *_: 200 if up[0] else None)
    who = credentials(jwt("alice"))
    claimed = access.claimed(who)
    assert claimed is not None
    own = job("identity", aliases=access.owners(who))
    assert await access.owns(who, own)
    assert not await access.owns(who, job("somebody"))
    assert vb365.requests == []
    with pytest.raises(Problem) as why:
        await access.owns(who, job(claimed))
    assert why.value.status == 503
    up[0] = True
    assert await access.owns(who, job(claimed))


async def test_one_list_checks_a_session_once_even_if_denied() -> None:
    """§9: denials are not cached, but are remembered within one request."""
    access, vb365, _ = make(lambda *_: 404)
    responses: Statuses = {}
    for _ in range(3):
        with pytest.raises(Problem):
            await access.check(credentials(), job("victim"), responses)
    assert len(vb365.requests) == 1


async def test_a_list_checks_all_reports_with_one_request() -> None:
    """§9: a list has no report of another caller, so that there is nothing to hide."""
    access, vb365, _ = make(lambda *_: 200)
    who, responses = credentials(), Statuses()
    for _ in range(3):
        await access.check(who, job(owner_of(access, who), session=None), responses)
    assert vb365.requests == [("Bearer a", SESSIONS)]


async def test_the_tables_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hostile tokens cannot grow memory."""
    monkeypatch.setattr("proxy.upstream.bounded.MAX_ENTRIES", 3)
    access, _, _ = make(lambda *_: 200)
    everybody = [credentials(jwt(str(number))) for number in range(5)]
    for who in everybody:
        await access.check(who, job("o"))
        await access.learn(who)
    assert [access.claimed(who) in access.owners(who) for who in everybody] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert [access.knows(who.fields) for who in everybody] == [False, False, True, True, True]

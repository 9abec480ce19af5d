"""Access checks against a scripted VB365 (CONTRACT §2 "Caller", §9)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import uuid4

import pytest

from proxy.core.errors import Problem
from proxy.core.job import ExportRequest, Job
from proxy.ports import Fields, UpstreamUnreachable
from proxy.upstream.access import Access, Statuses
from proxy.upstream.credentials import Credentials

SESSIONS = "/v8/RestoreSessions?limit=1"


@dataclass
class Scripted:
    """A response of VB365 of which only the status counts."""

    status: int
    reason: bytes = b""
    fields: Fields = ()
    lines: bytes = b""
    length: int | None = 0
    delimited: bool = True

    async def read(self) -> bytes:
        return b""

    def close(self) -> None:
        """Nothing to close."""


class Vb365:
    """Decides by authorization and target; None is an upstream that is down.

    A request without credentials gets `anonymous` and is not counted.
    """

    def __init__(self, decide: Callable[[str, str, bool], int | None]) -> None:
        self.decide = decide
        self.anonymous: int | None = 401
        self.requests: list[tuple[str, str]] = []

    async def send(
        self,
        method: bytes,
        target: bytes,
        fields: Fields,
        body: bytes = b"",
        *,
        timeout: float,
        stall: float,
    ) -> Scripted:
        assert not any(n.lower() == b"host" for n, _ in fields)
        token = next((v.decode() for n, v in fields if n == b"Authorization"), "")
        cookie = any(n == b"Cookie" for n, _ in fields)
        if token or cookie:
            self.requests.append((token, target.decode()))
            status = self.decide(token, target.decode(), cookie)
        else:
            status = self.anonymous
        if status is None:
            raise UpstreamUnreachable("down", delivered=False)
        return Scripted(status)

    async def close(self) -> None:
        """Nothing to close."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make(decide: Callable[[str, str, bool], int | None]) -> tuple[Access, Vb365, Clock]:
    vb365, clock = Vb365(decide), Clock()
    return Access(vb365, key=b"k" * 32, cache=60, timeout=5, now=clock), vb365, clock


def credentials(token: str = "Bearer a", cookie: str | None = None) -> Credentials:
    fields = [(b"authorization", token.encode())] + (
        [(b"Cookie", cookie.encode())] if cookie else []
    )
    made = Credentials.of(fields)
    assert made is not None
    return made


def jwt(subject: str, salt: str = "1", issuer: str = "https://vb365", claim: str = "sub") -> str:
    claims = base64.urlsafe_b64encode(
        json.dumps({"iss": issuer, claim: subject, "jti": salt}).encode()
    ).decode()
    return f"Bearer e30.{claims.rstrip('=')}.sig{salt}"


def owner_of(access: Access, who: Credentials) -> str:
    return access.owners(who)[0]


def job(
    owner: str, session: str | None = "S1", *, api: str = "v8", aliases: tuple[str, ...] = ()
) -> Job:
    request = ExportRequest(
        method="POST",
        target="/v8/RestoreSessions/S1/organization/exportToPst",
        api=api,
        session=session,
        title="exportToPst",
        content_type=None,
        accept=None,
        accept_language=None,
        idempotency_key=None,
        fingerprint="",
    )
    now = time.time()
    return Job(
        id=str(uuid4()),
        version=1,
        owner=owner,
        aliases=aliases,
        request=request,
        created=now,
        updated=now,
    )


async def refused(access: Access, who: Credentials, what: Job) -> tuple[int, str]:
    with pytest.raises(Problem) as why:
        await access.check(who, what)
    return why.value.status, why.value.name


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


def gone(token: str, target: str, cookie: bool) -> int:
    """The session has ended; only tokens named ok are accepted."""
    if "ok" not in token and "e30" not in token:
        return 401
    return 200 if target == SESSIONS else 404


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


async def test_a_refreshed_jwt_is_the_same_caller_once_accepted() -> None:
    """§2 Caller: iss and sub of a token that VB365 accepted."""
    access, _, _ = make(gone)
    first, second = credentials(jwt("alice", "1")), credentials(jwt("alice", "2"))
    assert owner_of(access, first) != owner_of(access, second)
    assert await access.learn(first)
    owner = owner_of(access, first)
    assert owner_of(access, second) != owner
    await access.check(second, job(owner))
    assert owner_of(access, second) == owner
    assert (await refused(access, credentials(jwt("mallory")), job(owner)))[0] == 404
    assert (await refused(access, credentials(jwt("alice", issuer="https://evil")), job(owner)))[
        0
    ] == 404


async def test_equal_subjects_of_different_claims_are_different_callers() -> None:
    """§2: `sub` and `unique_name` are names of different kinds."""
    access, _, _ = make(gone)
    names = ("sub", "unique_name", "nameid", "upn")
    tokens = [credentials(jwt("alice", claim=name)) for name in names]
    assert len({access.claimed(token) for token in tokens}) == len(names)
    assert await access.learn(tokens[1])
    assert (await refused(access, tokens[0], job(owner_of(access, tokens[1])))) == (
        404,
        "job-not-found",
    )


def test_records_of_version_0_1_0_keep_the_identity_of_sub() -> None:
    """§9: it stored issuer and subject, whatever the claim's name."""
    access, _, _ = make(lambda *_: 200)
    text = 'identity\0["https://vb365", "alice"]'
    old = hmac.new(b"k" * 32, text.encode(), hashlib.sha256).hexdigest()
    assert access.claimed(credentials(jwt("alice"))) == old
    assert access.claimed(credentials(jwt("alice", claim="unique_name"))) != old


async def test_claims_of_a_token_that_was_not_accepted_identify_nobody() -> None:
    """§2 Caller: a forged token never becomes its claimed owner."""
    access, _, _ = make(
        lambda token, target, cookie: 200 if token.endswith("sig1") and target == SESSIONS else 404
    )
    genuine = credentials(jwt("alice", "1"))
    assert await access.learn(genuine)
    forged = replace(genuine, authorization=(jwt("alice", "forged").encode(),))
    assert (await refused(access, forged, job(owner_of(access, genuine))))[0] == 404


async def test_a_cookie_does_not_authenticate_the_token_beside_it() -> None:
    """§2 Caller: VB365 accepted the cookie, not the forged token."""
    access, _, _ = make(lambda token, target, cookie: 200 if cookie or "sig1" in token else 401)
    genuine = credentials(jwt("alice", "1"))
    assert await access.learn(genuine)
    forged = credentials(jwt("alice", "forged"), cookie="session=mallory")
    await access.identify(forged)
    assert owner_of(access, genuine) not in access.owners(forged)
    honest = credentials(jwt("alice", "sig1"), cookie="antiforgery=1")
    await access.identify(honest)
    assert owner_of(access, genuine) in access.owners(honest)


async def test_owner_hashes_depend_on_the_key_and_hide_the_credential() -> None:
    """§9: a keyed hash."""
    who = credentials("Bearer secret-canary")
    one, _, _ = make(lambda *_: 200)
    other = Access(Vb365(lambda *_: 200), key=b"x" * 32, cache=60, timeout=5, now=Clock())
    assert owner_of(one, who) != owner_of(other, who)
    assert "secret-canary" not in owner_of(one, who)


async def test_a_report_is_visible_to_its_caller_only() -> None:
    """§1: exports.reports: without a session only the caller of the kick-off has access."""
    access, _, _ = make(lambda *_: 200)
    who = credentials()
    report = job(owner_of(access, who), session=None)
    await access.check(who, report)
    assert (await refused(access, credentials("Bearer b"), report))[0] == 404


@pytest.mark.parametrize(
    "token", ["Basic e30.e30.x", "Bearer a.b", "Bearer a.!!.c", "Bearer a.W10.c", "Bearer a.e30.c"]
)
def test_a_token_that_is_not_a_jwt_has_no_identity(token: str) -> None:
    assert credentials(token).claims is None


@pytest.mark.parametrize(
    "form",
    ["x {}", "x\t{}", "x,{}", "x;{}", "{} x", "{},x", "{}=", '"{}"', "{}.x", "\t{}", "{}\xa0"],
)
def test_a_jwt_with_anything_beside_it_has_no_identity(form: str) -> None:
    """§2: VB365 may accept the other part."""
    token = jwt("alice").removeprefix("Bearer ")
    for text, has_claims in ((token, True), (form.format(token), False)):
        made = Credentials.of([(b"Authorization", f"Bearer {text}".encode("latin-1"))])
        assert made is not None
        assert (made.claims is not None) is has_claims


def test_two_authorization_lines_have_no_identity() -> None:
    """It is unknown which of them VB365 uses."""
    line = (b"Authorization", jwt("alice").encode())
    made = Credentials.of([line, line])
    assert made is not None
    assert made.claims is None


# identity


async def test_a_cookie_beside_a_token_makes_no_new_caller() -> None:
    """§2 Caller: the hash of Authorization, however its scheme is spelled; only without one that of
    Cookie.
    """
    access, _, _ = make(lambda *_: 200)
    token = owner_of(access, credentials("Bearer a"))
    for same in (
        credentials("Bearer a", "ARRAffinity=1"),
        credentials("Bearer a", "junk"),
        credentials("bearer  a"),
    ):
        assert owner_of(access, same) == token
    assert owner_of(access, credentials("Bearer b", "ARRAffinity=1")) != token
    cookies = [Credentials.of([(b"Cookie", value)]) for value in (b"a", b"b")]
    assert len({owner_of(access, each) for each in cookies if each is not None}) == 2


def test_records_of_version_0_1_0_still_belong_to_their_caller() -> None:
    """§9: the keyed hash over the credentials as they were sent, without a cookie."""
    access, _, _ = make(lambda *_: 200)
    for line in (b"Bearer a", b"bearer a", b"Basic YTpi"):
        text = f"credentials\0{((line,), ())!r}"
        old = hmac.new(b"k" * 32, text.encode(), hashlib.sha256).hexdigest()
        made = Credentials.of([(b"Authorization", line), (b"Cookie", b"x")])
        assert made is not None
        assert old in access.owners(made)


async def test_seeing_a_session_identifies_nobody() -> None:
    """§2: the caller chose the session's id; identity comes from the proxy's own request alone."""
    access, vb365, _ = make(lambda token, target, cookie: 401 if target == SESSIONS else 200)
    who = credentials(jwt("alice"))
    await access.check(who, job("o"))
    assert access.claimed(who) not in access.owners(who)
    assert await access.learn(who) is False
    assert access.claimed(who) not in access.owners(who)
    assert vb365.requests[-1][1] == SESSIONS


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (200, True),
        (204, True),
        (401, False),
        (403, False),
        (404, False),
        (500, None),
        (302, None),
        (None, None),
    ],
)
async def test_an_identity_is_learned_from_a_2xx_only(
    response: int | None, expected: bool | None
) -> None:
    """§2: neither a rejection nor a missing response identifies a caller."""
    access, _, _ = make(lambda *_: response)
    who = credentials(jwt("alice"), "antiforgery=1")
    assert await access.learn(who) is expected
    assert (access.claimed(who) in access.owners(who)) is (expected is True)
    assert access.knows(who.fields) is (expected is True)


async def test_the_identity_check_is_sent_without_the_cookie() -> None:
    """§2: otherwise the cookie may be what VB365 accepts."""
    access, vb365, _ = make(lambda token, target, cookie: 200 if cookie else 401)
    who = credentials(jwt("alice"), "session=mallory")
    assert await access.learn(who) is False
    assert await access.identify(who) == access.owners(who)
    assert access.claimed(who) not in access.owners(who)
    assert {target for _, target in vb365.requests} == {SESSIONS}


async def test_a_learned_identity_outlives_the_cache_and_grants_no_access() -> None:
    """§8: it serves look-ups; §9: access itself is checked again."""
    responses = [200, 401, 401]
    access, _, clock = make(lambda *_: responses.pop(0))
    who = credentials(jwt("alice"))
    assert await access.learn(who)
    clock.now = 1e6
    assert await access.learn(who) is False
    assert access.owners(who) == (access.claimed(who), *access.hashes(who))
    with pytest.raises(Problem) as why:
        await access.identify(who)
    assert why.value.status == 401


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

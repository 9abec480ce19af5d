"""Who a caller is: identities, and what VB365 must have accepted (CONTRACT §2, §9)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

import pytest

from proxy.core.errors import Problem
from proxy.upstream.access import Access
from proxy.upstream.credentials import Credentials
from proxy.upstream.turns import Turns
from tests.unit.upstream.callers import (
    SESSIONS,
    Clock,
    Vb365,
    credentials,
    gone,
    job,
    jwt,
    make,
    owner_of,
    refused,
)


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
    other = Access(
        Vb365(lambda *_: 200), key=b"x" * 32, cache=60, timeout=5, turns=Turns(8), now=Clock()
    )
    assert owner_of(one, who) != owner_of(other, who)
    assert "secret-canary" not in owner_of(one, who)


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


@pytest.mark.parametrize("space", [b"\t", b"\t \t", b"\xa0", b"\x85", "\u2003\u00a0".encode()])
def test_white_space_around_a_token_makes_no_new_caller(space: bytes) -> None:
    """§2, §3.5: .NET drops it, so that one token would have any number of quotas and turns."""
    access, _, _ = make(lambda *_: 200)
    token = owner_of(access, credentials("Bearer a"))
    for value in (space + b"a", b"a" + space):
        made = Credentials.of([(b"Authorization", b"Bearer " + value)])
        assert made is not None
        assert owner_of(access, made) == token


@pytest.mark.parametrize("prefix", [b"", b"t"])
@pytest.mark.parametrize("character", ["à", "\u5145", "†"])
def test_a_byte_that_is_part_of_a_character_is_no_white_space(
    prefix: bytes, character: str
) -> None:
    """§2: 85 and A0, white space in Latin-1, are also the last bytes of characters in UTF-8."""
    access, _, _ = make(lambda *_: 200)
    whole = prefix + character.encode()
    made = [
        Credentials.of([(b"Authorization", b"Bearer " + whole[:end])])
        for end in range(len(prefix) + 1, len(whole) + 1)
    ]
    assert len({owner_of(access, each) for each in made if each is not None}) == len(made)


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


def test_11_the_claims_of_a_very_long_token_are_not_read() -> None:
    """To decode 256 KiB of them takes 30 ms, before VB365 has accepted anything."""
    assert credentials(jwt("a" * 48_000)).claims is not None
    assert credentials(jwt("a" * 50_000)).claims is None

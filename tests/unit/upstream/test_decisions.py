"""The cache of VB365's successes (CONTRACT §9)."""

from __future__ import annotations

import pytest

from proxy.upstream.credentials import Credentials
from proxy.upstream.decisions import Decisions
from proxy.upstream.owner_hashes import OwnerHashes

TOKEN = Credentials((b"Bearer one",), ())
WITH_COOKIE = Credentials((b"Bearer one",), (b"a=b",))
OTHER = Credentials((b"Bearer two",), ())


@pytest.fixture
def decisions() -> Decisions:
    return Decisions(OwnerHashes(bytes(32)), lifetime=60, now=lambda: 0.0)


def test_a_decision_applies_to_the_exact_credentials(decisions: Decisions) -> None:
    decisions.put(TOKEN, "job", "x")
    assert decisions.has(TOKEN, "job", "x")
    assert not decisions.has(WITH_COOKIE, "job", "x")
    assert not decisions.has(OTHER, "job", "x")
    assert not decisions.has(TOKEN, "job", "y")
    assert not decisions.has(TOKEN, "session", "x")


def test_all_decisions_of_a_caller_are_dropped(decisions: Decisions) -> None:
    """Whatever cookie was sent with the token."""
    for each in (TOKEN, WITH_COOKIE, OTHER):
        decisions.put(each, "job", "x")
    decisions.drop(Credentials((b"bearer one",), (b"c=d",)))
    assert [decisions.has(each, "job", "x") for each in (TOKEN, WITH_COOKIE, OTHER)] == [
        False,
        False,
        True,
    ]


def test_a_look_up_computes_one_hash(decisions: Decisions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each poll looks up one."""
    computed: list[str] = []
    keyed = OwnerHashes._keyed

    def counted(self: OwnerHashes, kind: str, text: str) -> str:
        computed.append(text)
        return keyed(self, kind, text)

    decisions.put(WITH_COOKIE, "job", "x")
    monkeypatch.setattr(OwnerHashes, "_keyed", counted)
    again = Credentials(WITH_COOKIE.authorization, WITH_COOKIE.cookie)  # of another request
    assert decisions.has(again, "job", "x")
    assert len(computed) == 1
    assert decisions.has(again, "job", "x")
    assert len(computed) == 1

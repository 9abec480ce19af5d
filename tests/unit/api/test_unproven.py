"""Kick-offs whose callers VB365 could not confirm, in memory (CONTRACT §8)."""

from __future__ import annotations

import pytest

from proxy.api import unproven
from proxy.api.unproven import UnprovenKickoff, UnprovenKickoffs
from proxy.config.settings import Exports
from proxy.jobs.admission import unaccepted_share
from proxy.upstream.credentials import Credentials


class Clock:
    now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def kickoffs() -> UnprovenKickoffs:
    return UnprovenKickoffs(Clock())


def add(kickoffs: UnprovenKickoffs, claimed: str, key: str, name: str, size: int = 9) -> None:
    """Add a kick-off whose job has been stored, and make room for it."""
    entry = kickoffs.add(claimed, key, name, Credentials((b"x" * size,), ()))
    entry.release()
    kickoffs.count(entry)
    for each in kickoffs.surplus():
        if kickoffs.too_many:
            kickoffs.remove(each)


def ids(entries: object) -> list[str]:
    assert isinstance(entries, list)
    return [entry.id for entry in entries if isinstance(entry, UnprovenKickoff)]


def test_entries_are_found_by_claim_and_key(kickoffs: UnprovenKickoffs) -> None:
    """The oldest first, also after others had their turn."""
    for claimed, key, name in (("a", "k", "1"), ("a", "k", "2"), ("a", "l", "3"), ("b", "k", "4")):
        add(kickoffs, claimed, key, name)
    assert [ids(kickoffs.next(2)) for _ in range(3)] == [["1", "2"], ["3", "4"], ["1", "2"]]
    assert ids(kickoffs.next(9)) == ["3", "4", "1", "2"]
    assert ids(kickoffs.of("a", "k")) == ["1", "2"]
    assert ids(kickoffs.of("c", "k")) == []


def test_many_kickoffs_of_one_claim_drop_their_own(
    kickoffs: UnprovenKickoffs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever claims one identity many times drops nobody else's entry."""
    monkeypatch.setattr(unproven, "MAX_ENTRIES", 10)
    add(kickoffs, "alice", "k", "hers")
    for number in range(30):
        add(kickoffs, "mallory", f"k{number}", f"m{number}")
    assert len(kickoffs) == kickoffs.ended == 10
    assert ids(kickoffs.of("alice", "k")) == ["hers"]
    assert ids(kickoffs.of("mallory", "k29")) == ["m29"]


def test_entries_of_one_key_are_few(kickoffs: UnprovenKickoffs) -> None:
    """VB365 is asked about each of them when one of their callers is confirmed."""
    for number in range(100):
        add(kickoffs, "alice", "k", str(number))
    assert len(kickoffs.of("alice", "k")) == len(kickoffs) == unproven.MAX_SAME


def test_long_tokens_take_the_places_of_several(
    kickoffs: UnprovenKickoffs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key of theirs is one export too (CONTRACT §8, §12), and they drop nobody else's entry."""
    monkeypatch.setattr(unproven, "MAX_ENTRIES", 20)
    add(kickoffs, "alice", "k", "hers")
    for number in range(30):
        add(kickoffs, f"m{number % 3}", f"k{number}", f"m{number}", size=unproven.PER_ENTRY * 4)
    assert len(kickoffs) == 1 + 3
    assert ids(kickoffs.of("alice", "k")) == ["hers"]
    assert ids(kickoffs.of("m2", "k29")) == ["m29"]


def test_long_tokens_of_as_many_as_may_wait_displace_nobody(kickoffs: UnprovenKickoffs) -> None:
    """Those of all jobs that callers unknown to VB365 may have running and waiting by default."""
    exports = Exports()
    longest = 64 << 10  # of which the claims are read
    add(kickoffs, "alice", "k", "hers", size=longest)
    for number in range(exports.max_running + unaccepted_share(exports.max_queued)):
        add(kickoffs, f"m{number}", "k", f"m{number}", size=len("Bearer ") + longest)
    assert ids(kickoffs.of("alice", "k")) == ["hers"]


def test_kickoffs_that_are_not_over_displace_nobody(
    kickoffs: UnprovenKickoffs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any number of them may wait for VB365, and most are refused then. None of them is dropped
    either: its job may be stored yet.
    """
    monkeypatch.setattr(unproven, "MAX_ENTRIES", 10)
    add(kickoffs, "alice", "k", "hers")
    waiting = Credentials((b"x",), ())
    for number in range(30):
        kickoffs.add(f"m{number}", "k", f"m{number}", waiting)
        kickoffs.add("alice", "k", f"again {number}", waiting)
    add(kickoffs, "bob", "k", "his")
    assert len(kickoffs.of("alice", "k")) == 31
    assert ids(kickoffs.of("alice", "k"))[0] == "hers"
    assert ids(kickoffs.of("m0", "k")) == ["m0"]
    assert ids(kickoffs.next(3)) == ["hers", "his"]


def test_entries_end_with_their_tokens(kickoffs: UnprovenKickoffs) -> None:
    """Credentials are not kept for ever."""
    add(kickoffs, "alice", "k", "1")
    kickoffs._now.now += unproven.MAX_AGE  # type: ignore[attr-defined]
    kickoffs.expire()
    assert not kickoffs.next(1)
    assert len(kickoffs) == kickoffs.ended == 0
    assert not kickoffs.of("alice", "k")


def test_no_representation_has_a_token(kickoffs: UnprovenKickoffs) -> None:
    """§9: nor does a traceback or a log."""
    assert "xxx" not in repr(kickoffs.add("alice", "k", "1", Credentials((b"xxx",), ())))

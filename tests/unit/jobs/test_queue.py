"""Who gets a free slot (CONTRACT §3.5, §3.6)."""

from __future__ import annotations

import pytest

from proxy.jobs.local_queue import LocalQueue
from proxy.jobs.queue import Slots
from proxy.jobs.run import Run
from proxy.ports import SlotLimits
from tests.support.fakes import new_job


def drained(slots: Slots[str]) -> str:
    """The order in which jobs start, if each ends as soon as the next one could start."""
    order = []
    while (ticket := slots.next()) is not None:
        order.append(ticket)
        slots.leave(ticket)
    return " ".join(order)


@pytest.mark.parametrize(
    ("queue", "expected"),
    [
        ("a1 a2 a3", "a1 a2 a3"),
        ("a1 a2 a3 b1", "a1 b1 a2 a3"),
        ("a1 a2 b1 b2 c1", "a1 b1 c1 a2 b2"),
        ("b1 a1 b2 a2", "b1 a1 b2 a2"),
        ("a1 a2 a3 a4 b1 c1 c2", "a1 b1 c1 a2 c2 a3 a4"),
    ],
)
def test_callers_take_turns_and_within_a_caller_the_first_comes_first(
    queue: str, expected: str
) -> None:
    slots: Slots[str] = Slots(total=1)
    for ticket in queue.split():
        slots.wait(ticket, ticket[0])
    assert drained(slots) == expected


def test_a_caller_that_comes_back_does_not_pass_those_who_wait_longer_for_their_turn() -> None:
    """A start is remembered after the job has ended and while its caller has nothing in the
    queue.
    """
    slots: Slots[str] = Slots(total=2)
    for ticket in ("a1", "b1"):
        slots.wait(ticket, ticket[0])
        assert slots.next() == ticket
    slots.wait("a2", "a")
    slots.leave("b1")
    slots.wait("b2", "b")
    assert slots.next() == "a2"
    slots.leave("a1")
    assert slots.next() == "b2"


def test_starts_before_a_restart_count() -> None:
    slots: Slots[str] = Slots(total=1)
    slots.started("b")
    slots.started("a")
    for ticket in ("a1", "b1", "c1"):
        slots.wait(ticket, ticket[0])
    assert drained(slots) == "c1 b1 a1"


@pytest.mark.parametrize(
    ("queue", "expected"),
    [
        ("?x1 ?y1 ?z1 a1 b1 a2", "?x1 a1 b1 ?y1 a2 ?z1"),
        ("?x1 ?x2 ?x3 ?y1 ?z1", "?x1 ?y1 ?z1 ?x2 ?x3"),
    ],
)
def test_callers_that_vb365_never_accepted_have_one_turn_together(
    queue: str, expected: str
) -> None:
    """§3.6: anyone can invent any number of tokens that have never started a job."""
    slots: Slots[str] = Slots(total=1)
    slots.started("a")
    slots.started("b")
    slots.started("?w", accepted=False)
    slots.started("a")
    slots.started("b")
    for ticket in queue.split():
        slots.wait(ticket, ticket[:-1], accepted=not ticket.startswith("?"))
    assert drained(slots) == expected


def test_a_caller_has_at_most_its_share_of_the_slots() -> None:
    """§3.6: `exports.max_running_per_caller` keeps slots free for others."""
    slots: Slots[str] = Slots(total=3, per_caller=2)
    for ticket in ("a1", "a2", "a3"):
        slots.wait(ticket, "a")
    assert [slots.next() for _ in range(3)] == ["a1", "a2", None]
    slots.wait("b1", "b")
    assert slots.next() == "b1"
    slots.leave("b1")
    assert slots.next() is None
    slots.leave("a1")
    assert slots.next() == "a3"


def test_jobs_with_a_hash_in_common_are_of_one_caller() -> None:
    """§2, §3.6: a caller's identity may be unknown for one job and known for the next, in either
    order: that makes it no second queue.
    """
    slots: Slots[str] = Slots(total=1)
    slots.wait("unknown", "credential")
    slots.wait("known", "identity", "credential")
    slots.wait("another", "b")
    assert drained(slots) == "unknown another known"
    slots.wait("refreshed", "identity", "credential 2")
    slots.wait("unknown again", "credential")
    slots.wait("c", "c")
    assert drained(slots) == "c refreshed unknown again"


@pytest.mark.parametrize(
    ("first", "second"),
    [(("credential",), ("identity", "credential")), (("identity", "credential"), ("credential",))],
)
def test_a_caller_has_one_share_under_all_its_hashes(
    first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    """§3.5, §3.6: in running jobs and in slots that cancelled ones hold."""
    slots: Slots[str] = Slots(total=3, per_caller=1)
    slots.wait("first", *first)
    assert slots.next() == "first"
    slots.wait("second", *second)
    assert slots.next() is None
    slots.leave("first", hold_until=5)
    assert (slots.next(), slots.held(*second)) == (None, 1)
    slots.expire(5)
    assert slots.next() == "second"
    slots.leave("second")
    assert not slots._taken


def test_a_job_leaves_the_queue_at_once() -> None:
    slots: Slots[str] = Slots(total=1)
    for ticket in ("a1", "a2", "a3", "b1"):
        slots.wait(ticket, ticket[0])
    for ticket in ("a1", "b1", "a3", "a3", "unknown"):
        slots.leave(ticket)
    assert slots.waiting == 1
    assert drained(slots) == "a2"
    assert (slots.waiting, slots.running, slots.free) == (0, 0, 1)


def test_a_held_slot_is_given_to_nobody_before_its_time() -> None:
    """§3.5 `cancel_hold`: in `max_running` and in its caller's share."""
    slots: Slots[str] = Slots(total=2, per_caller=1)
    for ticket in ("a1", "b1", "a2", "c1"):
        slots.wait(ticket, ticket[0])
    assert [slots.next(), slots.next()] == ["a1", "b1"]
    slots.leave("a1", hold_until=10)
    slots.expire(9.9)
    assert slots.next() is None
    assert (slots.held("a"), slots.held("b"), slots.free) == (1, 0, 0)
    slots.leave("b1")
    assert slots.next() == "c1"
    slots.leave("c1")
    assert slots.next() is None, "a's share is still held"
    slots.expire(10)
    assert slots.next() == "a2"
    assert slots.held("a") == 0


def test_only_a_running_job_can_hold_a_slot() -> None:
    slots: Slots[str] = Slots(total=1)
    slots.wait("a1", "a")
    slots.leave("a1", hold_until=10)
    slots.leave("a1", hold_until=10)
    assert slots.free == 1


def test_more_may_be_held_after_a_restart_than_there_are_slots() -> None:
    slots: Slots[str] = Slots(total=1)
    slots.hold(5, "a")
    slots.hold(6, "b")
    slots.wait("c1", "c")
    slots.expire(5)
    assert (slots.free, slots.next()) == (0, None)
    slots.expire(6)
    assert slots.next() == "c1"


def test_what_is_remembered_of_callers_is_bounded() -> None:
    """Every made-up token is another caller."""
    slots: Slots[str] = Slots(total=1)
    for number in range(10_500):
        slots.wait(f"t{number}", f"owner {number}")
        assert slots.next() == f"t{number}"
        slots.leave(f"t{number}", hold_until=number)
        slots.expire(number)
    assert len(slots._started) == 10_000
    assert not slots._taken
    assert not slots._waiting


def test_a_job_takes_a_free_slot_without_waiting() -> None:
    slots: Slots[str] = Slots(total=1)
    assert slots.take("a1", "a")
    assert (slots.running, slots.waiting, slots.free) == (1, 0, 0)
    assert not slots.take("b1", "b")
    slots.leave("a1")
    assert slots.take("b1", "b")


def test_a_job_takes_no_slot_that_a_waiting_one_may_have() -> None:
    slots: Slots[str] = Slots(total=2, per_caller=1)
    slots.wait("a1", "a")
    assert not slots.take("b1", "b")
    assert slots.next() == "a1"
    slots.wait("a2", "a")
    assert not slots.take("a3", "a"), "its caller has all slots that he may have"
    assert slots.take("b1", "b"), "the waiting job may not start"


def test_a_slot_that_was_taken_is_its_callers_turn() -> None:
    slots: Slots[str] = Slots(total=1)
    assert slots.take("a1", "a")
    for ticket in ("a2", "b1"):
        slots.wait(ticket, ticket[0])
    slots.leave("a1")
    assert drained(slots) == "b1 a2"


async def test_a_slot_is_held_no_longer_because_the_clock_was_set_back() -> None:
    """§3.5 `cancel_hold`: between the cancel and a restart."""
    now = 1000.0
    limits = SlotLimits(total=1, per_caller=0, hold=120.0)
    started: list[Run] = []
    queue = LocalQueue(limits, start=started.append, now=lambda: now)
    queue.restore([new_job(started=80_000.0, abandoned=90_000.0)])
    run = Run("a", [])
    assert not queue.offer(run, new_job(1))
    now += 120
    assert queue.offer(run, new_job(1))

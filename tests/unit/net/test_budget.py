"""A limit that some users may use a part of."""

from __future__ import annotations

from proxy.net.budget import Budget, Part, Share


def test_a_part_leaves_the_rest_to_others() -> None:
    whole = Budget(100)
    part = Part(whole, Budget(75))
    share = Share(part)
    assert share.take(75)
    assert not share.take(1)
    assert whole.take(25)
    share.release()
    assert (part.taken, whole.taken) == (0, 25)


def test_a_part_has_no_more_than_the_others_have_left() -> None:
    whole, limit = Budget(100), Budget(75)
    part = Part(whole, limit)
    assert whole.take(50)
    assert not part.take(51)
    assert limit.taken == 0
    assert part.take(50)
    assert not whole.take(1)

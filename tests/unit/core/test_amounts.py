"""Sizes and counts in messages."""

from __future__ import annotations

import pytest

from proxy.core.amounts import plural, size


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 KiB"),
        (512, "0.5 KiB"),
        (1024**2 - 1, "1024 KiB"),
        (1024**2, "1 MiB"),
        (1.2 * 1024**3, "1.2 GiB"),
        (5 * 1024**3, "5 GiB"),
        (2.5 * 1024**4, "2.5 TiB"),
    ],
)
def test_a_size_has_at_most_one_decimal(count: float, expected: str) -> None:
    assert size(count) == expected


def test_a_count_has_its_noun_in_the_right_number() -> None:
    assert [plural(count, "export") for count in (0, 1, 2, 1000)] == [
        "0 exports",
        "1 export",
        "2 exports",
        "1,000 exports",
    ]

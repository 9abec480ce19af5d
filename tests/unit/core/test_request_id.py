"""CONTRACT §15: which `X-Request-Id` is accepted."""

from __future__ import annotations

import pytest

from proxy.core.request_id import sent_id


@pytest.mark.parametrize("value", [b"a", b"A.z_9-", b"x" * 128])
def test_a_valid_id_is_kept(value: bytes) -> None:
    assert sent_id([value]) == value.decode()


@pytest.mark.parametrize(
    "values", [[], [b""], [b"x" * 129], [b"a b"], [b"a\r"], [b"a\n"], [b"\xe4"], [b"a", b"a"]]
)
def test_any_other_value_is_as_none(values: list[bytes]) -> None:
    assert sent_id(values) is None

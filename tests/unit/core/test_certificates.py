"""When a certificate is valid (`proxy.core.certificates`), compared with another reader."""

from __future__ import annotations

import contextlib
import ssl
from datetime import UTC, datetime

import pytest
import trustme
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.certificates import validity


def leaf(before: datetime, after: datetime) -> bytes:
    made = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert(
        "localhost", not_before=before, not_after=after, key_type=trustme.KeyType.ECDSA
    )
    return ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode())


@pytest.fixture(scope="module")
def der() -> bytes:
    return leaf(datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 2, 3, 4, 5, 6, tzinfo=UTC))


@pytest.mark.parametrize("before", [(1950, 1, 1), (1999, 12, 31, 23, 59, 59), (2024, 2, 29)])
@pytest.mark.parametrize("after", [(2049, 12, 31, 23, 59, 59), (2050, 1, 1), (9999, 12, 31)])
def test_both_forms_of_times_are_read(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    """Years before 1950 and after 2049 have four digits."""
    times = datetime(*before, tzinfo=UTC), datetime(*after, tzinfo=UTC)  # type: ignore[misc,arg-type]
    der = leaf(*times)
    read = x509.load_der_x509_certificate(der)
    assert validity(der) == times == (read.not_valid_before_utc, read.not_valid_after_utc)


def test_a_certificate_that_is_cut_off_is_refused(der: bytes) -> None:
    for length in range(len(der)):
        with pytest.raises(ValueError, match=r".+"):
            validity(der[:length])


def test_a_first_version_has_no_version(der: bytes) -> None:
    """RFC 5280 §4.1.2.1: the field is absent from X.509 v1."""
    body, times = b"\x02\x01\x05\x30\x00\x30\x00", b"\x17\x0d200101000000Z\x17\x0d300101000000Z"
    body += b"\x30" + bytes([len(times)]) + times
    inner = b"\x30" + bytes([len(body)]) + body
    begins, ends = validity(b"\x30" + bytes([len(inner)]) + inner)
    assert (begins.year, ends.year) == (2020, 2030)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"\x17\x0d200101", b"\x13\x0d200101"), (b"\x17\x0d200101", b"\x17\x0d201301")],
    ids=["another type", "month 13"],
)
def test_a_time_that_is_none_is_refused(der: bytes, old: bytes, new: bytes) -> None:
    assert old in der
    with pytest.raises(ValueError, match=r".+"):
        validity(der.replace(old, new))


@given(st.binary(max_size=64))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        validity(data)


@given(st.data())
def test_a_changed_certificate_is_read_or_refused(der: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(der) - 1))
    changed = der[:at] + bytes([data.draw(st.integers(0, 255))]) + der[at + 1 :]
    with contextlib.suppress(ValueError):
        assert len(validity(changed)) == 2

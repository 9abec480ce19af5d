"""HTTP dates (RFC 9110 §5.6.7), for CONTRACT §4 `Sunset` and §6."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.http.dates import parse_date

MODIFIED = 784111777
EQUAL = "Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.mark.parametrize(
    ("text", "near", "second"),
    [
        (EQUAL, 0, MODIFIED),
        ("Sunday, 06-Nov-94 08:49:37 GMT", MODIFIED, MODIFIED),
        ("Sun Nov  6 08:49:37 1994", 0, MODIFIED),
        ("Sun Nov 16 08:49:37 1994", 0, MODIFIED + 864000),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0, 0),
        ("Wed, 31 Dec 1969 23:59:59 GMT", 0, -1),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 0, 1483228800),
        ("Fri, 31 Dec 9999 23:59:60 GMT", 0, 253402300800),
        ("Mon, 29 Feb 2024 00:00:00 GMT", 0, 1709164800),
    ],
)
def test_all_three_date_formats_are_parsed(text: str, near: float, second: int) -> None:
    """RFC 9110 §5.6.7."""
    assert parse_date(text, near=near) == second


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "784111777",
        EQUAL.lower(),
        EQUAL + " ",
        EQUAL[:-4],
        EQUAL.replace("GMT", "+0000"),
        EQUAL + "\n",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:00 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov 94 08:49:37 GMT",
        "Sun, 06-Nov-94 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37",
        "1994-11-06T08:49:37Z",
        "Sun, \u0660\u0666 Nov 1994 08:49:37 GMT",
    ],
)
def test_other_formats_are_not_dates(text: str) -> None:
    """The parsers of the standard library accept many of these; RFC 9110 §5.6.7 does not."""
    assert parse_date(text, near=0) is None


@pytest.mark.parametrize(
    ("now", "short", "year"),
    [
        (2026, 76, 2076),
        (2026, 77, 1977),
        (2026, 26, 2026),
        (2026, 0, 2000),
        (1999, 0, 2000),
        (2060, 99, 2099),
        (2060, 11, 2011),
    ],
)
def test_a_two_digit_year_is_within_fifty_years(now: int, short: int, year: int) -> None:
    """RFC 9110 §5.6.7: a date more than 50 years in the future is in the past."""
    near = datetime(now, 6, 1, tzinfo=UTC).timestamp()
    expected = int(datetime(year, 6, 1, tzinfo=UTC).timestamp())
    assert parse_date(f"Monday, 01-Jun-{short:02} 00:00:00 GMT", near=near) == expected


@given(st.datetimes(timezones=st.just(UTC)))
def test_dates_round_trip(drawn: datetime) -> None:
    """§6 `Last-Modified`, `Sunset`: whole seconds, rounded down, read back by our own parser."""
    moment = drawn.replace(microsecond=0)
    second = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    assert parse_date(format_datetime(moment, usegmt=True), near=0) == second

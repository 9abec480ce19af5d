"""HTTP dates (RFC 9110 §5.6.7)."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from email.utils import formatdate
from functools import lru_cache

_TIME = r"(?P<h>[01]\d|2[0-3]):(?P<m>[0-5]\d):(?P<s>[0-5]\d|60)"
_DAY, _LONG_DAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)", r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
# IMF-fixdate, rfc850-date, asctime-date. The parsers of the standard library accept far more.
_FORMS = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        rf"{_DAY}, (?P<day>\d\d) {_MONTH} (?P<year>\d{{4}}) {_TIME} GMT",
        rf"{_LONG_DAY}, (?P<day>\d\d)-{_MONTH}-(?P<year>\d\d) {_TIME} GMT",
        rf"{_DAY} {_MONTH} (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)
_EPOCH = date(1970, 1, 1).toordinal()


@lru_cache(maxsize=1)
def date_field(second: int) -> bytes:
    """The Unix second as the value of a Date field. The last one is kept for the next response."""
    return formatdate(second, usegmt=True).encode()


def parse_date(text: str, *, near: float) -> int | None:
    """The Unix second of an HTTP date in any of its three forms; None for any other text.

    A two-digit year is the one less than 50 years before or at most 50 years after the Unix second
    `near`.
    """
    found = next((match for form in _FORMS if (match := form.fullmatch(text))), None)
    if found is None:
        return None
    year = int(found["year"]) if len(found["year"]) == 4 else _full_year(int(found["year"]), near)
    try:
        day = date(year, _MONTHS.index(found["month"]) + 1, int(found["day"]))
    except ValueError:
        return None
    clock = int(found["h"]) * 3600 + int(found["m"]) * 60 + int(found["s"])
    return (day.toordinal() - _EPOCH) * 86400 + clock


def _full_year(short: int, near: float) -> int:
    latest = datetime.fromtimestamp(near, UTC).year + 50
    return latest - (latest - short) % 100

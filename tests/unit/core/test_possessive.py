"""Possessive groups in regular expressions: before Python 3.11.5, as in Debian 12, one whose last
repetition fails has consumed a part of it (CPython issue 106052).
"""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest

import proxy
from proxy.core.http import heads, ranges
from proxy.core.http.fields import TOKEN, VALUE

_SOURCE = Path(proxy.__file__).parent
_POSSESSIVE_GROUP = re.compile(r"""\)(?:[*+?]|\{[0-9,]+\})\+['"]""")


def test_no_other_pattern_has_a_possessive_group() -> None:
    """The tests below prove that these two are right nevertheless."""
    found = {
        path.relative_to(_SOURCE).as_posix(): len(matches)
        for path in _SOURCE.rglob("*.py")
        if (matches := _POSSESSIVE_GROUP.findall(path.read_text(encoding="utf-8")))
    }
    assert found == {"core/http/heads.py": 1, "core/http/ranges.py": 1}


@pytest.mark.parametrize("length", range(6))
def test_12_field_lines_match_one_by_one(length: int) -> None:
    line = re.compile(TOKEN + b":" + VALUE)
    for letters in product((b"a", b":", b"\r", b"\n", b" "), repeat=length):
        text = b"x:y\r\n" + b"".join(letters) + b"\r\n"
        each = [line.fullmatch(part) is not None for part in text[:-2].split(b"\r\n")]
        assert (heads._FIELDS.fullmatch(text) is not None) == all(each), text


@pytest.mark.parametrize("length", range(6))
def test_6_elements_end_at_commas_outside_of_quotes(length: int) -> None:
    for letters in product('a",\\ ', repeat=length):
        text = "".join(letters)
        elements, quoted = [""], False
        for letter in text:
            quoted ^= letter == '"'
            if letter == "," and not quoted:
                elements.append("")
            else:
                elements[-1] += letter
        found = [match[0] for match in ranges._ETAG_ELEMENT.finditer(text)]
        assert found == [element for element in elements if element], text

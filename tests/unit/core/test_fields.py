"""Lists of fields (RFC 9110 §5, §7.6.1)."""

from __future__ import annotations

import re
from pathlib import Path

import proxy
from proxy.core.http.fields import elements, end_to_end, split_fields, value_of, values_of, without

FIELDS = [(b"A", b"1"), (b"B", b"2"), (b"a", b"3")]


def test_look_up_ignores_case_and_keeps_the_order() -> None:
    assert values_of(FIELDS, b"a") == [b"1", b"3"]
    assert values_of(iter(FIELDS), b"c") == []


def test_the_first_value_of_a_field() -> None:
    assert value_of(FIELDS, b"a") == b"1"
    assert value_of(FIELDS, b"c") is None


def test_field_lines_are_split_without_the_white_space_around_values() -> None:
    assert split_fields(b"A:1\r\nb: \t2 3 \r\nC:\r\n") == (
        (b"A", b"1"),
        (b"b", b"2 3"),
        (b"C", b""),
    )


def test_the_elements_of_a_list_span_all_its_lines() -> None:
    assert elements([b"A, b\t", b"", b"C"]) == {b"a", b"b", b"", b"c"}


def test_1_the_job_sends_end_to_end_fields_only() -> None:
    fields = [
        (b"A", b"1"),
        (b"Connection", b"X-Gone"),
        (b"x-gone", b"2"),
        (b"Transfer-Encoding", b"chunked"),
    ]
    assert end_to_end([*fields, (b"a", b"3")]) == [(b"A", b"1"), (b"a", b"3")]


def test_lines_are_removed_by_name() -> None:
    block = b"A: 1\r\nb: 2\r\nC: 3\r\n"
    assert without(block, frozenset()) is block
    assert without(block, frozenset({b"b"})) == b"A: 1\r\nC: 3\r\n"
    assert without(block, frozenset({b"a", b"c"})) == b"b: 2\r\n"


def test_the_look_up_is_written_once() -> None:
    """Of the proxy itself: the simulator and the commands do not share its code."""
    package = Path(proxy.__file__).parent
    look_up = re.compile(r"for (\w+), \w+ in .*\bif \1\.lower\(\) == ")
    files = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if look_up.search(path.read_text(encoding="utf-8"))
    ]
    apart = {file for file in files if file.startswith(("simulator/", "client/"))}
    assert set(files) - apart == {"core/http/fields.py"}
